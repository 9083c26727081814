"""Reports: the page stands alone, says what the fit says, and leaves nothing out in silence."""

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
    """Tags that were opened, and whether each was closed in order."""

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


def parsed(text: str) -> Parsed:
    found = Parsed()
    found.feed(text)
    found.close()
    assert not found.open
    return found


def isoflop_table():
    """4 budgets of 5 sizes, the last run failed, and a run named like a script."""
    c, n = np.meshgrid(np.geomspace(1e18, 1e20, 4), np.geomspace(0.2, 5, 5), indexing="ij")
    n = (n * np.sqrt(c / 120)).ravel()
    columns = {"n_params": n, "tokens": c.ravel() / (6 * n)}
    table = planted.table(laws.CHINCHILLA, 20, columns=columns)
    names = [EVIL, *(f"run{i}" for i in range(1, 20))]
    table = table.with_column("run_id", names).with_column("status", ["finished"] * 19 + ["failed"])
    return table.with_column("started", ["2030-01-01T00:00:00"] * 20)


@pytest.fixture(scope="module")
def made():
    """A report without the largest budget, one run of which was forecast; another forecast is open."""
    table = isoflop_table()
    first = report.make(table, laws.CHINCHILLA, starts=64, bootstraps=64)
    at = {name: float(table[name][16]) for name in ("n_params", "tokens")}
    said = [forecast.forecast(first.found, at), forecast.forecast(first.found, {"n_params": 1e12, "tokens": 1e13})]
    return report.make(table, laws.CHINCHILLA, ("highest_loss=1",), said, starts=64, bootstraps=64)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    return page.write(made, tmp_path_factory.mktemp("report") / "report.html", png=True)


def test_the_page_is_whole_and_alone(written):
    text = written[0].read_text()
    found = parsed(text)
    assert {"headline", "parameters", "runs", *figures.EVERY} == set(found.ids)
    assert not re.search(r"https?://|<link|url\(|@import", text)
    assert set(re.findall(r'src="(.{22})', text)) == {"data:image/png;base64,"}


def test_what_comes_from_the_table_is_escaped(written):
    text = written[0].read_text()
    assert "script" not in parsed(text).seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_every_figure_is_drawn_and_written_beside_the_page(written):
    assert [path.stem for path in written[1:]] == [f"report_{name}" for name in figures.EVERY]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])


def test_parameters_are_those_of_the_fit(made, written):
    shown = page.parameters(made)
    assert shown in written[0].read_text()
    for name, each in made.found.parameters.items():
        row = re.search(rf"<tr><td>{name}</td><td>(.*?)</td>.*?</tr>", shown)
        assert row.group(1) == (f"{each.value:.5g}" if each.identified else "not identified")
        assert each.identified or each.why in row.group(0)


def test_every_row_has_its_fate(made):
    fates = made.used.fates
    highest = int(made.every["loss"].argmax())
    assert fates == {19: "failed or running", highest: "highest_loss=1"}
    assert sorted([*fates, *made.used.row_indices]) == list(range(20))
    assert len(made.found.residuals) == len(made.used)
    shown = page.runs(made)
    assert shown.count('<td class="words">used</td>') == 18
    assert "dropped: highest_loss=1" in shown and "dropped: failed or running" in shown


def test_forecasts_are_settled_by_their_run_or_open(made):
    settled, waiting = made.outcomes
    assert settled.actual == made.every["loss"][16] and "error" in settled.verdict
    assert waiting.actual is None and waiting.verdict.startswith("open")
    assert settled.settled and not waiting.settled
    assert settled.fitted == (16 in made.used.row_indices)
    assert page.settled(made).count(f"forecast {settled.forecast.value:.5g}") == 1


def test_a_forecast_made_after_the_start_settles_nothing(made):
    late = made.every.with_column("started", ["2001-01-01T00:00:00"] * 20)
    (found,) = report.outcome(made.outcomes[0].forecast, late)
    assert found.verdict.startswith("not settled")


def test_what_the_table_cannot_give_is_left_out_with_a_sentence():
    table = planted.table(laws.LOSS_VS_COMPUTE, 12)
    text = bare(report.make(table, laws.LOSS_VS_COMPUTE, starts=32, bootstraps=32))
    found = parsed(text)
    assert set(figures.EVERY) <= set(found.ids)
    assert text.count("Left out: ") == 3
    for sentence in ("which a parabola needs", "not one of N and D alone", "No forecast was given"):
        assert sentence in text


def bare(made) -> str:
    return page.page(made, *page.figures(made))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no headless Chromium here")
def test_a_browser_shows_it(written, tmp_path):
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900", f"--screenshot={shot}"]
    subprocess.run(["chromium", *flags, written[0].as_uri()], check=True, capture_output=True, timeout=60)
    assert shot.read_bytes().startswith(b"\x89PNG")
