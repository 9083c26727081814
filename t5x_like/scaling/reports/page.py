"""A report as one HTML file that needs nothing else: no network, no scripts, figures inside as PNG."""

import base64
import html
import math
from collections.abc import Iterable
from pathlib import Path

from t5x_like.scaling.laws.table import format_cell
from t5x_like.scaling.planning import plan
from t5x_like.scaling.reports import figures as report_figures
from t5x_like.scaling.reports.report import Report

FEW = 0.02  # a smaller share of starts in the best basin certifies nothing

STYLE = """
:root{color-scheme:light dark;--ink:#1e293b;--paper:#fff;--soft:#64748b;--line:#e2e8f0;--good:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--paper:#0f172a;--soft:#94a3b8;--line:#334155;--good:#4ade80;
--bad:#f87171}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem;max-width:58rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .3rem;border-top:1px solid var(--line);padding-top:1rem}
p,li{margin:.3rem 0}ul{padding-left:1.2rem}.soft{color:var(--soft);font-size:.9rem}.good{color:var(--good)}
.bad{color:var(--bad)}img{width:100%;height:auto;background:#fff;border-radius:6px;display:block}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
.tall{max-height:34rem;overflow:auto}
th,td{padding:.25rem .7rem .25rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}td.words{text-align:left;white-space:normal;min-width:12rem}
tr.dropped{color:var(--soft)}
"""


def write(report: Report, path, png: bool = False) -> list[Path]:
    """Writes the page, and with `png` the figures beside it as NAME_FIGURE.png; returns the files written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn, absent = figures(report)
    path.write_text(page(report, drawn, absent), encoding="utf-8")
    pictures = {path.with_name(f"{path.stem}_{name}.png"): data for name, data in drawn.items()} if png else {}
    for beside, data in pictures.items():
        beside.write_bytes(data)
    return [path, *pictures]


def figures(report: Report) -> tuple[dict[str, bytes], dict[str, str]]:
    """(PNG files by name, why the others are left out)."""
    drawn, absent = {}, {}
    for name, (_, _, draw) in report_figures.EVERY.items():
        try:
            drawn[name] = report_figures.png(draw, report)
        except report_figures.Absent as reason:
            absent[name] = str(reason)
    return drawn, absent


def page(report: Report, drawn: dict[str, bytes], absent: dict[str, str]) -> str:
    """The HTML text."""
    law = report.found.law
    parts = [headline(report), parameters(report)]
    for name, (title, caption, _) in report_figures.EVERY.items():
        shown = (
            picture(title, caption, drawn[name])
            if name in drawn
            else f'<p class="soft">Left out: {safe(absent[name])}</p>'
        )
        parts.append(section(name, title, shown + (settled(report) if name == "forecasts" else "")))
    parts += [runs(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scaling law report: {safe(law.name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def safe(value: object) -> str:
    return html.escape(str(value))


def section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{safe(title)}</h2>{content}</section>\n'


def picture(title: str, caption: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    return f'<p class="soft">{safe(caption)}</p><img alt="{safe(title)}" src="data:image/png;base64,{source}">'


def headline(report: Report) -> str:
    """The law, the rows, the certificate, and what speaks for and against it."""
    found = report.found
    items = [
        f"{found.rows} of {len(report.every)} rows used, fitted by {safe(found.objective.name)}",
        *(f'<span class="{kind}">{safe(text)}</span>' for kind, text in verdicts(report)),
    ]
    source = f" ({safe(found.law.source)})" if found.law.source else ""
    return (
        f'<section id="headline"><h1>Scaling law: {safe(found.law.name)}</h1>'
        f"<p>{safe(found.law.equation)}{source}</p><ul>{''.join(f'<li>{each}</li>' for each in items)}</ul></section>\n"
    )


def verdicts(report: Report) -> Iterable[tuple[str, str]]:
    """(good, bad or soft; sentence) in order of weight."""
    found, sure = report.found, report.found.certificate
    enough = sure.share >= FEW or sure.starts == 1
    yield (
        "good" if enough else "bad",
        f"Certificate: {sure.share:.1%} of {sure.starts} starts end in the best basin"
        + ("" if enough else ", too few to be sure of it"),
    )
    unsure = [name for name, each in found.parameters.items() if not each.identified]
    yield (
        ("bad", f"Not identified by these runs: {', '.join(unsure)}")
        if unsure
        else (
            "good",
            "Every parameter is identified by these runs",
        )
    )
    yield ("soft" if report.future.folds else "bad"), f"Leave-future-out: {report.future}"
    scatter = f"{found.noise:.2%} of the target" if found.law.log_target else f"{found.noise:.3g} in the target's unit"
    yield "soft", f"Scatter of a single run around the law: {scatter}"
    a = plan.exponent(found)
    if a is not None and not unsure:
        yield (
            "soft",
            f"Compute-optimal size grows as C^{a.value:.3f} ({found.level:.0%} interval {a.low:.3f} to {a.high:.3f})",
        )


def parameters(report: Report) -> str:
    """Values, standard errors and intervals; words where there is no number to trust."""
    found = report.found
    head = ("parameter", "value", "std. error", f"{100 * found.level:g}% interval", "identified")
    rows = [
        (name, f"{x.value:.5g}", f"{x.standard_error:.2g}", f"{x.low:.5g} to {x.high:.5g}", "yes")
        if x.identified
        else (name, "not identified", "", "", f"no: {x.why}")
        for name, x in found.parameters.items()
    ]
    body = "".join(
        "<tr>" + "".join(f"<td>{safe(each)}</td>" for each in row[:-1]) + f'<td class="words">{safe(row[-1])}</td></tr>'
        for row in rows
    )
    condition = f"condition of the curvature {found.identification.condition:.2g}"
    note = f"Intervals of {len(found.draws)} bootstrap refits ({found.bootstrap}); {condition}."
    return section("parameters", "Parameters", f'<p class="soft">{safe(note)}</p>{grid(head, body)}')


def settled(report: Report) -> str:
    """Forecasts in words, numbered as in the figure."""
    lines = []
    for each in report.outcomes:
        made = each.forecast
        at = ", ".join(f"{name} {value:.4g}" for name, value in made.at.items())
        text = (
            each.verdict
            if each.settled
            else f"forecast {made.value:.5g} ({made.low:.5g} to {made.high:.5g}). {each.verdict}"
        )
        also = "; the law of this page was fitted to that run too" if each.fitted else ""
        lines.append(f"<li>{safe(f'{at}: {text}{also}')}</li>")
    return f"<ol>{''.join(lines)}</ol>" if lines else ""


def runs(report: Report) -> str:
    """Every row of the table, what the law says of it, and the rule that dropped it."""
    found, every, used = report.found, report.every, report.used
    named = [name for name in ("n_params", "tokens", "flops_6nd") if name in every]
    names = list(dict.fromkeys((*named, *found.law.inputs, found.law.target)))
    fitted = dict(zip(used.row_indices.tolist(), found.predict(used).value.tolist(), strict=True))
    body = []
    for i in range(len(every)):
        values = [short(every[name][i]) for name in names] + [short(fitted.get(i, math.nan))]
        fate = "used" if i in fitted else f"dropped: {used.fates.get(i, 'by no rule known')}"
        cells = "".join(f"<td>{safe(value)}</td>" for value in values)
        kind = "" if i in fitted else ' class="dropped"'
        body.append(f'<tr{kind}><td>{safe(every.labels([i]))}</td>{cells}<td class="words">{safe(fate)}</td></tr>')
    steps = "".join(f"<li>{safe(step)}</li>" for step in used.steps) or "<li>nothing was dropped or derived</li>"
    table = grid(("run", *map(report_figures.label, names), "fitted", "fate"), "".join(body), "wide tall")
    return section("runs", "Runs", f"<p>Steps, in order:</p><ul>{steps}</ul>{table}")


def grid(head: Iterable[str], body: str, kind: str = "wide") -> str:
    first = "".join(f"<th>{safe(each)}</th>" for each in head)
    return f'<div class="{kind}"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def short(value: float | str) -> str:
    """Four digits, words as they are."""
    value = getattr(value, "item", lambda: value)()
    return format_cell(value) if isinstance(value, str) or math.isnan(value) else f"{value:.4g}"
