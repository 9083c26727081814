"""Renders a report as one self-contained HTML file: no network, no scripts, figures embedded as PNG."""

import base64
import html
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from t5x_like.scaling.laws.table import format_cell
from t5x_like.scaling.planning import plan
from t5x_like.scaling.reports.figures import FIGURES, MissingData, axis_label, render_png
from t5x_like.scaling.reports.report import Report
from t5x_like.types import PathLike

MIN_BASIN_SHARE = 0.02  # a smaller share of starts in the best basin is no certificate

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


def write(report: Report, path: PathLike, png: bool = False) -> list[Path]:
    """Writes the page, and with `png` also the figures as NAME_FIGURE.png; returns the files written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images, omissions = render_figures(report)
    path.write_text(render_page(report, images, omissions), encoding="utf-8")
    pictures = {path.with_name(f"{path.stem}_{name}.png"): data for name, data in images.items()} if png else {}
    for picture, data in pictures.items():
        picture.write_bytes(data)
    return [path, *pictures]


def render_figures(report: Report) -> tuple[dict[str, bytes], dict[str, str]]:
    """Returns (PNG files by name, reasons why the other figures are left out)."""
    images, omissions = {}, {}
    for name, (_, _, draw) in FIGURES.items():
        try:
            images[name] = render_png(draw, report)
        except MissingData as reason:
            omissions[name] = str(reason)
    return images, omissions


def render_page(report: Report, images: Mapping[str, bytes], omissions: Mapping[str, str]) -> str:
    """Returns the HTML text."""
    law = report.fit.law
    parts = [headline(report), parameters_section(report)]
    for name, (title, caption, _) in FIGURES.items():
        content = (
            figure_tag(title, caption, images[name])
            if name in images
            else f'<p class="soft">Left out: {escape(omissions[name])}</p>'
        )
        parts.append(section(name, title, content + (forecast_list(report) if name == "forecasts" else "")))
    parts += [runs_section(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scaling law report: {escape(law.name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def escape(value: object) -> str:
    """Escapes a value for HTML."""
    return html.escape(str(value))


def section(name: str, title: str, content: str) -> str:
    """Returns a section with a heading."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>\n'


def figure_tag(title: str, caption: str, data: bytes) -> str:
    """Returns a caption and an embedded PNG image."""
    source = base64.b64encode(data).decode()
    return f'<p class="soft">{escape(caption)}</p><img alt="{escape(title)}" src="data:image/png;base64,{source}">'


def headline(report: Report) -> str:
    """Returns the headline: the law, the rows, and the verdicts."""
    fit = report.fit
    items = [
        f"{fit.rows} of {len(report.source)} rows used, fitted by {escape(fit.objective.name)}",
        *(f'<span class="{kind}">{escape(text)}</span>' for kind, text in list_verdicts(report)),
    ]
    source = f" ({escape(fit.law.source)})" if fit.law.source else ""
    return (
        f'<section id="headline"><h1>Scaling law: {escape(fit.law.name)}</h1>'
        f"<p>{escape(fit.law.equation)}{source}</p><ul>{''.join(f'<li>{each}</li>' for each in items)}</ul></section>\n"
    )


def list_verdicts(report: Report) -> Iterable[tuple[str, str]]:
    """Yields (good, bad or soft; sentence) by importance."""
    fit, certificate = report.fit, report.fit.certificate
    enough = certificate.share >= MIN_BASIN_SHARE or certificate.starts == 1
    yield (
        "good" if enough else "bad",
        f"Certificate: {certificate.share:.1%} of {certificate.starts} starts end in the best basin"
        + ("" if enough else ", too few for confidence"),
    )
    unidentified = [name for name, each in fit.parameters.items() if not each.identified]
    if unidentified:
        yield "bad", f"Not identified by these runs: {', '.join(unidentified)}"
    else:
        yield "good", "Every parameter is identified by these runs"
    yield ("soft" if report.backtest.folds else "bad"), f"Leave-future-out: {report.backtest}"
    scatter = f"{fit.noise:.2%} of the target" if fit.law.log_target else f"{fit.noise:.3g} in the target's unit"
    yield "soft", f"Scatter of a single run around the law: {scatter}"
    a = plan.size_exponent(fit)
    if a is not None and not unidentified:
        yield (
            "soft",
            f"Compute-optimal size grows as C^{a.value:.3f} ({fit.level:.0%} interval {a.low:.3f} to {a.high:.3f})",
        )


def parameters_section(report: Report) -> str:
    """Returns the table of values, standard errors and intervals; a parameter that is not identified has a reason instead."""
    fit = report.fit
    head = ("parameter", "value", "std. error", f"{100 * fit.level:g}% interval", "identified")
    rows = [
        (name, f"{x.value:.5g}", f"{x.standard_error:.2g}", f"{x.low:.5g} to {x.high:.5g}", "yes")
        if x.identified
        else (name, "not identified", "", "", f"no: {x.why}")
        for name, x in fit.parameters.items()
    ]
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(each)}</td>" for each in row[:-1])
        + f'<td class="words">{escape(row[-1])}</td></tr>'
        for row in rows
    )
    condition = f"condition of the curvature {fit.identification.condition:.2g}"
    note = f"Intervals of {len(fit.draws)} bootstrap refits ({fit.bootstrap}); {condition}."
    return section("parameters", "Parameters", f'<p class="soft">{escape(note)}</p>{html_table(head, body)}')


def forecast_list(report: Report) -> str:
    """Returns the forecasts as text, numbered as in the figure."""
    lines = []
    for each in report.outcomes:
        it = each.forecast
        at = ", ".join(f"{name} {value:.4g}" for name, value in it.at.items())
        text = (
            each.verdict
            if each.compared
            else f"forecast {it.value:.5g} ({it.low:.5g} to {it.high:.5g}). {each.verdict}"
        )
        also = "; the law of this page was fitted to that run too" if each.fitted else ""
        lines.append(f"<li>{escape(f'{at}: {text}{also}')}</li>")
    return f"<ol>{''.join(lines)}</ol>" if lines else ""


def runs_section(report: Report) -> str:
    """Returns the table of all rows with the law's predictions, and the rule that dropped each unused row."""
    fit, source, used = report.fit, report.source, report.used
    counts = [name for name in ("n_params", "tokens", "flops_6nd") if name in source]
    names = list(dict.fromkeys((*counts, *fit.law.inputs, fit.law.target)))
    predicted = dict(zip(used.row_indices.tolist(), fit.predict(used).value.tolist(), strict=True))
    body = []
    for i in range(len(source)):
        values = [format_value(source[name][i]) for name in names] + [format_value(predicted.get(i, math.nan))]
        usage = "used" if i in predicted else f"dropped: {used.drop_rules.get(i, 'by an unknown rule')}"
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        kind = "" if i in predicted else ' class="dropped"'
        body.append(
            f'<tr{kind}><td>{escape(source.labels([i]))}</td>{cells}<td class="words">{escape(usage)}</td></tr>'
        )
    steps = "".join(f"<li>{escape(step)}</li>" for step in used.steps) or "<li>nothing was dropped or derived</li>"
    table = html_table(("run", *map(axis_label, names), "fitted", "used or dropped"), "".join(body), "wide tall")
    return section("runs", "Runs", f"<p>Steps, in order:</p><ul>{steps}</ul>{table}")


def html_table(head: Iterable[str], body: str, kind: str = "wide") -> str:
    """Returns a table with a header; `kind` are the CSS classes around it."""
    first = "".join(f"<th>{escape(each)}</th>" for each in head)
    return f'<div class="{kind}"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def format_value(value: float | str) -> str:
    """Formats a number to four digits; strings stay unchanged."""
    value = getattr(value, "item", lambda: value)()
    return format_cell(value) if isinstance(value, str) or math.isnan(value) else f"{value:.4g}"
