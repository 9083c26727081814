"""The train step: frozen parameters cost nothing, references are arguments, groups of rows stay together."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like import optimizers, parameters, partitioning
from t5x_like.objectives.lm import LanguageModel
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, accumulate, jit_step, split_rows
from tests import tiny

BODY = Freeze(("^(embed|decoder)/",))
MESH = partitioning.make_mesh(devices=jax.devices()[:1])


def build(transform=Freeze(), model=None, objective=LanguageModel(), optimizer=None, **options):
    """(jitted step, state, batch) of a small model on one device."""
    model = tiny.decoder() if model is None else model
    optimizer = optimizers.adamw(1e-2, clip_norm=0.5) if optimizer is None else optimizer
    batch = tiny.batch()
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    layout = train_state.layout(model, optimizer, shapes, MESH, transform=transform)
    step = TrainStep(model.apply, objective, optimizer, parameters.view(transform, Precision()), **options)
    placed = jax.device_put(batch, partitioning.batch_sharding(MESH))
    return jit_step(step, layout, partitioning.batch_sharding(MESH), MESH), layout.create(0), placed


def compiled(transform, references=None):
    """The compiled step of a model whose body costs far more than its head."""
    model = tiny.decoder(repeats=6)
    step, state, batch = build(transform, model)
    with partitioning.on(MESH):
        return step.lower(state, batch, references or {}).compile()


def test_frozen_parameters_stay_and_have_no_optimizer_state():
    step, state, batch = build(BODY)
    before = jax.device_get((state.params, state.frozen))
    assert {x.shape for x in jax.tree.leaves(state.opt_state)} == {
        (),
        *(x.shape for x in jax.tree.leaves(state.params)),
    }
    with partitioning.on(MESH):
        after, _ = step(state, batch, {})
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.frozen), before[1])
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(before[0]), strict=True))
    assert list(after.params) == ["head"] and not jax.tree.leaves(after.without_frozen.frozen)


def test_freezing_all_but_the_head_leaves_the_cost_of_the_head():
    """The backward pass of the body and its saved activations are gone from the compiled program."""
    whole, head = compiled(Freeze()), compiled(BODY)
    forward = tiny.decoder(repeats=6)
    batch = tiny.batch()
    params = tiny.init(forward, batch)
    cost = jax.jit(lambda p, b: LanguageModel()(forward.apply, p, b, None)[0]).lower(params, batch).compile()
    flops = {name: x.cost_analysis()["flops"] for name, x in (("whole", whole), ("head", head), ("forward", cost))}
    assert flops["head"] < 1.25 * flops["forward"] < 0.6 * flops["whole"]
    memory = {name: x.memory_analysis().temp_size_in_bytes for name, x in (("whole", whole), ("head", head))}
    assert memory["head"] < 0.5 * memory["whole"]


def test_the_logged_norm_is_the_one_that_is_clipped():
    """The update of clipped plain SGD has the norm `clip` exactly where the logged norm exceeds it."""
    step, state, batch = build(BODY, optimizer=optimizers.sgd(1.0, momentum=0.0, clip_norm=None))
    before = jax.device_get(state.params)
    with partitioning.on(MESH):
        after, metrics = step(state, batch, {})
    difference = jax.tree.map(lambda a, b: a - b, jax.device_get(after.params), before)
    assert float(metrics["grad_norm"][0]) == pytest.approx(float(optax.tree.norm(difference)), rel=1e-4)
    clip = float(metrics["grad_norm"][0]) / 3
    step, state, batch = build(BODY, optimizer=optimizers.sgd(1.0, momentum=0.0, clip_norm=clip))
    with partitioning.on(MESH):
        after, again = step(state, batch, {})
    difference = jax.tree.map(lambda a, b: a - b, jax.device_get(after.params), before)
    assert float(optax.tree.norm(difference)) == pytest.approx(clip, rel=1e-4)
    assert float(again["grad_norm"][0]) == pytest.approx(3 * clip, rel=1e-5)


@dataclasses.dataclass(frozen=True)
class Distill:
    """Squared distance of the logits from those of a teacher, which is another parameter tree of the same model."""

    references: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"teacher": None})

    def __call__(self, apply, params, batch, rng=None, *, references):
        ours, theirs = (apply({"params": p}, batch) for p in (params, references["teacher"]))
        total = jnp.sum(jnp.mean(jnp.square(ours - theirs), axis=-1) * batch["decoder_loss_weights"])
        weight = jnp.sum(batch["decoder_loss_weights"])
        return total, weight, {"loss": (total, weight)}


def test_references_are_arguments_of_the_program():
    """Another teacher changes the loss without a new program, and no constant of the program is as large as a tree."""
    step, state, batch = build(objective=Distill(), model=tiny.decoder())
    teachers = [tiny.init(tiny.decoder(), tiny.batch(), seed=seed) for seed in (1, 2)]
    with partitioning.on(MESH):
        program = step.lower(state, batch, {"teacher": teachers[0]}).compile()
        losses = [
            float(step(jax.tree.map(jnp.copy, state), batch, {"teacher": teacher})[1]["loss"][0])
            for teacher in teachers
        ]
    trees = sum(x.nbytes for x in jax.tree.leaves((state, teachers[0])))
    assert program.memory_analysis().argument_size_in_bytes >= trees
    constants = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", program.as_text())
    largest = max(math.prod(int(size) for size in shape.split(",") if size) for shape in constants)
    assert constants and largest < min(x.size for x in jax.tree.leaves(teachers[0]) if x.ndim > 1)
    assert losses[0] != losses[1]
    assert step._cache_size() == 1


@pytest.mark.parametrize("microbatches, group", [(2, 1), (2, 2), (4, 2), (2, 4)])
def test_microbatches_keep_groups_of_rows_together(microbatches, group):
    parts = np.asarray(split_rows(jnp.arange(8), microbatches, group))
    assert sorted(parts.ravel()) == list(range(8))
    for part in parts:
        for rows in part.reshape(-1, group):
            assert rows.tolist() == list(range(rows[0], rows[0] + group)) and rows[0] % group == 0


def test_a_loss_over_groups_is_the_same_in_microbatches():
    """A loss that compares neighbours, as of preference pairs, needs both of them in one microbatch."""
    batch, params = {"x": jnp.arange(16.0).reshape(8, 2)}, {"w": jnp.array([0.3, -0.1])}

    def gradient(params, batch, rng):
        def loss(params):
            score_B = batch["x"] @ params["w"]
            chosen, rejected = score_B.reshape(-1, 2).T
            return -jnp.sum(jax.nn.log_sigmoid(chosen - rejected)), (jnp.float32(len(chosen)), {})

        return jax.grad(loss, has_aux=True)(params)

    whole, *_ = accumulate(gradient, params, batch, jax.random.key(0), 1, 2)
    parts, weight, _ = accumulate(gradient, params, batch, jax.random.key(0), 2, 2)
    np.testing.assert_allclose(parts["w"], whole["w"], rtol=1e-6)
    assert float(weight) == 4
