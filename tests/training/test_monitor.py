"""The monitor: skipped batches have no effect, expected curves hold, drifts are detected with few false alarms."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import optimizers
from t5x_like.data.stream import Stream
from t5x_like.optimizers import schedules
from t5x_like.scaling.expected import ExpectedLoss, Run
from t5x_like.scaling.laws import fit, laws, table
from t5x_like.scaling.mup import rules
from t5x_like.training import loop, monitor
from t5x_like.training.monitor import Log, Monitor, RollBack, Skip
from tests import tiny
from tests.training.test_trainer import arguments, arrays, logged

BACK = Monitor(RollBack(patience=3, before=2, after=2, most=2))


def spoiled(monkeypatch, spoil, leave_out=range(0)):
    """Changes the batches of the stream by `spoil(batch, k)`, or skips those of `leave_out`."""
    slice_of = Stream.slice

    def changed(self, step, start, stop):
        k = step + len(leave_out) if leave_out and step >= leave_out.start else step
        batch = slice_of(self, k, start, stop)
        spoil(batch, k)
        return batch

    monkeypatch.setattr(Stream, "slice", changed)


def noise(batch, k):
    """Replaces the targets of batches 40 to 42."""
    if k in (40, 41, 42):
        targets = batch["decoder_target_tokens"]
        batch["decoder_target_tokens"] = 3 + (targets * 37 + np.arange(targets.size).reshape(targets.shape) * 11) % 250


def no_number(batch, k):
    if k >= 40:
        batch["decoder_loss_weights"] = batch["decoder_loss_weights"] * np.float32(np.nan)


def run(root, run_dir, **changes):
    return tiny.train(**arguments(root, run_dir, **dict(steps=48, eval_every=100, checkpoint_every=8) | changes))


def alarms(run_dir, kind):
    path = run_dir / "alarms.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["kind"] == kind]


def test_a_rolled_back_run_equals_one_without_those_batches(tiny_root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoiled(patch, noise)
        run(tiny_root, tmp_path / "back", monitor=BACK, steps=46)
        assert [line["batches"] for line in alarms(tmp_path / "back", "roll back")] == [[38, 45]]
        run(tiny_root, tmp_path / "back", monitor=BACK)  # goes on, and still knows
    with monkeypatch.context() as patch:
        spoiled(patch, lambda *_: None, leave_out=range(38, 45))
        run(tiny_root, tmp_path / "without")
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "back"), arrays(tmp_path / "without"))
    assert logged(tmp_path / "back") == logged(tmp_path / "without")
    assert not (tmp_path / "without" / "alarms.jsonl").exists()


def test_a_resumed_run_detects_spikes_as_before(tiny_root, tmp_path, monkeypatch):
    spoiled(monkeypatch, noise)
    run(tiny_root, tmp_path / "whole", monitor=Monitor(Skip()))
    run(tiny_root, tmp_path / "parts", monitor=Monitor(Skip()), steps=40)
    run(tiny_root, tmp_path / "parts", monitor=Monitor(Skip()))
    assert [line["step"] for line in alarms(tmp_path / "parts", "skip")] == [41, 42, 43]
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "parts"), arrays(tmp_path / "whole"))


def test_the_checkpoint_before_a_spike_is_not_pruned_during_it(tiny_root, tmp_path, monkeypatch):
    spoiled(monkeypatch, noise)
    run(tiny_root, tmp_path, monitor=BACK, steps=44, checkpoint_every=14, keep_last=1)
    assert [line["to"] for line in alarms(tmp_path, "roll back")] == [28]


def test_a_rollback_without_a_checkpoint_restarts_the_run(tiny_root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoiled(patch, noise)
        run(tiny_root, tmp_path / "back", monitor=BACK, steps=45, checkpoint_every=100)
    with monkeypatch.context() as patch:
        spoiled(patch, lambda *_: None, leave_out=range(38, 45))
        run(tiny_root, tmp_path / "without", steps=45, checkpoint_every=100)
    assert [line["to"] for line in alarms(tmp_path / "back", "roll back")] == [0]
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "back"), arrays(tmp_path / "without"))


def test_a_skipped_batch_changes_only_the_step_count(tiny_root, tmp_path, monkeypatch):
    spoiled(monkeypatch, no_number)
    run(tiny_root, tmp_path, monitor=Monitor(Skip()), steps=40)
    before = arrays(tmp_path)
    run(tiny_root, tmp_path, monitor=Monitor(Skip()), steps=42)
    after = arrays(tmp_path)
    assert (before.pop("step"), after.pop("step")) == (40, 42)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert max(logged(tmp_path)) == 40 and logged(tmp_path, "skipped")[42] == 1
    assert [line["step"] for line in alarms(tmp_path, "skip")] == [41, 42]


def test_a_run_that_keeps_diverging_raises(tiny_root, tmp_path, monkeypatch):
    spoiled(monkeypatch, no_number)
    with pytest.raises(loop.NonFiniteLossError, match="last good checkpoint is step 32"):
        run(tiny_root, tmp_path, monitor=BACK)
    assert [line["to"] for line in alarms(tmp_path, "roll back")] == [32, 32]


def test_spikes_are_reported_once_and_become_the_new_level(tmp_path):
    said = []
    watch = monitor.RunMonitor(Monitor(Log(), new_level=10), tmp_path, said.append)
    generator = np.random.default_rng(0)
    losses = np.concatenate([2 + 0.1 * generator.standard_normal(100), 4 + 0.1 * generator.standard_normal(100)])
    for done, loss in enumerate(losses, 1):
        watch.collect(done, {"loss": (loss * 7, 7.0), "grad_norm": (1.0, 1.0)})
    assert len(said) == 1 and said[0].startswith("step 101: spike: loss 4.")
    assert [line["step"] for line in alarms(tmp_path, "spike")] == [101]


def test_skipped_batches_stay_skipped(tmp_path):
    lines = [{"step": 9, "kind": "roll back", "to": 0, "batches": pair} for pair in ([5, 8], [7, 12], [20, 21])]
    (tmp_path / "alarms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watch = monitor.RunMonitor(Monitor(), tmp_path, print)
    made = [watch.batch_of(update) for update in range(20)]
    assert made == [k for k in range(28) if not 5 <= k < 12 and k != 20]


def write_reference(run_dir, rates, losses, every=50):
    """Writes a run directory whose log has a mean loss every few steps."""
    run_dir.mkdir()
    lines = [
        {
            "step": i + every,
            "loss": float(losses[i : i + every].mean()),
            "learning_rate": float(rates[i : i + every].mean()),
            "speed/tokens_per_second": 1000.0,
            "speed/step_seconds": 1.0,
        }
        for i in range(0, len(rates), every)
    ]
    lines[-1]["eval/loss"] = float(losses[-every:].mean())
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def annealed(rates, scale=1.0):
    """Losses of Tissue et al.'s law, with a memory of 1/20 of the run."""
    share = rates / rates.max()
    way = np.cumsum(share) / len(rates)
    fallen, annealing = np.maximum(-np.diff(share, prepend=share[0]), 0.0), np.zeros(len(rates))
    for i in range(1, len(rates)):
        annealing[i] = annealing[i - 1] * np.exp(-20 / len(rates)) + fallen[i]
    return scale * (1.2 + 0.5 * way**-0.5 - 3.0 * np.cumsum(annealing) / len(rates))


def rates_of(schedule, steps):
    return np.asarray(jax.vmap(schedule)(np.arange(steps)), np.float64)


@pytest.mark.parametrize("other", [schedules.wsd(0.3, 3000, 100), schedules.linear(0.1, 3000, 150)])
def test_an_expected_curve_follows_the_schedule(tmp_path, other):
    theirs, ours = rates_of(schedules.cosine(1.0, 2000, 100, 0.0), 2000), rates_of(other, 3000)
    noise = 0.005 * np.random.default_rng(0).standard_normal(2000)
    write_reference(tmp_path / "reference", theirs, annealed(theirs) + noise)
    curve = ExpectedLoss(str(tmp_path / "reference")).curve(Run(1e6, 1000, ours))
    truth = annealed(ours)
    after = slice(300, None)
    np.testing.assert_allclose(curve.excess_S[after], (truth - truth[-1])[after], atol=0.02)
    unchanged = ExpectedLoss(str(tmp_path / "reference")).curve(Run(1e6, 1000, rates_of(schedules.constant(1.0), 3000)))
    assert np.abs(unchanged.excess_S - (truth - truth[-1]))[after].max() > 0.05


def test_with_a_law_curves_scale_with_the_loss_above_its_floor(tmp_path):
    def law(n, d):
        return 1.0 + 30 * n**-0.4 + 90 * d**-0.4

    sizes = [(n, n * ratio) for n in np.geomspace(1e4, 1e6, 5) for ratio in (20, 60, 200)]
    rows = [{"n_params": n, "tokens": d, "loss": law(n, d), "tokenizer": "bytes"} for n, d in sizes]
    found = fit.fit(table.from_rows(rows), laws.CHINCHILLA, bootstraps=20)
    found.write(tmp_path / "fit.json")
    rates = rates_of(schedules.cosine(1.0, 2000, 100, 0.0), 2000)
    course = annealed(rates) / annealed(rates)[-1]
    theirs, ours = law(1e5, 2e6), law(1e6, 2e7)
    write_reference(tmp_path / "reference", rates, 1 + (theirs - 1) * course)
    curve = ExpectedLoss(str(tmp_path / "reference"), law=str(tmp_path / "fit.json")).curve(Run(1e6, 1e4, rates))
    truth = 1 + (ours - 1) * course
    after = slice(300, None)
    np.testing.assert_allclose((curve.level + curve.excess_S)[after], truth[after], rtol=0.01)
    assert np.abs(theirs - ours + truth - (1 + (theirs - 1) * course))[after].max() > 0.05  # unscaled, it is far off


def test_drifts_are_detected_with_few_false_alarms(tmp_path):
    rates = rates_of(schedules.cosine(1.0, 2000, 100, 0.0), 2000)
    generator, clean = np.random.default_rng(0), annealed(rates)
    write_reference(tmp_path / "reference", rates, clean + 0.05 * generator.standard_normal(2000))
    curve = ExpectedLoss(str(tmp_path / "reference")).curve(Run(1e6, 1000, rates))
    found = {0.0: 0, 0.08: 0, -0.08: 0}
    for drift in found:
        for i in range(100):
            run_dir = tmp_path / f"{drift} {i}"
            run_dir.mkdir()
            watch = monitor.RunMonitor(Monitor(), run_dir, lambda _: None, curve)
            level = np.exp(0.003 * generator.standard_normal()) * np.where(np.arange(2000) < 1000, 1.0, 1 + drift)
            losses = (clean - 0.2) * level + 0.05 * generator.standard_normal(2000)
            for done in range(50, 2001, 50):
                watch.compare(done, 50, losses[done - 50 : done].mean())
            sides = {line["side"] for line in alarms(run_dir, "drift")}
            found[drift] += bool(sides)
            assert drift == 0 or not sides - {"above" if drift > 0 else "below"}
    assert found[0.0] <= 3 and min(found[0.08], found[-0.08]) >= 97


SCHEDULE = schedules.wsd(0.1, 50, 5)
EVERY_KIND = {
    "adafactor": optimizers.adafactor(SCHEDULE),
    "lion": optimizers.lion(SCHEDULE),
    "muP": rules.scale_by_width(optimizers.adamw(SCHEDULE), {"embed": 2}),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_learning_rates_are_those_of_the_schedule(kind):
    def boxed(names, *shape):
        return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, np.float32), names)

    params = {"norm": {"scale": boxed(("norm",), 4)}, "up": boxed(("embed", "mlp"), 4, 3)}
    found = optimizers.learning_rates(EVERY_KIND[kind], params, 50)
    np.testing.assert_allclose(found, rates_of(SCHEDULE, 50), rtol=1e-6)


def test_a_wrongly_learned_level_does_not_end_a_run(tmp_path):
    rates = rates_of(schedules.cosine(1.0, 1000, 50, 0.0), 1000)
    write_reference(tmp_path / "reference", rates, np.linspace(6.0, 2.5, 1000))
    curve = ExpectedLoss(str(tmp_path / "reference")).curve(Run(1e6, 1000, rates))
    watch = monitor.RunMonitor(Monitor(), tmp_path, lambda _: None, curve)
    for done in range(50, 1001, 50):
        watch.compare(done, 50, 2.5 - 0.5 * done / 1000)
