"""Parameter trees: their abstract layout, and which of them are trained.

A train state has two trees, `params` (trained) and `frozen`. A transform splits a model's parameters into the two, and merges
them back; the optimizer, gradients, norms and checkpoints see `params` alone. `Freeze` trains some of the model's parameters;
the transforms of `t5x_like.peft` train what they add to them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.models import adapted, stack
from t5x_like.precision import Precision
from t5x_like.types import Model, Params


class Transform(Protocol):
    """Which parameters are trained, and how the model's parameters are computed from those and the frozen ones."""

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """(trained, frozen) of a model's parameters, boxed with logical axis names; `rng` initializes what is added.

        What a transform adds to a parameter `kernel` is boxed too, and its name is `kernel`, ADDED and the transform's.
        """
        ...

    def merge(self, params: Params, frozen: Params) -> Params:
        """The model's parameters, unboxed, of which some may be nodes of `models.adapted`.

        A pure function; gradients flow to `params`.
        """
        ...


ADDED = "@"  # in the names of parameters that a transform adds: they belong to no model


@dataclasses.dataclass(frozen=True)
class Freeze:
    """Trains all parameters except those whose path ("decoder/layer_0/mlp/up/kernel") matches one of `patterns`."""

    patterns: Sequence[str] = ()

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `Transform.split`.

        Raises:
          ValueError: a pattern that matches nothing, or patterns that leave nothing to train.
        """
        if not self.patterns:
            return params, {}
        check_patterns(self.patterns, params)

        def is_frozen(path: str) -> bool:
            return any(re.search(pattern, path) for pattern in self.patterns)

        trained = select(params, lambda path: not is_frozen(path))
        if not trained:
            raise ValueError(f"Freeze.patterns={tuple(self.patterns)} match all parameters, none is left to train")
        return trained, select(params, is_frozen)

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `Transform.merge`."""
        return union(params, frozen)


def union(first: Params, second: Params) -> Params:
    """The union of two nested dicts whose leaves differ in path."""
    if not second:
        return first
    both = first.keys() & second.keys()
    return {**first, **second} | {name: union(first[name], second[name]) for name in both}


def view(transform: Transform, precision: Precision) -> Callable[[Params, Params], Params]:
    """The function (params, frozen) -> the model's parameters in the dtypes to compute in."""
    return lambda params, frozen: precision.to_compute_dtype(transform.merge(params, frozen))


def plain(params: Params) -> Params:
    """Parameters as arrays: each node of `models.adapted` is computed once, laid out as its kernel is."""

    def leaf(x: Any) -> Any:
        return compute_on(getattr(x, "kernel", x).sharding)(x) if adapted.is_computed(x) else x

    return jax.tree.map(leaf, params, is_leaf=adapted.is_computed)


@functools.cache
def compute_on(sharding: jax.sharding.Sharding) -> Callable[[Any], jax.Array]:
    """The compiled function that computes an adapted weight onto a sharding."""
    return jax.jit(lambda x: x.astype(x.dtype), out_shardings=sharding)


def split_abstract(transform: Transform, boxed: Params) -> tuple[Params, Params]:
    """(trained, frozen) of abstract parameters, boxed; nothing is computed."""
    key = jax.eval_shape(jax.random.PRNGKey, 0)
    return jax.eval_shape(transform.split, boxed, key)


def box(names: Params, params: Params) -> Params:
    """Parameters boxed with the logical axis names of a boxed tree."""

    def leaf(named: Any, x: Any) -> Any:
        return named.replace_boxed(x) if partitioning.is_boxed(named) else x

    return jax.tree.map(leaf, names, params, is_leaf=partitioning.is_boxed)


def select(tree: Params, choose: Callable[[str], bool], prefix: str = "") -> Params:
    """The part of a nested dict whose leaves' paths `choose` accepts; empty dicts are dropped."""
    result = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            if part := select(value, choose, path):
                result[name] = part
        elif choose(path):
            result[name] = value
    return result


def path_name(path: Sequence[Any]) -> str:
    """A leaf's key path joined with slashes; the box around a value has no name."""
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def map_paths(function: Callable[[str], Any], tree: Params) -> Any:
    """The tree of function(path) for every parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: function(path_name(path)), tree, is_leaf=partitioning.is_boxed
    )


def check_patterns(patterns: Sequence[str], params: Params) -> None:
    """Checks that every regular expression matches the path of a parameter.

    Raises:
      ValueError: one that does not, with examples of paths.
    """
    paths = jax.tree.leaves(map_paths(lambda path: path, params))
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            examples = ", ".join(sorted(paths)[:8])
            raise ValueError(f"the expression {pattern!r} is found in no parameter's path; paths are like {examples}")


def abstract(boxed: Any, shardings: Any) -> Any:
    """A boxed tree as plain shapes, dtypes and shardings."""

    def leaf(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, nn.unbox(boxed), shardings)


def init_abstract(
    model: Model, batch: Mapping[str, Any], mesh: Mesh, rules: partitioning.Rules, precision: Precision
) -> Params:
    """A model's abstract parameters with their logical axis names; nothing is computed."""

    def make(key: jax.Array) -> Params:
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        return precision.to_param_dtype(model.init(key, zeros)["params"])

    with partitioning.on(mesh, rules):
        return jax.eval_shape(make, jax.eval_shape(jax.random.PRNGKey, 0))


def unroll(model: Model, params: Params) -> tuple[Model, Params]:
    """The same model with its layers unrolled, for decoding: (model, parameters).

    A decoding step of scanned layers copies the weights of each, which on a CPU nearly doubles its time; unrolled layers take
    longer to compile. Layers that share their parameters stay scanned.
    """
    for name, tower in list(vars(model).items()):
        if isinstance(tower, stack.Stack) and tower.scan and not tower.shared:
            model = dataclasses.replace(cast(Any, model), **{name: tower.clone(scan=False)})
            layers = jax.jit(functools.partial(unstack, tower.repeats))(params[name]["layers"])
            others = {key: x for key, x in params[name].items() if key != "layers"}
            params = {**params, name: others | {f"layer_{i}": layer for i, layer in enumerate(layers)}}
    return model, params


def unstack(count: int, layers: Params) -> list[Params]:
    """The parameters of each layer, of layers that are stacked along axis 0."""

    def take(index: int) -> Params:
        return jax.tree.map(lambda x: x[index], layers)

    return [take(index) for index in range(count)]
