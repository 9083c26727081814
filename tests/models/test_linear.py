"""Dense and embedding layers against numpy, their axis names and initial deviations, and sharding constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend import core
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from t5x_like.models import heads, linear, moe
from t5x_like.models.linear import Dense, Embed, Projected, add_shared, constrain, over_root
from tests.models.contexts import array

RULES = (("batch", "data"), ("length", None), ("mlp", "tensor"))


def test_dense_contracts_its_inputs():
    x, kernel, bias = array(2, 3, 4, 5), array(4, 5, 6, 7, seed=1), array(6, 7, seed=2)
    dense = Dense((6, 7), ("heads", "head_dim", "embed", "mlp"), inputs=2, use_bias=True)
    y = dense.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, np.einsum("blhk,hkde->blde", x, kernel) + bias, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_add_shared_is_a_sum_with_its_gradients(dtype):
    x, shared, weight = array(2, 3, 4, 5), array(4, 5, seed=1).astype(dtype), array(2, 3, 4, 5, seed=2)
    loss = lambda add: jax.value_and_grad(lambda *xs: jnp.sum(weight * add(*xs) ** 2), (0, 1))(x, shared)  # noqa: E731
    for mine, other in zip(*(jax.tree.leaves(loss(add)) for add in (add_shared, jnp.add)), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(np.float32(mine), np.float32(other), rtol=jnp.finfo(dtype).eps * 8, atol=1e-5)


AXES = ("heads", "head_dim", "embed", "mlp")
# Products over [batch, length] or [batch, capacity], and the shapes of their two operands.
PRODUCTS = {
    "dense": (
        lambda x, w: Dense((6, 7), AXES, inputs=2).apply({"params": {"kernel": w}}, x),
        (2, 3, 4, 5),
        (4, 5, 6, 7),
    ),
    "head": (heads.product, (2, 3, 4), (9, 4)),
    "experts": (moe.stacked_product, (3, 2, 5, 4), (3, 4, 6)),
}


def gradients(product):
    """Returns a function to the gradients of both operands of `product`; a new one, for traces are cached."""
    return jax.grad(lambda x, w: jnp.sum(jnp.sin(product(x, w).astype(jnp.float32))), (0, 1))


def list_equations(jaxpr):
    """Yields the equations of a program and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from list_equations(inner)


def trace(product, *shapes):
    jaxpr = jax.make_jaxpr(gradients(product))(*[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])
    return list(list_equations(jaxpr.jaxpr))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("empty", [False, True])
def test_merged_dims_change_no_number(name, dtype, empty, monkeypatch):
    product, x_shape, w_shape = PRODUCTS[name]
    x_shape = (*x_shape[:1], 0, *x_shape[2:]) if empty else x_shape
    x, w = jnp.asarray(array(*x_shape), dtype), jnp.asarray(array(*w_shape, seed=1), dtype)
    merged = product(x, w), *gradients(product)(x, w)
    monkeypatch.setattr(linear, "prefers_merged_dims", lambda: False)
    plain = product(x, w), *gradients(product)(x, w)
    for one, two in zip(merged, plain, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        np.testing.assert_allclose(one.astype(np.float32), two.astype(np.float32), rtol=1e-2, atol=1e-5)


def test_dense_takes_a_single_vector():
    x, kernel = array(4), array(4, 5, seed=1)
    np.testing.assert_allclose(Dense((5,), AXES[2:]).apply({"params": {"kernel": kernel}}, x), x @ kernel, atol=1e-5)


@pytest.mark.parametrize("name", PRODUCTS)
def test_on_cpu_the_gradient_of_a_weight_contracts_one_dim(name):
    product, x_shape, w_shape = PRODUCTS[name]
    equations = trace(product, x_shape, w_shape)
    tokens = 10 if name == "experts" else 6
    contracted = []
    for equation in equations:
        if equation.primitive.name == "dot_general":
            (dims, _), _ = equation.params["dimension_numbers"]
            contracted.append([equation.invars[0].aval.shape[dim] for dim in dims])
    assert contracted.count([tokens]) == 1 and len(contracted) == 3


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_on_other_platforms_the_program_is_that_of_the_plain_product(name, platform):
    mesh = AbstractMesh((2,), ("data",), abstract_device=AbstractDevice("any", None, platform))
    with jax.sharding.use_abstract_mesh(mesh):
        names = [equation.primitive.name for equation in trace(*PRODUCTS[name])]
    assert "dot_general" in names and "reshape" not in names
    assert "reshape" in [equation.primitive.name for equation in trace(*PRODUCTS[name])]


@pytest.mark.parametrize("axis", ["length", "capacity", "expert"])
def test_a_dim_split_over_devices_is_not_merged(axis):
    mesh = jax.make_mesh((4, 1), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        for axes, merged in {
            None: True,
            "tensor": True,
            ("tensor",): True,
            "data": False,
            ("tensor", "data"): False,
        }.items():
            with nn.logical_axis_rules(((axis, axes), ("batch", "data"))):
                assert linear.prefers_merged_dims() == merged


def test_dense_names_its_axes_and_scales_by_the_fan_in():
    dense = Dense((200,), ("heads", "head_dim", "embed"), inputs=2, use_bias=True)
    params = dense.init(jax.random.key(0), jnp.zeros((1, 20, 30)))["params"]
    assert params["kernel"].names == ("heads", "head_dim", "embed") and params["bias"].names == ("embed",)
    assert np.std(params["kernel"].value) == pytest.approx(600**-0.5, rel=0.02)


def test_over_root_divides_by_the_root_of_the_product():
    init = over_root(nn.initializers.ones, (2, 8))
    np.testing.assert_allclose(init(jax.random.key(0), (3, 4), jnp.float32), 0.25)


def test_embed_looks_up_and_scales():
    table, tokens = array(7, 4), np.array([[0, 6, 3]])
    y = Embed(7, 4, scale=2.0).apply({"params": {"table": table}}, tokens)
    np.testing.assert_allclose(y, 2 * table[tokens])


def test_a_narrow_table_is_projected_to_the_width_and_stored_narrow():
    table, kernel, tokens = array(7, 4), array(4, 6, seed=1), np.array([[0, 6, 3]])
    bound = Projected(Embed(7, 4, scale=2.0), 6).bind(
        {"params": {"embed": {"table": table}, "projection": {"kernel": kernel}}}
    )
    np.testing.assert_allclose(bound(tokens), 2 * table[tokens] @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bound.table_VD, table)


def test_activations_have_the_dtype_of_the_parameters():
    table = jnp.zeros((7, 4), jnp.bfloat16)
    x = Embed(7, 4, scale=2.0).apply({"params": {"table": table}}, np.array([[1]]))
    y = Dense((3,), ("embed", "mlp"), use_bias=True).apply(
        {"params": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}, x
    )
    assert x.dtype == y.dtype == jnp.bfloat16


def test_constrain_shards_over_the_mesh():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        y = jax.jit(lambda x: constrain(x + 1, "batch", "length", "mlp"))(jnp.zeros((8, 3, 6)))
    assert y.sharding.is_equivalent_to(jax.NamedSharding(mesh, PartitionSpec("data", None, "tensor")), 3)
    assert y.addressable_shards[0].data.shape == (2, 3, 3)


def test_constrain_without_rules_does_nothing():
    x = array(2, 3)
    assert constrain(x, "no such", "axis") is x


def test_constrain_refuses_a_name_without_a_rule():
    with nn.logical_axis_rules(RULES), pytest.raises(ValueError, match=r"no axis rule names \['wing'\]; add one"):
        constrain(array(2, 3), "batch", "wing")
