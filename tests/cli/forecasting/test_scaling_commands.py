"""The commands of scaling laws, from another project's table to a verified forecast."""

import json

import pytest

from t5x_like.cli import main
from t5x_like.scaling.laws import laws
from t5x_like.scaling.laws.table import Table
from tests.scaling.laws import planted

COLUMNS = "--columns=n_params=Model Size,flops_6nd=Training FLOP,loss=loss"
QUICK = ["--starts=64", "--bootstraps=64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs.csv, with another project's column names, and fit.json fitted to it."""
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


def run_refused(capsys, *argv) -> str:
    assert main.main([str(each) for each in argv]) == 2
    return capsys.readouterr().err


def test_fit_prints_the_rows_used_and_the_certificate(folder, capsys):
    out = run(capsys, "fit", folder / "runs.csv", COLUMNS, "--drop=highest_loss=5", *QUICK)
    assert "91 used" in out and "highest_loss=5: 5 rows" in out
    assert "tokens = flops_6nd / (6 n_params)" in out
    assert "starts end in the best basin" in out and "error on held-out larger runs" in out
    facts = json.loads(run(capsys, "fit", folder / "runs.csv", COLUMNS, "--json", *QUICK))
    alpha = facts["chinchilla"]["parameters"]["alpha"]
    assert alpha["low"] < 0.348 < alpha["high"]


def test_a_plan_from_a_fit_or_a_paper(folder, capsys):
    for source in ([folder / "fit.json"], ["--preset=besiroglu"]):
        cost = ["--flops_per_second=1e15", "--cost_per_hour=2"]
        plan = json.loads(run(capsys, "plan", *source, "--flops=1e21", "--json", *cost))
        assert 6 * plan["n_params"]["value"] * plan["tokens"]["value"] == pytest.approx(1e21)
        assert plan["hours"] == pytest.approx(1e21 / 1e15 / 3600)
        assert plan["cost"] == pytest.approx(2 * plan["hours"])
        assert "LAYERS" in plan["shape"]
    assert "95%" in run(capsys, "plan", folder / "fit.json", "--flops=1e21")


def test_a_forecast_is_registered_and_verified(folder, capsys):
    out = run(capsys, "predict", folder / "fit.json", "--at=n_params=7e10,flops_6nd=5.88e23", "--json")
    predicted = json.loads(out)
    assert predicted["tokens"] == pytest.approx(1.4e12)
    path = folder / "forecast.json"
    run(capsys, "register", folder / "fit.json", "--at=n_params=7e10,tokens=1.4e12", f"--out={path}")
    verified = run(capsys, "verify", path, f"--actual={predicted['loss']}", "--started=2999-01-01")
    assert "error -0%" in verified or "error +0%" in verified
    assert "inside the 95% interval" in verified
    (folder / "done.csv").write_text("run_id,started,loss\nbig,2999-01-01T00:00:00,9.5\n")
    assert "OUTSIDE" in run(capsys, "verify", path, f"--table={folder / 'done.csv'}", "--run_id=big")
    assert "made after the start" in run_refused(capsys, "verify", path, "--actual=2", "--started=1999-01-01")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "{}/runs.csv"], "no column 'n_params' (it has Model Size, Training FLOP, loss)"),
        (["fit", "{}/none.csv"], "does not exist"),
        (["fit", "{}/runs.csv", "--law=newton"], "--law=newton is unknown; use one of chinchilla"),
        (["fit", "{}/runs.csv", "--columns=n_params"], "maps to nothing"),
        (["fit", "{}/runs.csv", COLUMNS, "--drop=best"], "must look like highest_loss=5"),
        (["plan", "--flops=1e21"], "give one of them"),
        (["plan", "--preset=bacon", "--flops=1e21"], "use one of hoffmann"),
        (["plan", "--preset=kaplan", "--flops=1e21", "--cost_per_hour=3"], "needs --flops_per_second"),
        (["plan", "--preset=kaplan", "--flops=-1"], "--flops: -1 is not above 0"),
        (["fit", "{}/runs.csv", COLUMNS, "--drop=n_params<1"], "drops none of"),
        (["predict", "{}/fit.json", "--at=tokens=nan"], "is not a list of numbers"),
        (["predict", "{}/fit.json", "--at=n_params=7e10"], "--at names no tokens"),
        (["predict", "{}/runs.csv", "--at=7e10"], "is not a list of numbers"),
        (["predict", "{}/fit.json", "--at=tokens=1, tokens =2"], "names tokens twice, as 1.0 and 2.0; keep one"),
        (["fit", "{}/runs.csv", COLUMNS, "--columns=loss=x"], "names loss twice, as loss and x; keep one"),
        (["fit", "{}/runs.csv", COLUMNS, "--law=shape", "--inputs=loss,n_params"], "shape is over one column"),
        (
            ["fit", "{}/runs.csv", COLUMNS, "--law=shape", "--out={}/x.json"],
            "--law=shape fits no law to write",
        ),
        (["fit", "{}/runs.csv", COLUMNS, "--compare", "chinchilla", "sigmoid"], "--compare needs laws of one target"),
        (["verify", "{}/fit.json", "--actual=2", "--started=2026-01-01"], "is not a forecast"),
    ],
)
def test_invalid_flags_are_rejected_by_name(folder, capsys, argv, message):
    error = run_refused(capsys, *(each.replace("{}", str(folder)) for each in argv))
    assert message in error, error


def test_columns_may_be_repeated_and_inputs_have_blanks(folder, capsys):
    parts = ["--columns=n_params=Model Size", "--columns=flops_6nd=Training FLOP"]
    fitting = ["--inputs=n_params, tokens", "--json", *QUICK]
    assert run(capsys, "fit", folder / "runs.csv", *parts, *fitting) == run(
        capsys, "fit", folder / "runs.csv", COLUMNS, *fitting
    )


@pytest.mark.parametrize(
    ("target", "shape"), [("accuracy", "falls with scale (inverse scaling)"), ("loss", "falls with scale\n")]
)
def test_shape_uses_finished_rows(tmp_path, capsys, target, shape):
    """Failed and running rows, and one without a score, would change the trend; they are named."""
    lines = [f"r{i},{10**i},{1 / i},finished" for i in range(1, 9)]
    lines += [f"f{i},{10**i},9,{status}" for i, status in ((9, "failed"), (10, "running"))] + ["gap,1e11,n/a,finished"]
    (tmp_path / "runs.csv").write_text("\n".join([f"run_id,n_params,{target},status", *lines]) + "\n")
    out = run(capsys, "fit", tmp_path / "runs.csv", "--law=shape", f"--target={target}")
    assert f"{target} over n_params, 8 rows: {shape}" in out
    assert "failed or running: 2 rows" in out and "f9, f10" in out
    assert f"no {target}: 1 rows" in out and ": gap)" in out
    rising = run(capsys, "fit", tmp_path / "runs.csv", "--law=shape", f"--target={target}", f"--inputs={target}")
    assert "8 rows: rises with scale" in rising
    facts = json.loads(run(capsys, "fit", tmp_path / "runs.csv", "--law=shape", f"--target={target}", "--json"))
    assert (facts["rows"], facts["shape"]) == (8, shape.strip())
    assert facts["tau"] == pytest.approx(-1)
    assert any("f9, f10" in step for step in facts["steps"])
