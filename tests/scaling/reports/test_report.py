"""Reports: the page is self-contained, shows the fit's numbers, and names every omission."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest

from t5x_like.scaling.laws import laws
from t5x_like.scaling.planning import forecast
from t5x_like.scaling.reports import figures, page, report
from tests.scaling.laws import planted

VOID = {"meta", "img"}
EVIL = "<script>alert(1)</script>"


class Parsed(html.parser.HTMLParser):
    """Parses HTML and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse_page(text: str) -> Parsed:
    parser = Parsed()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def isoflop_table():
    """Returns 4 budgets of 5 sizes; the last run failed, and the first is named like a script."""
    c, n = np.meshgrid(np.geomspace(1e18, 1e20, 4), np.geomspace(0.2, 5, 5), indexing="ij")
    n = (n * np.sqrt(c / 120)).ravel()
    columns = {"n_params": n, "tokens": c.ravel() / (6 * n)}
    table = planted.table(laws.CHINCHILLA, 20, columns=columns)
    names = [EVIL, *(f"run{i}" for i in range(1, 20))]
    table = table.with_column("run_id", names).with_column("status", ["finished"] * 19 + ["failed"])
    return table.with_column("started", ["2030-01-01T00:00:00"] * 20)


@pytest.fixture(scope="module")
def result():
    """A report with two forecasts: one of a run in the table, and an open one."""
    table = isoflop_table()
    first = report.build(table, laws.CHINCHILLA, starts=64, bootstraps=64)
    at = {name: float(table[name][16]) for name in ("n_params", "tokens")}
    forecasts = [
        forecast.make_forecast(first.fit, at),
        forecast.make_forecast(first.fit, {"n_params": 1e12, "tokens": 1e13}),
    ]
    return report.build(table, laws.CHINCHILLA, ("highest_loss=1",), forecasts, starts=64, bootstraps=64)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    return page.write(result, tmp_path_factory.mktemp("report") / "report.html", png=True)


def test_the_page_is_self_contained(written):
    text = written[0].read_text()
    parser = parse_page(text)
    assert {"headline", "parameters", "runs", *figures.FIGURES} == set(parser.ids)
    assert not re.search(r"https?://|<link|url\(|@import", text)
    assert set(re.findall(r'src="(.{22})', text)) == {"data:image/png;base64,"}


def test_cells_of_the_table_are_escaped(written):
    text = written[0].read_text()
    assert "script" not in parse_page(text).seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_every_figure_is_written_next_to_the_page(written):
    assert [path.stem for path in written[1:]] == [f"report_{name}" for name in figures.FIGURES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])


def test_parameters_match_the_fit(result, written):
    shown = page.parameters_section(result)
    assert shown in written[0].read_text()
    for name, each in result.fit.parameters.items():
        row = re.search(rf"<tr><td>{name}</td><td>(.*?)</td>.*?</tr>", shown)
        assert row.group(1) == (f"{each.value:.5g}" if each.identified else "not identified")
        assert each.identified or each.why in row.group(0)


def test_every_dropped_row_has_its_rule(result):
    rules = result.used.drop_rules
    highest = int(result.source["loss"].argmax())
    assert rules == {19: "failed or running", highest: "highest_loss=1"}
    assert sorted([*rules, *result.used.row_indices]) == list(range(20))
    assert len(result.fit.residuals) == len(result.used)
    shown = page.runs_section(result)
    assert shown.count('<td class="words">used</td>') == 18
    assert "dropped: highest_loss=1" in shown and "dropped: failed or running" in shown


def test_forecasts_are_compared_with_their_run_or_open(result):
    done, waiting = result.outcomes
    assert done.actual == result.source["loss"][16] and "error" in done.verdict
    assert waiting.actual is None and waiting.verdict.startswith("open")
    assert done.compared and not waiting.compared
    assert done.fitted == (16 in result.used.row_indices)
    assert page.forecast_list(result).count(f"forecast {done.forecast.value:.5g}") == 1


def test_a_forecast_made_after_the_start_is_not_compared(result):
    late = result.source.with_column("started", ["2001-01-01T00:00:00"] * 20)
    (outcome,) = report.find_outcomes(result.outcomes[0].forecast, late)
    assert outcome.verdict.startswith("not compared")


def test_missing_figures_are_explained():
    table = planted.table(laws.LOSS_VS_COMPUTE, 12)
    text = render_page(report.build(table, laws.LOSS_VS_COMPUTE, starts=32, bootstraps=32))
    parser = parse_page(text)
    assert set(figures.FIGURES) <= set(parser.ids)
    assert text.count("Left out: ") == 3
    for sentence in ("which a parabola needs", "not one of N and D alone", "No forecast was given"):
        assert sentence in text


def render_page(result) -> str:
    return page.render_page(result, *page.render_figures(result))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no headless Chromium here")
def test_a_browser_renders_the_page(written, tmp_path):
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900", f"--screenshot={shot}"]
    subprocess.run(["chromium", *flags, written[0].as_uri()], check=True, capture_output=True, timeout=60)
    assert shot.read_bytes().startswith(b"\x89PNG")
