"""The command that writes a report."""

from t5x_like.cli import main
from t5x_like.scaling.laws import laws
from tests.scaling.laws import planted

QUICK = ["--starts=32", "--bootstraps=32"]


def test_report_writes_the_page_and_its_figures(tmp_path, capsys):
    planted.table(laws.LOSS_VS_COMPUTE, 12).write(tmp_path / "runs.csv")
    out = tmp_path / "page.html"
    argv = [
        "report",
        str(tmp_path / "runs.csv"),
        "--law=loss_vs_compute",
        f"--out={out}",
        "--png",
        "--drop=highest_loss=2",
    ]
    assert main.main([*argv, *QUICK]) == 0
    assert "dropped: highest_loss=2" in out.read_text()
    printed = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert set(printed) == {str(path) for path in tmp_path.glob("page*")}
    assert len(printed) > 1


def test_an_output_that_is_not_html_is_rejected(tmp_path, capsys):
    assert main.main(["report", str(tmp_path / "runs.csv"), f"--out={tmp_path / 'report.pdf'}"]) == 2
    assert "must end in .html" in capsys.readouterr().err
