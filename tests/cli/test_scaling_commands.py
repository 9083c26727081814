"""The commands of scaling laws, from a foreign table to a settled forecast."""

import json

import pytest

from t5x_like.cli import main
from t5x_like.scaling import laws
from t5x_like.scaling.table import Table
from tests.scaling import planted

COLUMNS = "--columns=n_params=Model Size,flops_6nd=Training FLOP,loss=loss"
QUICK = ["--starts=64", "--bootstraps=64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs.csv as others publish theirs, and fit.json made of it."""
    folder = tmp_path_factory.mktemp("scaling")
    rows = planted.table(laws.CHINCHILLA, 96)
    theirs = {"Model Size": rows["n_params"], "Training FLOP": rows["flops_6nd"], "loss": rows["loss"]}
    Table(theirs).write(folder / "runs.csv")
    assert main.main(["fit", str(folder / "runs.csv"), COLUMNS, f"--out={folder / 'fit.json'}", *QUICK]) == 0
    return folder


def run(capsys, *argv) -> str:
    capsys.readouterr()
    assert main.main([str(each) for each in argv]) == 0
    return capsys.readouterr().out


def refused(capsys, *argv) -> str:
    assert main.main([str(each) for each in argv]) == 2
    return capsys.readouterr().err


def test_fit_says_what_it_used_and_how_sure_it_is(folder, capsys):
    out = run(capsys, "fit", folder / "runs.csv", COLUMNS, "--drop=highest_loss=5", *QUICK)
    assert "91 used" in out and "highest_loss=5: 5 rows" in out
    assert "tokens = flops_6nd / (6 n_params)" in out
    assert "starts end in the best basin" in out and "error on later runs" in out
    found = json.loads(run(capsys, "fit", folder / "runs.csv", COLUMNS, "--json", *QUICK))
    alpha = found["chinchilla"]["parameters"]["alpha"]
    assert alpha["low"] < 0.348 < alpha["high"]


def test_a_plan_from_a_fit_or_a_paper(folder, capsys):
    for source in ([folder / "fit.json"], ["--preset=besiroglu"]):
        cost = ["--flops_per_second=1e15", "--cost_per_hour=2"]
        made = json.loads(run(capsys, "plan", *source, "--flops=1e21", "--json", *cost))
        assert 6 * made["n_params"]["value"] * made["tokens"]["value"] == pytest.approx(1e21)
        assert made["hours"] == pytest.approx(1e21 / 1e15 / 3600)
        assert made["cost"] == pytest.approx(2 * made["hours"])
        assert "LAYERS" in made["shape"]
    assert "95%" in run(capsys, "plan", folder / "fit.json", "--flops=1e21")


def test_a_forecast_is_registered_and_settled(folder, capsys):
    out = run(capsys, "predict", folder / "fit.json", "--at=n_params=7e10,flops_6nd=5.88e23", "--json")
    predicted = json.loads(out)
    assert predicted["tokens"] == pytest.approx(1.4e12)
    path = folder / "forecast.json"
    run(capsys, "register", folder / "fit.json", "--at=n_params=7e10,tokens=1.4e12", f"--out={path}")
    settled = run(capsys, "settle", path, f"--actual={predicted['loss']}", "--started=2999-01-01")
    assert "error -0%" in settled or "error +0%" in settled
    assert "inside the 95% interval" in settled
    (folder / "done.csv").write_text("run_id,started,loss\nbig,2999-01-01T00:00:00,9.5\n")
    assert "OUTSIDE" in run(capsys, "settle", path, f"--table={folder / 'done.csv'}", "--run_id=big")
    assert "made after the start" in refused(capsys, "settle", path, "--actual=2", "--started=1999-01-01")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "{}/runs.csv"], "no column 'n_params' (it has Model Size, Training FLOP, loss)"),
        (["fit", "{}/none.csv"], "is not there"),
        (["fit", "{}/runs.csv", "--law=newton"], "--law=newton is no law; take one of chinchilla"),
        (["fit", "{}/runs.csv", "--columns=n_params"], "maps to nothing"),
        (["fit", "{}/runs.csv", COLUMNS, "--drop=best"], "neither like highest_loss=5"),
        (["plan", "--flops=1e21"], "give one of them"),
        (["plan", "--preset=bacon", "--flops=1e21"], "take one of hoffmann"),
        (["plan", "--preset=kaplan", "--flops=1e21", "--cost_per_hour=3"], "needs --flops_per_second"),
        (["plan", "--preset=kaplan", "--flops=-1"], "flops=-1 is no positive number"),
        (["predict", "{}/fit.json", "--at=n_params=7e10"], "--at names no tokens"),
        (["predict", "{}/runs.csv", "--at=7e10"], "is no list of numbers"),
        (["settle", "{}/fit.json", "--actual=2", "--started=2026-01-01"], "is no forecast"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(folder, capsys, argv, message):
    error = refused(capsys, *(each.replace("{}", str(folder)) for each in argv))
    assert message in error, error
