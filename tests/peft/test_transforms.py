"""LoRA, DoRA, (IA)3 and selections on all kinds of models: they start as the base, and merged weights give the same numbers."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import parameters, partitioning
from t5x_like.models import adapted
from t5x_like.objectives.lm import LanguageModel
from t5x_like.peft.ia3 import IA3
from t5x_like.peft.lora import LoRA
from t5x_like.peft.selection import Train
from tests import tiny

KINDS = {
    "decoder": (tiny.decoder(scan=True), ("decoder",)),
    "experts": (tiny.decoder(experts=True), ("decoder",)),
    "encoder": (tiny.encoder(), ("encoder",)),
    "encoder_decoder": (tiny.encoder_decoder(scan=True), ("encoder", "decoder")),
}
EVERY = ("kernel$", "table$")


def boxed_params(kind):
    model, sides = KINDS[kind]
    return jax.jit(model.init)(jax.random.key(0), tiny.batch(2, sides=sides))["params"]


def shapes_of(kind):
    model, sides = KINDS[kind]
    return jax.eval_shape(model.init, jax.random.key(0), tiny.batch(2, sides=sides))["params"]


def moved(trained, by=0.1):
    """The trained parameters after steps that changed all of them."""
    return jax.tree.map(lambda x: x + by * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_bitwise_and_merged_equals_unmerged(kind):
    model, sides = KINDS[kind]
    batch, boxed = tiny.batch(2, sides=sides), boxed_params(kind)
    base = nn.unbox(boxed)
    experts = ("mlp/(up|gate|down)$",) if kind == "experts" else ()
    transforms = {"lora": LoRA((*EVERY, *experts)), "rslora": LoRA(("mixer",), rank_stabilized=True)}
    transforms |= {"dora": LoRA(("kernel$", *experts), magnitudes=True)}
    if kind != "experts":
        transforms["ia3"] = IA3()
    logits = jax.jit(lambda params: model.apply({"params": params}, batch))
    expected = logits(base)
    scale = float(jnp.max(jnp.abs(expected)))
    for name, transform in transforms.items():
        trained, frozen = nn.unbox(transform.split(boxed, jax.random.key(1)))
        start = logits(transform.merge(trained, frozen))
        if name == "dora" or experts:  # norms, and experts' weights, are computed again
            np.testing.assert_allclose(start, expected, atol=2e-6 * scale)
        else:
            np.testing.assert_array_equal(start, expected)
        view = transform.merge(moved(trained), frozen)
        separate, merged = logits(view), logits(parameters.plain(view))
        assert float(jnp.max(jnp.abs(separate - expected))) > 1e-2 * scale
        np.testing.assert_allclose(merged, separate, atol=1e-5 * scale)
        tree = jax.tree.structure(parameters.plain(view))
        assert tree == jax.tree.structure(base), name


@pytest.mark.parametrize("magnitudes", [False, True])
def test_merging_is_the_published_formula(magnitudes):
    """W + alpha / r A B, and m V / |V| over the inputs, as matrices of one layer and head by head."""
    boxed = boxed_params("decoder")
    lora = LoRA(("mixer/(query|out)/kernel",), rank=3, alpha=6.0, magnitudes=magnitudes)
    trained, frozen = nn.unbox(lora.split(boxed, jax.random.key(0)))
    trained = moved(trained)
    merged = parameters.plain(lora.merge(trained, frozen))["decoder"]["layers"]["mixer"]
    for name, inputs in (("query", 1), ("out", 2)):
        added = trained["decoder"]["layers"]["mixer"][name]["kernel@lora"]
        kernel = np.asarray(frozen["decoder"]["layers"]["mixer"][name]["kernel"], np.float64)
        for layer in range(2):
            matrix = kernel[layer].reshape(math.prod(kernel.shape[1 : 1 + inputs]), -1)
            a, b = (np.asarray(added[x][layer], np.float64) for x in "ab")
            value = matrix + 2.0 * a.reshape(-1, 3) @ b.reshape(3, -1)
            if magnitudes:
                value *= np.asarray(added["magnitude"][layer]).reshape(-1) / np.linalg.norm(value, axis=0)
            np.testing.assert_allclose(merged[name]["kernel"][layer].reshape(matrix.shape), value, atol=1e-5)


def test_gradients_equal_those_of_the_merged_weights():
    """d/dA and d/dB through the separate products are those through W + A B; frozen parameters have none to compute."""
    model, sides = KINDS["encoder_decoder"]
    batch = tiny.batch(2, sides=sides)
    lora = LoRA(EVERY, rank=2)
    trained, frozen = nn.unbox(lora.split(boxed_params("encoder_decoder"), jax.random.key(1)))
    trained = moved(trained)

    def loss(trained, merge):
        view = lora.merge(trained, frozen)
        arrays = jax.tree.map(lambda x: x.astype(x.dtype), view, is_leaf=adapted.is_computed) if merge else view
        return LanguageModel()(model.apply, arrays, batch, None)[0]

    separate, merged = (jax.jit(jax.grad(loss), static_argnums=1)(trained, merge) for merge in (False, True))
    for a, b in zip(jax.tree.leaves(separate), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.max(jnp.abs(b))))


def test_dropout_drops_what_a_reads_in_training_only():
    model, batch = tiny.decoder(), tiny.batch(2)
    lora = LoRA(("kernel$",), dropout=0.5)
    boxed = model.init(jax.random.key(0), batch)["params"]
    trained, frozen = nn.unbox(lora.split(boxed, jax.random.key(1)))
    zero, view = lora.merge(trained, frozen), lora.merge(moved(trained), frozen)

    @jax.jit
    def logits(params, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, batch, True, rngs=rngs), model.apply({"params": params}, batch)

    (first, plain), (second, _) = logits(view, 0), logits(view, 1)
    assert np.abs(first - second).max() > 1e-3 and np.abs(first - plain).max() > 1e-3
    np.testing.assert_array_equal(plain, jax.jit(lambda p: model.apply({"params": p}, batch))(view))
    np.testing.assert_array_equal(*logits(zero, 0))


def test_adapters_have_the_axes_of_their_weights():
    trained, _ = LoRA(EVERY, magnitudes=False).split(shapes_like("decoder"), jax.random.key(0))
    mixer = trained["decoder"]["layers"]["mixer"]
    assert mixer["query"]["kernel@lora"]["a"].names == ("layers", "embed", "rank")
    assert mixer["query"]["kernel@lora"]["b"].names == ("layers", "rank", "heads", "head_dim")
    assert mixer["out"]["kernel@lora"]["a"].names == ("layers", "heads", "head_dim", "rank")
    assert trained["embed"]["table@lora"]["a"].names == ("vocab", "rank")
    factors, _ = IA3().split(shapes_like("decoder"), jax.random.key(0))
    down = factors["decoder"]["layers"]["mlp"]["down"]["kernel@ia3"]["inputs"]["scale"]
    assert (down.names, down.value.shape) == (("layers", "mlp", "rank"), (2, 64, 1))
    for tree in (trained, factors):
        partitioning.shardings(tree, partitioning.make_mesh(data=2, fsdp=2, tensor=2))


def shapes_like(kind):
    """Boxed zeros: `split` needs no more of a model."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes_of(kind))


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_selections_train_what_matches_and_nothing_else():
    boxed = boxed_params("encoder")
    for patterns, expected in ((("(^|/)bias$",), "bias"), (("norm[^/]*/(scale|bias)$",), "norm")):
        train = Train(patterns)
        trained, frozen = train.split(boxed, jax.random.key(0))
        paths = jax.tree.leaves(parameters.map_paths(lambda path: path, trained))
        assert paths and all(expected in path for path in paths)
        assert count(trained) + count(frozen) == count(boxed)
        assert jax.tree.structure(train.merge(trained, frozen)) == jax.tree.structure(boxed)


def test_exceptions_of_rank_and_alpha_and_parameters_trained_as_well():
    lora = LoRA(("mixer/", "mlp/"), rank=4, alpha=8.0, ranks=[("query", 2)], alphas=[("mlp", 2.0)], trained=("norm",))
    trained, frozen = lora.split(shapes_like("decoder"), jax.random.key(0))
    layers = trained["decoder"]["layers"]
    assert layers["mixer"]["query"]["kernel@lora"]["a"].value.shape == (2, 32, 2)
    assert (lora.scale("x/query/kernel"), lora.scale("x/mlp/up/kernel")) == (4.0, 0.5)
    assert LoRA(("x",), rank=4, alpha=8.0, rank_stabilized=True).scale("x") == 4.0
    assert "scale" in layers["mixer_norm"] and "scale" not in frozen["decoder"]["layers"].get("mixer_norm", {})


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LoRA(("nothing",)), "LoRA.targets: 'nothing' is found in the path of no weight"),
        (lambda: LoRA(()), "LoRA.targets=() name no weight"),
        (lambda: LoRA(("norm/scale",)), "LoRA.targets: 'norm/scale' is found in the path of no weight"),
        (lambda: LoRA(("query",), parameters=7), "LoRA.parameters=7, but 1,024 parameters are trained, in 2 arrays"),
        (
            lambda: LoRA(("query",), ranks=[("key", 2)]),
            "LoRA.ranks: 'key' is found in the path of no weight of LoRA.targets",
        ),
        (lambda: LoRA(("table",), dropout=0.1), "LoRA.dropout=0.1: embed/table has no dropout"),
        (lambda: LoRA(("table",), magnitudes=True), "LoRA.magnitudes: embed/table is a table"),
        (lambda: LoRA(("query",), trained=("kernel",)), "match decoder/layers/mixer/query/kernel, which is a target"),
        (lambda: LoRA(("query",), rank=0), "LoRA.rank=0 is not a positive whole number"),
        (lambda: LoRA(("query",), alpha=0.0), "LoRA.alpha=0.0 is not a positive number"),
        (lambda: LoRA(("query",), dropout=1.0), "LoRA.dropout=1.0 is not in 0 .. 1"),
        (lambda: IA3((), ()), "scale nothing"),
        (lambda: IA3(("key/kernel",), ("key/kernel",)), "both match decoder/layers/mixer/key/kernel"),
        (lambda: IA3(("table",), ()), "IA3.outputs: embed/table is a table"),
        (lambda: Train(("nothing",)), "the expression 'nothing' is found in no parameter's path"),
        (lambda: Train(("norm",), parameters=1), "Train.parameters=1, but 160 parameters"),
        (lambda: Train(()), "Train.patterns=() train nothing"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(make().split, shapes_of("decoder"), jax.random.PRNGKey(0))
