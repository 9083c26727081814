"""Sweeps: a cell's identity is its configuration, finished cells are left alone, dead ones go on as if nothing had been."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t5x_like.cli import gin_runtime, main, sweep_cell
from t5x_like.cli.sweep_cells import Base
from t5x_like.scaling import cells, sweep, table

SWEEP = """
from __gin__ import dynamic_registration
from t5x_like.scaling import designs
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
            sweep_cell.train(run_dirs)
            watch()


@pytest.fixture
def gin_file(tiny_root, tmp_path):
    path = tmp_path / "sweep.gin"
    path.write_text(SWEEP % tiny_root)
    return path


def resolved(gin_file, directory, *overrides) -> list[cells.Cell]:
    flags = [f"--gin.SWEEP_DIR={directory}", *overrides]
    what = gin_runtime.parse([str(gin_file)], flags).configured("sweep.Sweep")()
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
        row, seen = found[cell.run_id], cells.progress(cell)
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
    cells.note(every[0].run_dir, outcome=cells.FAILED, error="out of memory")
    assert cells.progress(every[0]).error == "out of memory"
    assert not sweep.run(every, executor) and executor.ran == []
    assert sweep.run(every, executor, retry=True) and len(executor.ran) == 1


def test_cells_that_finish_at_once_count_as_finished(gin_file, tmp_path):
    class AtOnce:
        def run(self, jobs, watch):
            watch()
            for cell in every:
                cells.note(cell.run_dir, outcome=cells.FINISHED)

    every = resolved(gin_file, tmp_path / "s")
    assert sweep.run(every, AtOnce())


def test_a_cell_that_another_process_trains_is_not_trained_twice(gin_file, tmp_path):
    cell = resolved(gin_file, tmp_path / "s")[0]
    cell.prepare()
    with cells.locked(cell.run_dir) as free:
        assert free and cells.progress(cell).state == cells.RUNNING
        assert sweep_cell.train([str(cell.run_dir)]) == 0
        assert cells.attempts(cell.run_dir) == []
    assert cells.progress(cell).state == cells.WAITING


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
        while process.poll() is None and cells.progress(one).step < 3:
            time.sleep(0.02)
        assert process.poll() is None, (tmp_path / "log.txt").read_text()
        assert cells.progress(one).state == cells.RUNNING
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = cells.progress(one)
    assert found.state == cells.STOPPED and found.step < 16
    assert sweep.run([one], InProcess()) and sweep.run([same], InProcess())
    assert len(cells.attempts(one.run_dir)) == 3
    assert losses(one.run_dir) == losses(same.run_dir)


@pytest.mark.parametrize("name", ["isoflop", "lr_transfer", "ladder", "ladder_gpu"])
def test_every_sweep_file_resolves_to_runs(name, tiny_root, tmp_path):
    corpus = ["--gin.CORPUS=/data/*.txt"] if name == "ladder_gpu" else []
    config = gin_runtime.parse([f"sweeps/{name}.gin"], [f"--gin.SWEEP_DIR={tmp_path}", *corpus])
    what = config.configured("sweep.Sweep")()
    design = what.design.design(1e12) if name == "ladder" else what.design
    files = [file for file in what.base if not file.startswith("tasks/")]
    settings = {key: value for key, value in what.settings.items() if key not in ("TRAIN_FILES", "WHOLE_FILES")}
    settings |= {"TASK": "tiny", "VOCAB_SIZE": 384, "token_cache.TokenCache.root": str(tiny_root)}
    base = Base(files, settings, tmp_path)
    cell = base.cell(sweep.macros_of(next(iter(design.points())), what.recipe, base))
    assert cell.columns["decay"] == 0.0 and cell.columns["n_params"] > 0
    assert str(cell.run_dir) in cell.config


def test_what_a_sweep_refuses_is_said_before_anything_runs(gin_file, tmp_path, capsys):
    flags = ["sweep", f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, "--gin.designs.Grid.axes={'WIDHT': (8,)}"]) == 2
    assert "did you mean WIDTH" in capsys.readouterr().err
    assert main.main([*flags, "--pack=0"]) == 2
    assert "--pack=0" in capsys.readouterr().err
    assert main.main(["sweep"]) == 2
    assert "sweeps/isoflop.gin" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
