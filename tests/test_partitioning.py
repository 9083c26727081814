"""Meshes and layouts: 8 devices compute what 1 does, states are created sharded, and bad sizes are refused by name."""

import collections
import re

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from t5x_like import parameters, partitioning
from t5x_like.models import linear
from t5x_like.objectives.lm import LanguageModel
from t5x_like.parameters import Freeze
from t5x_like.partitioning import make_mesh
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from tests import tiny

MESHES = {
    "data x fsdp x tensor": dict(data=2, fsdp=2, tensor=2),
    "data x expert x tensor": dict(data=2, expert=2, tensor=2),
    "fsdp x expert": dict(data=1, fsdp=2, expert=4),
}
MODELS = {
    "decoder": (tiny.decoder, ("decoder",)),
    "encoder-decoder": (tiny.encoder_decoder, ("encoder", "decoder")),
}


def layout_of(model, batch, mesh, optimizer=optax.adam(1e-2)):
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    return train_state.layout(model, optimizer, shapes, mesh)


def placed(batch, mesh):
    rows = len(next(iter(batch.values())))
    fetch = lambda start, stop: {name: x[start:stop] for name, x in batch.items()}  # noqa: E731
    return partitioning.global_batch(fetch, rows, partitioning.batch_sharding(mesh))


def three_steps(model, batch, mesh, microbatches=1):
    """Losses, gradient norms and parameters of three steps."""
    optimizer, objective = optax.adam(1e-2), LanguageModel()
    layout = layout_of(model, batch, mesh, optimizer)
    step = jit_step(
        TrainStep(model.apply, objective, optimizer, parameters.view(Freeze(), Precision()), microbatches),
        layout,
        partitioning.batch_sharding(mesh),
        mesh,
    )
    state, curve = layout.create(0), []
    with partitioning.on(mesh):
        for _ in range(3):
            state, metrics = step(state, placed(batch, mesh), {})
            curve.append([metrics["loss"][0] / metrics["loss"][1], metrics["grad_norm"][0]])
    return np.asarray(curve), jax.device_get(state.params)


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize("model_name", MODELS)
def test_eight_devices_train_like_one(model_name, experts):
    make, sides = MODELS[model_name]
    model, batch = make(experts=experts, scan=True), tiny.batch(sides=sides)
    one, params = three_steps(model, batch, make_mesh(devices=jax.devices()[:1]))
    for name, sizes in MESHES.items():
        if experts == ("expert" in name):
            curve, other = three_steps(model, batch, make_mesh(**sizes))
            np.testing.assert_allclose(curve, one, rtol=1e-5, err_msg=name)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, other)


def lower_step(mesh, experts=False):
    """Returns the train step of one layer, lowered for `mesh`."""
    model, batch = tiny.decoder(experts=experts, repeats=1), tiny.batch()
    layout, optimizer = layout_of(model, batch, mesh, optax.sgd(1e-2)), optax.sgd(1e-2)
    step = TrainStep(model.apply, LanguageModel(), optimizer, parameters.view(Freeze(), Precision()))
    state, rows = layout.abstract, partitioning.batch_sharding(mesh)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    with partitioning.on(mesh):
        return jit_step(step, layout, rows, mesh).lower(state, shapes, {})


def count_collectives(lowered):
    """Returns the number of collectives in a compiled program, by kind and shape."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return collections.Counter(re.findall(rf"= (\S+) ({kinds})(?:-start)?\(", lowered.compile().as_text()))


@pytest.mark.parametrize("sizes, experts", [(MESHES["data x fsdp x tensor"], False), (dict(data=4, fsdp=2), True)])
def test_merged_dims_need_no_more_collectives(sizes, experts, monkeypatch):
    mesh = make_mesh(**sizes)
    merged = lower_step(mesh, experts)
    monkeypatch.setattr(linear, "prefers_merged_dims", lambda: False)
    plain = lower_step(mesh, experts)
    assert merged.as_text() != plain.as_text()
    merged, plain = count_collectives(merged), count_collectives(plain)
    count_kinds = lambda counts: collections.Counter(kind for _, kind in counts.elements())  # noqa: E731
    assert count_kinds(merged) == count_kinds(plain) and plain


def test_a_tpu_program_merges_no_dims(monkeypatch):
    pytest.importorskip("libtpu", reason="compiles for a TPU")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=devices)
    actual = lower_step(mesh)
    monkeypatch.setattr(linear, "prefers_merged_dims", lambda: False)
    assert actual.as_text() == lower_step(mesh).as_text()
    assert count_collectives(actual)


@pytest.mark.parametrize("experts", [False, True])
def test_microbatches_train_like_the_whole_batch(experts):
    model, batch = tiny.decoder(experts=experts), tiny.batch()
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    whole, params = three_steps(model, batch, mesh)
    for microbatches in (2, 4):
        parts, other = three_steps(model, batch, mesh, microbatches)
        np.testing.assert_allclose(parts, whole, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, other)


def test_states_are_created_sharded_with_their_optimizer_moments():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    layout = layout_of(tiny.decoder(), tiny.batch(), mesh)
    state = layout.create(0)
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        kernel = tree["decoder"]["layer_0"]["mlp"]["up"]["kernel"]
        assert kernel.addressable_shards[0].data.size * 4 == kernel.size
        assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    compiled = jax.jit(lambda key: nn.unbox(layout.make(key)), out_shardings=layout.shardings)
    analysis = compiled.lower(jax.random.PRNGKey(0)).compile().memory_analysis()
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layout.abstract))
    assert analysis.output_size_in_bytes < whole / 3


def test_a_seed_gives_the_same_parameters_on_every_mesh():
    batch, values = tiny.batch(), []
    for sizes in (dict(data=8), dict(data=1, fsdp=4, tensor=2)):
        values.append(jax.device_get(layout_of(tiny.decoder(), batch, make_mesh(**sizes)).create(7).params))
    jax.tree.map(np.testing.assert_array_equal, *values)


@pytest.mark.parametrize("sizes", [dict(data=3), dict(data=2, tensor=3), dict(data=-1, fsdp=3), dict(data=0)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="make_mesh"):
        make_mesh(**sizes)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="no rule for the logical axis 'sideways'"):
        partitioning.spec(("embed", "sideways"))


def test_a_dimension_its_mesh_axis_does_not_divide_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'key'.*'kv_heads' of size 4 is not a multiple of the 8 devices"):
        layout_of(tiny.decoder(), tiny.batch(), make_mesh(data=1, tensor=8))


@pytest.mark.parametrize("size, microbatches, fits", [(100, 1, "96 or 104"), (3, 1, "8"), (24, 2, "16 or 32")])
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do(size, microbatches, fits):
    with pytest.raises(ValueError, match=f"batch_size={size} is not a multiple.*use {fits}"):
        partitioning.check_batch(size, microbatches, make_mesh())


def test_only_the_rows_of_this_process_are_fetched_in_order():
    mesh, asked = make_mesh(data=4, tensor=2), []

    def fetch(start, stop):
        asked.append((start, stop))
        return {"x": np.arange(start, stop)[:, None]}

    batch = partitioning.global_batch(fetch, 8, partitioning.batch_sharding(mesh))
    assert asked == [(0, 8)]
    np.testing.assert_array_equal(batch["x"][:, 0], np.arange(8))
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 1)}


def test_the_description_names_every_parameter_and_the_large_unsplit_ones():
    mesh = make_mesh(data=8)
    layout = layout_of(tiny.decoder(), tiny.batch(), mesh)
    text = partitioning.describe(layout.boxed.params, mesh)
    assert "decoder/layer_1/mixer/query/kernel" in text and "(embed, heads, head_dim)" in text
    table = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((1024, 1024), np.float32), ("norm", "length"))
    assert "not split over devices: big" in partitioning.describe({"big": table}, mesh)
