"""Stacks: scanned, unrolled and rematerialized layers compute the same function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from t5x_like.models import attention, blocks, linear, mlp, moe, norms, positions, routers, stack
from tests import tiny
from tests.models.contexts import array, context, random_params

SEGMENTS = [[1, 1, 1, 2, 2, 0]]
MIXED = blocks.Pattern(
    (
        blocks.Block(attention.SelfAttention(4, 8), mlp.Mlp(16, dropout=0.3)),
        blocks.Block(attention.SelfAttention(4, 8), moe.Moe(routers.TopK(3), 16, dispatch=moe.dense)),
    )
)


def output_and_grads(module: stack.Stack, params, x):
    """Returns the output, and gradients of a loss that includes the auxiliary losses."""

    def loss(params):
        y, sown = module.apply({"params": params}, x, context(SEGMENTS), mutable=["losses"])
        return jnp.sum(jnp.sin(y)) + sum(jnp.sum(part) for part in jax.tree.leaves(sown)), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return y, grads


def stack_layers(params):
    """Converts unrolled parameters to the scanned layout."""
    layers = [params[name] for name in sorted(params) if name.startswith("layer_")]
    others = {name: part for name, part in params.items() if not name.startswith("layer_")}
    return others | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


@pytest.mark.parametrize(
    ("block", "position"),
    [(tiny.tower().block, positions.Rope(8)), (MIXED, positions.RelativeBias(4))],
    ids=["rope", "bias"],
)
def test_scanned_equals_unrolled(block, position):
    unrolled = stack.Stack(block, 2, position, scan=False)
    x = array(1, 6, 32)
    params = random_params(unrolled, x, context(SEGMENTS))
    one, one_grads = output_and_grads(unrolled, params, x)
    two, two_grads = output_and_grads(dataclasses.replace(unrolled, scan=True), stack_layers(params), x)
    np.testing.assert_allclose(two, one, atol=1e-5)
    one_grads = stack_layers(one_grads)
    assert jax.tree.structure(one_grads) == jax.tree.structure(two_grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one_grads, two_grads)


def unroll_shared(params, layers):
    """Converts shared parameters to the layout of an unrolled stack."""
    others = {name: part for name, part in params.items() if name != "layers"}
    return others | {f"layer_{i}": params["layers"] for i in range(layers)}


def test_shared_layers_equal_layers_with_equal_parameters():
    block = blocks.Block(mixer=moe.Moe(routers.TopK(3), 8, dispatch=moe.dense))
    shared, x = stack.Stack(block, 2, shared=True), array(1, 6, 32)
    params = random_params(shared, x, context(SEGMENTS))
    y, grads = output_and_grads(shared, params, x)
    unrolled = dataclasses.replace(shared, shared=False, scan=False)
    expected, each = output_and_grads(unrolled, unroll_shared(params, 2), x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(each.pop(f"layer_{i}") for i in range(2)))
    each["layers"] = summed
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, each)


def test_shared_parameters_have_no_layer_axis():
    def boxes(module):
        shapes = jax.eval_shape(module.init, jax.random.key(0), array(1, 6, 32), context(SEGMENTS))["params"]
        return jax.tree.map(
            lambda box: (box.names, box.value.shape), shapes, is_leaf=lambda leaf: hasattr(leaf, "names")
        )

    tower = tiny.tower(repeats=3)
    assert boxes(dataclasses.replace(tower, shared=True))["layers"] == boxes(tower)["layer_0"]


@pytest.mark.parametrize("options", [{"scan": False}, {"scan": True}, {"shared": True}], ids=str)
def test_the_tail_follows_the_repeated_layers(options):
    last = blocks.Block(mixer=mlp.Mlp(8))
    whole, x = stack.Stack(tiny.tower().block, 2, positions.Rope(8), tail=last, **options), array(1, 6, 32)
    params = random_params(whole, x, context(SEGMENTS))

    def apply_in_parts(params):
        bare = dataclasses.replace(whole, tail=None, norm=None)
        y = bare.apply(
            {"params": {name: part for name, part in params.items() if name.startswith("layer")}}, x, context(SEGMENTS)
        )
        y = last.apply({"params": params["tail"]}, y, context(SEGMENTS))
        return norms.RMSNorm().apply({"params": params["norm"]}, y)

    y = jax.jit(lambda params: whole.apply({"params": params}, x, context(SEGMENTS)))(params)
    np.testing.assert_allclose(y, jax.jit(apply_in_parts)(params), atol=1e-5)


def test_the_projection_follows_the_input_norm():
    x, identity = array(1, 3, 8), blocks.Block(mixer=mlp.Mlp(4, kernel_init=nn.initializers.zeros))
    wider = linear.Dense((12,), ("embed", "mlp"))
    module = stack.Stack(identity, 2, input_norm=norms.LayerNorm(), projection=wider, norm=None, scan=False)
    y, variables = module.init_with_output(jax.random.key(0), x, context([[1, 1, 1]]))
    normed = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(y, normed @ variables["params"]["projection"]["kernel"].value, atol=1e-4)


@pytest.mark.parametrize("position", [positions.Rope(8), positions.RelativeBias(4)], ids=["rope", "bias"])
def test_equal_positions_in_every_layer_equal_one_on_the_stack(position):
    block, x = tiny.tower().block, array(1, 6, 32)
    on_stack = stack.Stack(block, 2, position, scan=False)
    per_layer = stack.Stack(blocks.Positioned(position, block), 2, scan=False)
    params = random_params(on_stack, x, context(SEGMENTS))
    shared = params.get("position", {})
    unrolled = {
        name: {"block": params[name]} | ({"position": shared} if shared else {}) for name in ("layer_0", "layer_1")
    }
    unrolled["norm"] = params["norm"]
    assert jax.tree.structure(unrolled) == jax.tree.structure(random_params(per_layer, x, context(SEGMENTS)))
    expected, y = (
        jax.jit(lambda params, module=module: module.apply({"params": params}, x, context(SEGMENTS)))(params)
        for module, params in ((on_stack, params), (per_layer, unrolled))
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_layers_may_have_different_positions():
    """Local layers rotate fast and global ones slowly (Gemma 3); neither affects the other's angles."""
    x, ropes = array(1, 6, 32), (positions.Rope(8), positions.Rope(8, base=1e6))
    pattern = blocks.Pattern(tuple(blocks.Positioned(rope, tiny.tower().block) for rope in ropes))
    params = random_params(pattern, x, context(SEGMENTS))

    @jax.jit
    def both(params):
        y = x
        for i, rope in enumerate(ropes):
            rotated = rope.apply({}, y, context(SEGMENTS))
            y = tiny.tower().block.apply({"params": params[f"blocks_{i}"]["block"]}, *rotated)
        return pattern.apply({"params": params}, x, context(SEGMENTS)), y

    np.testing.assert_allclose(*both(params), atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_remat_does_not_change_results(scan):
    x, plain = array(1, 6, 32), tiny.tower(experts=not scan, repeats=2 if scan else 1, scan=scan)
    params = random_params(plain, x, context(SEGMENTS))
    expected = output_and_grads(plain, params, x)
    for policy in (stack.save_nothing, stack.save_products):
        remat = output_and_grads(dataclasses.replace(plain, remat=policy), params, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), remat, expected)


def test_remat_recomputes():
    x = array(1, 6, 32)

    def products(policy):
        module = dataclasses.replace(tiny.tower(), remat=policy)
        shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x, context(SEGMENTS))["params"])
        loss = jax.grad(lambda params: jnp.sum(module.apply({"params": params}, x, context(SEGMENTS))))
        return str(jax.make_jaxpr(loss)(shapes)).count("dot_general")

    assert products(stack.save_nothing) > products(None)


def test_scanned_parameters_have_a_leading_layer_axis():
    x = array(1, 6, 32)
    shapes = jax.eval_shape(tiny.tower(scan=True, repeats=3).init, jax.random.key(0), x, context(SEGMENTS))["params"]
    for box in jax.tree.leaves(shapes["layers"], is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata)):
        assert box.names[0] == "layers" and box.value.shape[0] == 3 and len(box.names) == box.value.ndim


def test_layers_are_initialized_independently():
    x, module = array(1, 6, 32), stack.Stack(blocks.Block(mixer=mlp.Mlp(4)), 2)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), x, context(SEGMENTS))["params"])
    kernel = params["layers"]["mixer"]["up"]["kernel"]
    assert np.any(kernel[0] != kernel[1])


def test_dropout_follows_its_key_through_a_scan():
    x, module = array(1, 6, 32), tiny.tower(scan=True, dropout=0.5)
    params = random_params(module, x, context(SEGMENTS))

    @jax.jit
    def run(key):
        return module.apply({"params": params}, x, context(SEGMENTS, train=True), rngs={"dropout": key})

    assert np.any(run(jax.random.key(1)) != run(jax.random.key(2)))
    np.testing.assert_array_equal(run(jax.random.key(1)), run(jax.random.key(1)))


def test_norms_surround_the_blocks():
    x, identity = array(1, 3, 8), blocks.Block(mixer=mlp.Mlp(4, kernel_init=nn.initializers.zeros))
    for first, last in ((None, None), (norms.LayerNorm(), None), (None, norms.LayerNorm())):
        module = stack.Stack(identity, 2, input_norm=first, norm=last, scan=False)
        y, variables = module.init_with_output(jax.random.key(0), x, context([[1, 1, 1]]))
        expected = x if first is last else (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        np.testing.assert_allclose(y, expected, atol=1e-4)
        names = {"layer_0", "layer_1"} | ({"input_norm"} if first else set()) | ({"norm"} if last else set())
        assert set(variables["params"]) == names
