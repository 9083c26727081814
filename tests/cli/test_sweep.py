"""Sweeps: a trial's id is its configuration, finished trials are skipped, killed ones resume bit for bit."""

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t5x_like import writers
from t5x_like.cli import main
from t5x_like.cli.gin import runtime
from t5x_like.cli.sweeping import trial
from t5x_like.cli.sweeping.trials import BaseConfig
from t5x_like.scaling.laws import table
from t5x_like.scaling.studies import emergence
from t5x_like.scaling.sweeps import collect, sweep, trials
from tests import locked

SWEEP = """
from __gin__ import dynamic_registration
from t5x_like.scaling.sweeps import designs
include 'sweeps/base.gin'
BASE = (
    'sizes/llama/tiny.gin', 'objectives/causal_lm.gin', 'optimizers/adamw.gin', 'runs/pretrain.gin'
)
SETTINGS = {
    'TASK': 'tiny', 'LAYERS': 1, 'LENGTH': 32, 'BATCH_SIZE': 8, 'WARMUP_STEPS': 1, 'schedules.cosine.final': 0.0,
    'token_cache.TokenCache.root': '%s', 'trainer.train.log_every': 1, 'trainer.Evaluation.batches': 1,
    'trainer.Checkpointing.every': 2,
}
RATES = (0.001, 0.01)
STEPS = 3
DESIGN = @designs.Grid()
designs.Grid.axes = {'LEARNING_RATE': %%RATES, 'STEPS': (%%STEPS,)}
"""


class InProcess:
    """Runs jobs in this process, one after the other, and records their trials."""

    def __init__(self):
        self.ran = []

    def run(self, jobs, watch):
        for job in jobs:
            run_dirs = [flag.removeprefix("--trial=") for flag in job.command if flag.startswith("--trial=")]
            self.ran += [Path(run_dir).name for run_dir in run_dirs]
            trial.train(run_dirs)
            watch()


@pytest.fixture
def gin_file(tiny_root, tmp_path):
    path = tmp_path / "sweep.gin"
    path.write_text(SWEEP % tiny_root)
    return path


def resolve(gin_file, directory, *overrides) -> list[trials.Trial]:
    flags = [f"--gin.SWEEP_DIR={directory}", *overrides]
    config = runtime.parse([str(gin_file)], flags).bind("sweep.Sweep")()
    return sweep.resolve_trials(config, BaseConfig(config.base, config.settings, Path(config.directory) / "trials"))


def ids(all_trials) -> list[str]:
    return [one.run_id for one in all_trials]


def losses(run_dir) -> list[tuple]:
    return [
        (record["step"], name, value)
        for record in writers.read_metrics(run_dir / "metrics.jsonl")
        for name, value in record.items()
        if name in ("loss", "eval/loss")
    ]


def test_a_trial_is_its_configuration_in_any_folder(gin_file, tmp_path, monkeypatch):
    here = resolve(gin_file, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    elsewhere = resolve(gin_file, "elsewhere")
    assert ids(here) == ids(elsewhere) and len(set(ids(here))) == 2
    assert elsewhere[0].run_dir == tmp_path / "elsewhere" / "trials" / elsewhere[0].run_id
    more = resolve(gin_file, tmp_path / "here", "--gin.RATES=(0.01, 0.001, 0.02)")
    assert set(ids(here)) < set(ids(more))
    longer = resolve(gin_file, tmp_path / "here", "--gin.STEPS=4")
    assert not set(ids(here)) & set(ids(longer))


def test_finished_trials_are_skipped(gin_file, tmp_path, capsys):
    all_trials, executor = resolve(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)"), InProcess()
    assert sweep.run(all_trials, executor)
    before = (all_trials[0].run_dir / "metrics.jsonl").stat().st_mtime_ns
    more = resolve(gin_file, tmp_path / "s")
    assert sweep.run(more, executor)
    assert executor.ran == [all_trials[0].run_id, *(one.run_id for one in more if one.run_id != all_trials[0].run_id)]
    assert (all_trials[0].run_dir / "metrics.jsonl").stat().st_mtime_ns == before

    rows = sweep.write_table(more, tmp_path / "runs.csv").rows()
    assert rows == table.read(tmp_path / "runs.csv").rows()
    by_id = {row["run_id"]: row for row in rows}
    assert set(by_id) == set(ids(more))
    for one in more:
        row, progress = by_id[one.run_id], trials.read_progress(one)
        assert (row["status"], row["loss"], row["decay"]) == ("finished", progress.eval_loss, 0.0)
        assert row["tokens"] == 3 * 8 * 32 and row["lr"] == one.macros["LEARNING_RATE"]
        assert 6 * row["n_params"] * row["tokens"] == row["flops_6nd"] < row["flops_exact"]

    flags = ["sweep", f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, "--status"]) == 0
    assert "2 finished" in capsys.readouterr().out


def test_a_dry_run_trains_nothing(gin_file, tmp_path, capsys):
    flags = [f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}", "--dry_run"]
    assert main.main(["sweep", *flags, "--cost_per_hour=7200", "--flops_per_second=1e6"]) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "s").exists()
    row = resolve(gin_file, tmp_path / "s")[0].columns
    assert f"{row['flops_exact']:.3g}" in text and f"{row['flops_6nd']:.3g}" in text
    assert f"{row['flops_exact'] / 1e6 / 3600 * 7200:.2f}" in text


def test_failed_trials_wait_for_retry(gin_file, tmp_path):
    all_trials, executor = resolve(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)"), InProcess()
    all_trials[0].prepare()
    trials.append_attempt(all_trials[0].run_dir, outcome=trials.FAILED, error="out of memory")
    assert trials.read_progress(all_trials[0]).error == "out of memory"
    assert not sweep.run(all_trials, executor) and executor.ran == []
    assert sweep.run(all_trials, executor, retry=True) and len(executor.ran) == 1


def test_trials_that_finish_at_once_count_as_finished(gin_file, tmp_path):
    class AtOnce:
        def run(self, jobs, watch):
            watch()
            for one in all_trials:
                trials.append_attempt(one.run_dir, outcome=trials.FINISHED)

    all_trials = resolve(gin_file, tmp_path / "s")
    assert sweep.run(all_trials, AtOnce())


def test_a_locked_trial_is_not_trained_twice(gin_file, tmp_path):
    one = resolve(gin_file, tmp_path / "s")[0]
    one.prepare()
    with locked.by_another_process(one.run_dir / "lock"):
        assert trials.read_progress(one).state == trials.RUNNING
        assert trial.train([str(one.run_dir)]) == 0
        assert trials.read_attempts(one.run_dir) == []
    assert trials.read_progress(one).state == trials.WAITING


def test_trials_that_differ_in_rate_and_seed_are_grouped_as_replicas(gin_file, tmp_path):
    all_trials = resolve(gin_file, tmp_path / "s", "--gin.RATES=(0.001, 0.003, 0.01)")
    assert [len(group) for group in sweep.group_replicas(all_trials, 2)] == [2, 1]
    other = resolve(gin_file, tmp_path / "s", "--gin.STEPS=4")
    assert [len(group) for group in sweep.group_replicas([*all_trials, *other], 9)] == [3, 2]


def test_a_killed_trial_resumes_bit_for_bit(gin_file, tmp_path):
    (one,) = resolve(gin_file, tmp_path / "s", "--gin.RATES=(0.01,)", "--gin.STEPS=16")
    (same,) = resolve(gin_file, tmp_path / "t", "--gin.RATES=(0.01,)", "--gin.STEPS=16")
    one.prepare()
    command = sweep.make_job([one]).command
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        while process.poll() is None and trials.read_progress(one).step < 3:
            time.sleep(0.02)
        assert process.poll() is None, (tmp_path / "log.txt").read_text()
        assert trials.read_progress(one).state == trials.RUNNING
        process.send_signal(signal.SIGKILL)
        process.wait()
    progress = trials.read_progress(one)
    assert progress.state == trials.STOPPED and progress.step < 16
    assert sweep.run([one], InProcess()) and sweep.run([same], InProcess())
    assert len(trials.read_attempts(one.run_dir)) == 3
    assert losses(one.run_dir) == losses(same.run_dir)


@pytest.mark.parametrize("name", ["isoflop", "lr_transfer", "ladder", "ladder_gpu"])
def test_every_sweep_file_resolves_to_runs(name, tiny_root, tmp_path):
    corpus = ["--gin.CORPUS=/data/*.txt"] if name == "ladder_gpu" else []
    config = runtime.parse([f"sweeps/{name}.gin"], [f"--gin.SWEEP_DIR={tmp_path}", *corpus])
    loaded = config.bind("sweep.Sweep")()
    design = loaded.design.design(1e12) if name == "ladder" else loaded.design
    files = [file for file in loaded.base if not file.startswith("tasks/")]
    settings = {key: value for key, value in loaded.settings.items() if key not in ("TRAIN_FILES", "WHOLE_FILES")}
    settings |= {"TASK": "tiny", "VOCAB_SIZE": 384, "token_cache.TokenCache.root": str(tiny_root)}
    base = BaseConfig(files, settings, tmp_path)
    one = base.trial(sweep.point_macros(next(iter(design.points())), loaded.recipe, base))
    assert one.columns["decay"] == 0.0 and one.columns["n_params"] > 0
    assert str(one.run_dir) in one.config


@pytest.mark.parametrize("flag", ["--status", "--lr_transfer", "--collect=runs.csv"])
def test_read_only_flags_do_not_size_a_ladder(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "run", lambda *args, **options: pytest.fail("a trial was trained"))
    flags = ["sweep", "--gin_file=sweeps/ladder.gin", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, flag]) == 2
    assert f"run it without {flag.partition('=')[0]} first" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def write_trial(directory, n: int, loss: float, lines: list[dict]) -> trials.Trial:
    """Writes a finished trial with these lines in metrics.jsonl and the last evaluation at this loss."""
    one = trials.Trial(f"n{n}", directory / f"n{n}", "", {}, {"n_params": n, "steps": 2})
    one.prepare()
    lines = [{"step": 1, "eval/loss": 9.0, "eval/accuracy": 0.0}, *lines, {"step": 2, "eval/loss": loss}]
    lines[-1] |= {"eval/accuracy": 1 / loss, "eval/sums/loss": loss, "eval/sums/accuracy": 0.5 / loss}
    (one.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trials.append_attempt(one.run_dir, outcome=trials.FINISHED)
    return one


def test_score_laws_read_a_sweeps_table(tmp_path, capsys):
    truth = {2**i * 1000: 4 - 0.3 * i for i in range(8)}
    shares = {n: 1 / (1 + math.exp(4 * (loss - 3))) for n, loss in truth.items()}

    def scores(step: int, share: float) -> dict:
        return {"step": step, "eval_tasks/sums/exact_match": 100 * share, "eval_tasks/sums/bleu": 100 * share}

    all_trials = [
        write_trial(tmp_path / "trials", n, x, [scores(1, 0.0), scores(2, shares[n])]) for n, x in truth.items()
    ]
    rows = sweep.write_table(all_trials, tmp_path / "runs.csv")
    assert rows["accuracy"].tolist() == [1 / loss for loss in truth.values()]
    assert rows["accuracy/sums"].tolist() == [0.5 / loss for loss in truth.values()]
    assert rows["bleu/sums"].tolist() == [100 * share for share in shares.values()]
    curves = emergence.average_by_size(table.read(tmp_path / "runs.csv"), ("exact_match/sums", "accuracy", "loss/sums"))
    assert curves["n_params"].tolist() == list(truth) and curves["loss/sums"] == pytest.approx(list(truth.values()))
    assert curves["exact_match/sums"] == pytest.approx(list(shares.values()))

    runs = str(tmp_path / "runs.csv")
    assert main.main(["fit", runs, "--law=shape"]) == 0 and "accuracy over n_params" in capsys.readouterr().out
    columns = ["--target=exact_match/sums", "--inputs=loss/sums"]
    assert main.main(["fit", runs, "--law=sigmoid", *columns, "--bootstraps=20", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)["sigmoid"]["parameters"]
    assert fitted["k"]["value"] == pytest.approx(4, rel=1e-3)
    assert fitted["middle"]["value"] == pytest.approx(3, rel=1e-3)


def test_answer_accuracy_replaces_token_accuracy(tmp_path):
    lines = [{"step": 1, "eval_tasks/sums/accuracy": 50.0, "eval_tasks/sums/pass@2": 25.0}]
    row = collect.build_row(write_trial(tmp_path, 8, 2.0, lines))
    assert (row["accuracy/sums"], row["pass@2/sums"], row["accuracy"]) == (0.5, 0.25, 0.5)


def test_errors_come_before_anything_runs(gin_file, tmp_path, capsys):
    flags = ["sweep", f"--gin_file={gin_file}", f"--gin.SWEEP_DIR={tmp_path / 's'}"]
    assert main.main([*flags, "--gin.designs.Grid.axes={'WIDHT': (8,)}"]) == 2
    assert "did you mean WIDTH" in capsys.readouterr().err
    assert main.main([*flags, "--replicas=0"]) == 2
    assert "--replicas: 0 is not 1 or more" in capsys.readouterr().err
    assert main.main(["sweep"]) == 2
    assert "sweeps/isoflop.gin" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
