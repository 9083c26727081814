"""Objectives over pairs: the functions of arrays, of log-probabilities from a plain forward pass, however a batch is split."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import parameters, partitioning
from t5x_like.objectives import pairs, preference, reference_free
from t5x_like.optimizers import sgd
from t5x_like.precision import Precision
from t5x_like.training import contract
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from tests import tiny

REFERENCE = {"reference": None}
ROWS, LENGTH, VOCAB = 8, 16, 48


def pair_batch(sides=("decoder",), rows=ROWS):
    """Rows whose answers begin at different places; the last pair is padding."""
    batch = tiny.batch(rows=rows, length=LENGTH, sides=sides)
    weights = np.zeros((rows, LENGTH), np.float32)
    for row in range(rows - 2):
        weights[row, 3 + row % 4 : 8 + row] = 1
    return batch | {"decoder_loss_weights": weights}


def plain_logps(model, params, batch):
    """log p of every target [B, L], float64."""
    logits = np.asarray(model.apply({"params": params}, batch), np.float64)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(logps, batch["decoder_target_tokens"][..., None], -1)[..., 0]


def make(sides=("decoder",)):
    model = (tiny.decoder if sides == ("decoder",) else tiny.encoder_decoder)(repeats=1)
    batch = pair_batch(sides)
    policy, reference = (tiny.init(model, batch, seed=seed) for seed in (1, 2))
    return model, batch, policy, reference


OBJECTIVES = {
    "dpo": (pairs.Preference(REFERENCE), lambda c, r, _: preference.sigmoid(c, r, beta=0.1)),
    "ipo": (pairs.Preference(REFERENCE, "ipo", 0.2, "mean"), lambda c, r, _: preference.ipo(c, r, beta=0.2)),
    "rpo": (
        pairs.Preference(REFERENCE, likelihood=0.7),
        lambda c, r, nll: preference.sigmoid(c, r, beta=0.1) + 0.7 * nll,
    ),
    "simpo": (pairs.SimPO(gamma=0.5), lambda c, r, _: reference_free.simpo(c, r, beta=2.0, gamma=0.5)),
    "cpo": (pairs.CPO(alpha=0.5), lambda c, r, nll: reference_free.cpo(c, r, nll, beta=0.1, alpha=0.5)),
    "orpo": (pairs.ORPO(), lambda c, r, nll: reference_free.orpo(c, r, nll, beta=0.1)),
}


@pytest.mark.parametrize(
    "name, sides", [*((name, ("decoder",)) for name in OBJECTIVES), ("dpo", ("encoder", "decoder"))]
)
def test_the_loss_is_that_of_a_plain_forward_pass(name, sides):
    objective, loss = OBJECTIVES[name]
    model, batch, policy, reference = make(sides)
    extra = {"references": {"reference": reference}} if hasattr(objective, "references") else {}
    total, weight, metrics = jax.jit(lambda p, e: objective(model.apply, p, batch, **e))(policy, extra)
    mask = batch["decoder_loss_weights"][: ROWS - 2]
    logps = plain_logps(model, policy, batch)[: ROWS - 2]
    ratios = logps - plain_logps(model, reference, batch)[: ROWS - 2] if extra else logps
    chosen, rejected = (ratios * mask).sum(1).reshape(-1, 2).T
    if objective.reduce == "mean":
        chosen, rejected = ((ratios * mask).sum(1) / mask.sum(1)).reshape(-1, 2).T
    nll = -((logps * mask).sum(1) / mask.sum(1))[::2]
    assert float(weight) == ROWS / 2 - 1
    np.testing.assert_allclose(total, np.sum(loss(chosen, rejected, nll)), rtol=2e-5)
    np.testing.assert_allclose(metrics["chosen_nll"][0], nll.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward_margin"][0], objective.beta * (chosen - rejected).sum(), rtol=2e-4)
    assert float(metrics["reward_accuracy"][0]) == (chosen > rejected).sum()


def test_a_policy_that_is_its_reference_has_the_loss_ln_2_and_no_reward():
    model, batch, policy, _ = make()
    objective = pairs.Preference(REFERENCE)
    total, weight, metrics = objective(model.apply, policy, batch, references={"reference": policy})
    assert float(total / weight) == pytest.approx(math.log(2), rel=1e-6)
    assert float(metrics["reward_margin"][0]) == float(metrics["chosen_reward"][0]) == 0


def test_targets_without_a_loss_and_the_reference_get_no_gradient():
    model, batch, policy, reference = make()
    objective = pairs.Preference(REFERENCE)
    weights = batch["decoder_loss_weights"]
    other = batch | {"decoder_target_tokens": np.where(weights > 0, batch["decoder_target_tokens"], 7)}

    @jax.jit
    def gradient(policy, reference, batch):
        loss = lambda p, r: objective(model.apply, p, batch, references={"reference": r})[0]  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1))(policy, reference)

    value, (grads, of_reference) = gradient(policy, reference, batch)
    again = gradient(policy, reference, other)
    jax.tree.map(np.testing.assert_array_equal, (value, (grads, of_reference)), again)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(of_reference))
    assert any((np.asarray(x) != 0).any() for x in jax.tree.leaves(grads))


def test_microbatches_devices_and_chunks_change_nothing():
    objective = pairs.Preference(REFERENCE)
    model, batch, policy, reference = make()
    steps = {}
    for name, devices, microbatches, chunk in (("one", 1, 1, None), ("split", 1, 2, 8), ("mesh", 4, 1, 8)):
        mesh = partitioning.make_mesh(devices=jax.devices()[:devices])
        optimizer = sgd(1.0, momentum=0.0, clip_norm=None)
        shapes = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in batch.items()}
        layout = train_state.layout(model, optimizer, shapes, mesh)
        view = parameters.view(parameters.Freeze(), Precision())
        chunked = dataclasses.replace(objective, chunk=chunk)
        step = TrainStep(model.apply, chunked, optimizer, view, microbatches, pairs.GROUP)
        state = layout.create(0)
        state = state.replace(params=jax.device_put(jax.device_get(policy), layout.shardings.params))
        references = {"reference": reference}
        with partitioning.on(mesh):
            placed = {key: jax.device_put(x, partitioning.batch_sharding(mesh)) for key, x in batch.items()}
            after, metrics = jit_step(step, layout, partitioning.batch_sharding(mesh), mesh)(state, placed, references)
        steps[name] = jax.device_get(after.params), float(metrics["loss"][0] / metrics["loss"][1])
    for name in ("split", "mesh"):
        assert steps[name][1] == pytest.approx(steps["one"][1], rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), steps[name][0], steps["one"][0])


def test_logits_of_all_positions_are_never_held():
    model = tiny.decoder(repeats=1)
    model = model.clone(embed=model.embed.clone(vocab_size=4096))
    batch = {name: np.tile(x, (1, 8)) for name, x in pair_batch().items()}
    params = tiny.init(model, batch)
    objective = pairs.Preference(REFERENCE, chunk=8)
    gradient = jax.grad(lambda p, r: objective(model.apply, p, batch, references={"reference": r})[0])
    program = jax.jit(gradient).lower(params, params).compile()
    logits = ROWS * LENGTH * 8 * 4096 * 4
    assert program.memory_analysis().temp_size_in_bytes < 0.7 * logits


class Ungrouped:
    """Rows of which none belong together."""

    lengths, group = {"decoder": 8}, 1


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"SimPO compares groups of 2 rows, but rows=Ungrouped have groups of 1"):
        contract.check_rows(tiny.decoder(), pairs.SimPO(), Ungrouped(), "use pairs")
    with pytest.raises(ValueError, match="the batch has 3 rows; a pair is 2"):
        pairs.ORPO()(tiny.decoder().apply, {}, {"decoder_loss_weights": jnp.ones((3, 4))})
    for arguments, message in (
        ({"loss": "dpo"}, "the pair loss 'dpo' is unknown; choose one of sigmoid"),
        ({"reduce": "token_mean"}, "reduce='token_mean' is unknown; choose one of sum, mean"),
        ({"loss": "aot_unpaired"}, "compares all pairs of a batch"),
        ({"likelihood": -1.0}, "likelihood=-1.0 is not a weight of 0 or more"),
        ({"beta": 0.0}, "beta=0.0 is not a positive number"),
        ({"references": {}}, r"references has \[\]; give one"),
    ):
        with pytest.raises(ValueError, match=message):
            pairs.Preference(**{"references": REFERENCE} | arguments)
    with pytest.raises(ValueError, match="gamma=-1"):
        pairs.SimPO(gamma=-1)
