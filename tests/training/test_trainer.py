"""The trainer: resumed runs equal uninterrupted ones bit for bit, on any mesh; bad input is refused before writing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like import checkpoints, locks, optimizers, parameters, partitioning
from t5x_like.checkpoints import folder
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.stream import Stream
from t5x_like.objectives.lm import LanguageModel
from t5x_like.optimizers import schedules
from t5x_like.training import loop
from tests import locked, tiny

REPOSITORY = Path(__file__).parents[2]


def arguments(root, run_dir, **changes):
    """trainer.train's arguments for a small run."""

    def cut(split):
        return rows.CausalLM(TokenCache("tiny", split, root=str(root)), 16)

    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    small = dict(
        run_dir=str(run_dir),
        model=model,
        objective=LanguageModel(),
        optimizer=optimizers.adamw(schedules.constant(1e-2, 3)),
        train_rows=cut("train"),
        eval_rows=cut("validation"),
        steps=6,
        batch_size=8,
        mesh=partitioning.make_mesh(devices=jax.devices()[:1]),
        log_every=1,
        eval_every=3,
        eval_batches=2,
        checkpoint_every=3,
        config="# a test\n",
    )
    return small | changes


def logged(run_dir, name="loss"):
    """{step: value} from metrics.jsonl."""
    lines = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def arrays(run_dir):
    """Every array of the newest checkpoint."""
    directory = Path(run_dir) / "checkpoints"
    step = checkpoints.latest_step(directory)
    stored = json.loads((directory / str(step) / "manifest.json").read_text())["arrays"]
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=one) for name, (shape, dtype) in stored.items()}
    return jax.device_get(folder.read(directory / str(step), wanted))


def test_training_learns_logs_and_fills_the_run_directory(tiny_root, tmp_path):
    last = tiny.train(**arguments(tiny_root, tmp_path, steps=30, keep_last=2))
    losses = logged(tmp_path)
    assert list(losses) == list(range(1, 31))
    assert losses[30] < losses[1] - 1
    assert set(logged(tmp_path, "eval/loss")) == set(range(3, 31, 3))
    assert last["eval/bits_per_byte"] == pytest.approx(last["eval/loss"] / np.log(2), rel=0.1)
    assert logged(tmp_path, "learning_rate")[3] == pytest.approx(1e-2)
    for name in ("config.gin", "model_info.txt", "vocabulary/vocabulary.json"):
        assert (tmp_path / name).exists()
    assert list(tmp_path.glob("events.*"))
    assert "decoder/layer_1/mixer/query/kernel" in (tmp_path / "model_info.txt").read_text()
    assert checkpoints.complete_steps(tmp_path / "checkpoints") == [27, 30]


@pytest.mark.parametrize("sizes", [dict(data=8), dict(data=2, fsdp=2, tensor=2)])
def test_a_run_resumes_on_another_mesh(tiny_root, tmp_path, sizes):
    tiny.train(**arguments(tiny_root, tmp_path / "whole"))
    tiny.train(**arguments(tiny_root, tmp_path / "moved", steps=3))
    tiny.train(**arguments(tiny_root, tmp_path / "moved", mesh=partitioning.make_mesh(**sizes)))
    whole, moved = logged(tmp_path / "whole"), logged(tmp_path / "moved")
    np.testing.assert_allclose(list(moved.values()), list(whole.values()), rtol=1e-5)


def test_a_finished_run_is_not_run_again_and_keeps_its_configuration(tiny_root, tmp_path):
    tiny.train(**arguments(tiny_root, tmp_path))
    before = (tmp_path / "metrics.jsonl").read_text()
    tiny.train(**arguments(tiny_root, tmp_path, config="# another\n"))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert (tmp_path / "config.gin").read_text() == "# a test\n"
    assert not list(tmp_path.glob("config.step_*"))


def test_a_damaged_checkpoint_is_skipped_without_changing_the_run(tiny_root, tmp_path):
    tiny.train(**arguments(tiny_root, tmp_path, steps=9))
    expected, losses = arrays(tmp_path), logged(tmp_path)
    newest = tmp_path / "checkpoints" / "9" / "arrays"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=r"checkpoint 9 is damaged: .* bytes; reading the previous one"):
        tiny.train(**arguments(tiny_root, tmp_path, steps=9))
    assert logged(tmp_path) == losses
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path), expected)


def contents(folder):
    """{path: bytes} of every file."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_refused_run_changes_nothing(tiny_root, tmp_path):
    tiny.train(**arguments(tiny_root, tmp_path, steps=3))
    before, other = contents(tmp_path), dict(config="# another\n")
    wider = tiny.decoder().clone(embed=tiny.decoder().embed.clone(vocab_size=512))
    refusals = {"seed was 0, now 1": dict(seed=1), "batch_size was 8, now 16": dict(batch_size=16)}
    refusals["steps=2, but .* has done 3 steps"] = dict(steps=2)
    for message, changes in (refusals | {"does not fit the model": dict(model=wider)}).items():
        with pytest.raises(ValueError, match=message):
            tiny.train(**arguments(tiny_root, tmp_path, **changes | other))
        assert contents(tmp_path) == before
    with locked.by_another_process(tmp_path / "lock"), pytest.raises(locks.LockedError, match="run_dir=.*is in use"):
        tiny.train(**arguments(tiny_root, tmp_path, **other))
    (tmp_path / "lock").unlink()
    assert contents(tmp_path) == before


def test_a_run_with_another_batch_size_goes_on_at_the_next_row(tiny_root, tmp_path, monkeypatch):
    seen, read = [], Stream.slice

    def record(self, step, start, stop):
        seen.extend(range(self.first_row(step) + start, self.first_row(step) + stop))
        return read(self, step, start, stop)

    monkeypatch.setattr(Stream, "slice", record)
    tiny.train(**arguments(tiny_root, tmp_path, steps=3, eval_rows=None))
    with pytest.raises(ValueError, match=r"batch_size was 8, now 16.*change_batch_size=True continues"):
        tiny.train(**arguments(tiny_root, tmp_path, steps=5, batch_size=16))
    for changes in (dict(steps=5, batch_size=16, change_batch_size=True), dict(steps=6, batch_size=16)):
        tiny.train(**arguments(tiny_root, tmp_path, eval_rows=None, **changes))
    tiny.train(**arguments(tiny_root, tmp_path, eval_rows=None, steps=8, batch_size=4, change_batch_size=True))
    assert seen == list(range(3 * 8 + 3 * 16 + 2 * 4))
    assert list(logged(tmp_path)) == list(range(1, 9))
    assert logged(tmp_path, "learning_rate")[8] == pytest.approx(1e-2)  # the warm-up is not repeated


def test_a_fresh_run_starts_from_chosen_parameters_of_another(tiny_root, tmp_path):
    tiny.train(**arguments(tiny_root, tmp_path / "first", steps=3))
    initial = checkpoints.InitializeFrom(str(tmp_path / "first"), exclude=("head",))
    still = optimizers.sgd(0.0)
    tiny.train(**arguments(tiny_root, tmp_path / "second", steps=3, initialize_from=initial, optimizer=still))
    first, second = arrays(tmp_path / "first"), arrays(tmp_path / "second")
    for name in (name for name in first if name.startswith(("params.embed", "params.decoder"))):
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["params.head.table"], second["params.head.table"])


def test_a_non_finite_loss_stops_the_run_and_names_the_last_good_checkpoint(tiny_root, tmp_path):
    tiny.train(**arguments(tiny_root, tmp_path, steps=3))
    wild = optimizers.sgd(lambda step: 1e30, momentum=0.9)
    broken = arguments(tiny_root, tmp_path / "broken", optimizer=wild, steps=9, checkpoint_every=1, eval_every=100)
    with pytest.raises(
        loop.NonFiniteLossError, match=r"the loss of step \d+ is (nan|inf).*last good checkpoint is step \d"
    ):
        tiny.train(**broken)
    good = checkpoints.latest_step(tmp_path / "broken" / "checkpoints")
    assert good == max(step for step, loss in logged(tmp_path / "broken").items() if np.isfinite(loss))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(steps=0), "steps=0 is not a positive whole number"),
        (dict(batch_size=6, microbatches=4), "batch_size=6 is not a multiple of 4 = 1 devices.*use 4 or 8"),
        (dict(log_every=0), "log_every=0"),
        (dict(model=tiny.decoder()), "vocab_size=64 is smaller than the 384 ids.*set VOCAB_SIZE to 384"),
        (
            dict(transform=parameters.Freeze(("nothing_here",))),
            "'nothing_here' is found in no parameter's path",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tiny_root, tmp_path, changes, message):
    run_dir = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        tiny.train(**arguments(tiny_root, run_dir, **changes))
    assert not run_dir.exists()


def test_a_length_longer_than_the_position_table_is_refused(tiny_root, tmp_path):
    from t5x_like.models import positions

    model = tiny.decoder(position=positions.Learned(max_length=8))
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    with pytest.raises(ValueError, match="a length of 16 is longer than the position table.*max_length=8"):
        tiny.train(**arguments(tiny_root, tmp_path / "run", model=model))
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_written_is_refused(tiny_root, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")  # root may write into read-only folders, but nobody into a file
    with pytest.raises(PermissionError, match="run_dir=.* cannot be written"):
        tiny.train(**arguments(tiny_root, blocked / "run"))


def command(root, run_dir, steps):
    flags = {"TASK": "tiny", "VOCAB_SIZE": 384, "LENGTH": 32, "STEPS": steps, "WARMUP_STEPS": 5, "RUN_DIR": run_dir}
    flags |= {f"trainer.train.{name}": value for name, value in (("log_every", 1),)} | {
        "trainer.Checkpointing.every": 10
    }
    files = ("sizes/llama/tiny.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin", "runs/pretrain.gin")
    given = [f"--gin_file={name}" for name in files] + [f"--gin.{name}={value}" for name, value in flags.items()]
    environment = os.environ | {"T5X_LIKE_CACHE": str(root), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("XLA_FLAGS")
    program = [sys.executable, "-m", "t5x_like", "train", *given]
    return subprocess.Popen(program, env=environment, cwd=root, stderr=subprocess.PIPE, text=True)


def wait_for_step(run_dir, step, process):
    """Returns when the run has logged `step`."""
    path = Path(run_dir) / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended early: {process.stderr.read()}")


@pytest.fixture(scope="module")
def uninterrupted(tiny_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    process = command(tiny_root, run_dir, 150)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return run_dir


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_equals_an_uninterrupted_one_bit_for_bit(tiny_root, tmp_path, uninterrupted, how):
    step = random.randint(12, 80)
    process = command(tiny_root, tmp_path, 150)
    wait_for_step(tmp_path, step, process)
    process.send_signal(how)
    _, said = process.communicate(timeout=300)
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how, said
        assert "the same command resumes the run" in said
        assert checkpoints.latest_step(tmp_path / "checkpoints") == max(logged(tmp_path))
        assert "Traceback" not in said and not (tmp_path / "lock").exists()
    assert max(logged(tmp_path)) < 150, "the run ended before the signal came"
    process = command(tiny_root, tmp_path, 150)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert logged(tmp_path) == logged(uninterrupted), f"stopped at step {step}"
    assert logged(tmp_path, "grad_norm") == logged(uninterrupted, "grad_norm")
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path), arrays(uninterrupted))
