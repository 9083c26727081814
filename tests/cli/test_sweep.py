"""Sweeps: a cell's identity is its configuration, finished cells are left alone, dead ones go on as if nothing had been."""

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t5x_like.cli import main
from t5x_like.cli.gin import runtime
from t5x_like.cli.sweeping import trial
from t5x_like.cli.sweeping.trials import Base
from t5x_like.scaling.laws import table
from t5x_like.scaling.studies import emergence
from t5x_like.scaling.sweeps import collect, sweep, trials

SWEEP = """
from __gin__ import dynamic_registration
from t5x_like.scaling.sweeps import designs
include 'sweeps/base.gin'
BASE = (
    'sizes/llama/tiny.gin', 'objectives/causal_lm.gin', 'optimizers/adamw.gin', 'runs/pretrain.gin'
)
SETTINGS = {
    'TASK': 'tiny', 'LAYERS': 1, 'LENGTH': 32, 'BATCH_SIZE': 8, 'WARMUP_STEPS': 1, 'schedules.cosine.final': 0.0,
    'token_cache.TokenCache.root': '%s', 'trainer.train.log_every': 1, 'trainer.train.eval_batches': 1,
    'trainer.train.checkpoint_every': 2,
}
RATES = (0.001, 0.01)
STEPS = 3
DESIGN = @designs.Grid()
designs.Grid.axes = {'LEARNING_RATE': %%RATES, 'STEPS': (%%STEPS,)}
"""


class InProcess:
    """Runs jobs here, one after the other, and counts them."""

    def __init__(self):
        self.ran = []

    def run(self, jobs, watch):
        for job in jobs:
            run_dirs = [flag.removeprefix("--cell=") for flag in job.command if flag.startswith("--cell=")]
            self.ran += [Path(run_dir).name for run_dir in run_dirs]
            trial.train(run_dirs)
            watch()


@pytest.fixture
def gin_file(tiny_root, tmp_path):
    path = tmp_path / "sweep.gin"
    path.write_text(SWEEP % tiny_root)
    return path


def resolved(gin_file, directory, *overrides) -> list[trials.Cell]:
    flags = [f"--gin.SWEEP_DIR={directory}", *overrides]
    what = runtime.parse([str(gin_file)], flags).configured("sweep.Sweep")()
    return sweep.resolved(what, Base(what.base, what.settings, Path(what.directory) / "cells"))


def ids(every) -> list[str]:
    return [cell.run_id for cell in every]


def losses(run_dir) -> list[tuple]:
    return [
        (record["step"], name, value)
        for record in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        for name, value in record.items()
        if name in ("loss", "eval/loss")
    ]


def test_a_cell_is_its_configuration_wherever_it_is(gin_file, tmp_path, monkeypatch):
    here = resolved(gin_file, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    elsewhere = resolved(gin_file, "elsewhere")
    assert ids(here) == ids(elsewhere) and len(set(ids(here))) == 2
    assert elsewhere[0].run_dir == tmp_path / "elsewhere" / "cells" / elsewhere[0].run_id
    more = resolved(gin_file, tmp_path / "here", "--gin.RATES=(0.01, 0.001, 0.02)")
    assert set(ids(here)) < set(ids(more))
    longer = resolved(gin_file, tmp_path / "here", "--gin.STEPS=4")
    assert not set(ids(here)) & set(ids(longer))


def test_finished_cells_are_left_alone(gin_file, tmp_path, capsys):
    every, executor = resolved(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)"), InProcess()
    assert sweep.run(every, executor)
    before = (every[0].run_dir / "metrics.jsonl").stat().st_mtime_ns
    more = resolved(gin_file, tmp_path / "s")
    assert sweep.run(more, executor)
    assert executor.ran == [every[0].run_id, *(cell.run_id for cell in more if cell.run_id != every[0].run_id)]
    assert (every[0].run_dir / "metrics.jsonl").stat().st_mtime_ns == before

    rows = sweep.write_table(more, tmp_path / "runs.csv").rows()
    assert rows == table.read(tmp_path / "runs.csv").rows()
    found = {row["run_id"]: row for row in rows}
    assert set(found) == set(ids(more))
    for cell in more:
        row, seen = found[cell.run_id], trials.progress(cell)
        assert (row["status"], row["loss"], row["decay"]) == ("finished", seen.eval_loss, 0.0)
        assert row["tokens"] == 3 * 8 * 32 and row["lr"] == cell.macros["LEARNING_RATE"]
        assert 6 * row["n_params"] * row["tokens"] == row["flops_6nd"] < row["flops_exact"]

    flags = ["sweep", f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, "--status"]) == 0
    assert "2 finished" in capsys.readouterr().out


def test_a_dry_run_spends_nothing(gin_file, tmp_path, capsys):
    flags = [f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}", "--dry_run"]
    assert main.main(["sweep", *flags, "--cost_per_hour=7200", "--flops_per_second=1e6"]) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "s").exists()
    row = resolved(gin_file, tmp_path / "s")[0].columns
    assert f"{row['flops_exact']:.3g}" in text and f"{row['flops_6nd']:.3g}" in text
    assert f"{row['flops_exact'] / 1e6 / 3600 * 7200:.2f}" in text


def test_what_failed_waits_for_retry(gin_file, tmp_path):
    every, executor = resolved(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)"), InProcess()
    every[0].prepare()
    trials.note(every[0].run_dir, outcome=trials.FAILED, error="out of memory")
    assert trials.progress(every[0]).error == "out of memory"
    assert not sweep.run(every, executor) and executor.ran == []
    assert sweep.run(every, executor, retry=True) and len(executor.ran) == 1


def test_cells_that_finish_at_once_count_as_finished(gin_file, tmp_path):
    class AtOnce:
        def run(self, jobs, watch):
            watch()
            for cell in every:
                trials.note(cell.run_dir, outcome=trials.FINISHED)

    every = resolved(gin_file, tmp_path / "s")
    assert sweep.run(every, AtOnce())


def test_a_cell_that_another_process_trains_is_not_trained_twice(gin_file, tmp_path):
    cell = resolved(gin_file, tmp_path / "s")[0]
    cell.prepare()
    with trials.locked(cell.run_dir) as free:
        assert free and trials.progress(cell).state == trials.RUNNING
        assert trial.train([str(cell.run_dir)]) == 0
        assert trials.attempts(cell.run_dir) == []
    assert trials.progress(cell).state == trials.WAITING


def test_cells_that_differ_in_rate_and_seed_can_be_packed(gin_file, tmp_path):
    every = resolved(gin_file, tmp_path / "s", "--gin.RATES=(0.001, 0.003, 0.01)")
    assert [len(group) for group in sweep.grouped(every, 2)] == [2, 1]
    other = resolved(gin_file, tmp_path / "s", "--gin.STEPS=4")
    assert [len(group) for group in sweep.grouped([*every, *other], 9)] == [3, 2]


def test_a_killed_cell_goes_on_as_if_nothing_had_been(gin_file, tmp_path):
    (one,) = resolved(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)", "--gin.STEPS=16")
    (same,) = resolved(gin_file, tmp_path / "t", "--gin.RATES=(0.01,)", "--gin.STEPS=16")
    one.prepare()
    command = sweep.job([one]).command
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        while process.poll() is None and trials.progress(one).step < 3:
            time.sleep(0.02)
        assert process.poll() is None, (tmp_path / "log.txt").read_text()
        assert trials.progress(one).state == trials.RUNNING
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = trials.progress(one)
    assert found.state == trials.STOPPED and found.step < 16
    assert sweep.run([one], InProcess()) and sweep.run([same], InProcess())
    assert len(trials.attempts(one.run_dir)) == 3
    assert losses(one.run_dir) == losses(same.run_dir)


@pytest.mark.parametrize("name", ["isoflop", "lr_transfer", "ladder", "ladder_gpu"])
def test_every_sweep_file_resolves_to_runs(name, tiny_root, tmp_path):
    corpus = ["--gin.CORPUS=/data/*.txt"] if name == "ladder_gpu" else []
    config = runtime.parse([f"sweeps/{name}.gin"], [f"--gin.SWEEP_DIR={tmp_path}", *corpus])
    what = config.configured("sweep.Sweep")()
    design = what.design.design(1e12) if name == "ladder" else what.design
    files = [file for file in what.base if not file.startswith("tasks/")]
    settings = {key: value for key, value in what.settings.items() if key not in ("TRAIN_FILES", "WHOLE_FILES")}
    settings |= {"TASK": "tiny", "VOCAB_SIZE": 384, "token_cache.TokenCache.root": str(tiny_root)}
    base = Base(files, settings, tmp_path)
    cell = base.cell(sweep.macros_of(next(iter(design.points())), what.recipe, base))
    assert cell.columns["decay"] == 0.0 and cell.columns["n_params"] > 0
    assert str(cell.run_dir) in cell.config


@pytest.mark.parametrize("flag", ["--status", "--lr_transfer", "--collect=runs.csv"])
def test_what_looks_at_a_ladder_does_not_size_it(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "run", lambda *args, **options: pytest.fail("a cell was trained"))
    flags = ["sweep", "--gin_file=sweeps/ladder.gin", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, flag]) == 2
    assert f"run it without {flag.partition('=')[0]} first" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def scored(directory, n: int, loss: float, lines: list[dict]) -> trials.Cell:
    """A cell that ended with these lines of metrics.jsonl, the last evaluation at this loss."""
    cell = trials.Cell(f"n{n}", directory / f"n{n}", "", {}, {"n_params": n, "steps": 2})
    cell.prepare()
    lines = [{"step": 1, "eval/loss": 9.0, "eval/accuracy": 0.0}, *lines, {"step": 2, "eval/loss": loss}]
    lines[-1] |= {"eval/accuracy": 1 / loss, "eval/sums/loss": loss, "eval/sums/accuracy": 0.5 / loss}
    (cell.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trials.note(cell.run_dir, outcome=trials.FINISHED)
    return cell


def test_laws_of_scores_read_a_sweeps_own_table(tmp_path, capsys):
    truth = {2**i * 1000: 4 - 0.3 * i for i in range(8)}
    shares = {n: 1 / (1 + math.exp(4 * (loss - 3))) for n, loss in truth.items()}

    def asked(step: int, share: float) -> dict:
        return {"step": step, "eval_tasks/sums/exact_match": 100 * share, "eval_tasks/sums/bleu": 100 * share}

    every = [scored(tmp_path / "cells", n, x, [asked(1, 0.0), asked(2, shares[n])]) for n, x in truth.items()]
    found = sweep.write_table(every, tmp_path / "runs.csv")
    assert found["accuracy"].tolist() == [1 / loss for loss in truth.values()]
    assert found["accuracy/sums"].tolist() == [0.5 / loss for loss in truth.values()]
    assert found["bleu/sums"].tolist() == [100 * share for share in shares.values()]
    curves = emergence.by_size(table.read(tmp_path / "runs.csv"), ("exact_match/sums", "accuracy", "loss/sums"))
    assert curves["n_params"].tolist() == list(truth) and curves["loss/sums"] == pytest.approx(list(truth.values()))
    assert curves["exact_match/sums"] == pytest.approx(list(shares.values()))

    runs = str(tmp_path / "runs.csv")
    assert main.main(["fit", runs, "--law=shape"]) == 0 and "accuracy over n_params" in capsys.readouterr().out
    columns = ["--target=exact_match/sums", "--inputs=loss/sums"]
    assert main.main(["fit", runs, "--law=sigmoid", *columns, "--bootstraps=20", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)["sigmoid"]["parameters"]
    assert fitted["k"]["value"] == pytest.approx(4, rel=1e-3)
    assert fitted["middle"]["value"] == pytest.approx(3, rel=1e-3)


def test_accuracy_of_answers_takes_the_place_of_that_of_tokens(tmp_path):
    lines = [{"step": 1, "eval_tasks/sums/accuracy": 50.0, "eval_tasks/sums/pass@2": 25.0}]
    row = collect.row(scored(tmp_path, 8, 2.0, lines))
    assert (row["accuracy/sums"], row["pass@2/sums"], row["accuracy"]) == (0.5, 0.25, 0.5)


def test_what_a_sweep_refuses_is_said_before_anything_runs(gin_file, tmp_path, capsys):
    flags = ["sweep", f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, "--gin.designs.Grid.axes={'WIDHT': (8,)}"]) == 2
    assert "did you mean WIDTH" in capsys.readouterr().err
    assert main.main([*flags, "--pack=0"]) == 2
    assert "--pack=0" in capsys.readouterr().err
    assert main.main(["sweep"]) == 2
    assert "sweeps/isoflop.gin" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
