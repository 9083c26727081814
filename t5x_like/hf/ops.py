"""Ops: invertible maps between one tensor of a file and one or several parameters.

`split(tensor, shapes) -> arrays` gives one array per parameter; `join(arrays) -> tensor` inverts it. Ops only move numbers, so
a round trip is bit-exact. They work on NumPy and JAX arrays, and on JAX's abstract arrays for shapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Op:
    """A pair of inverse functions.

    Equal ops must be the same object, because compiled functions are cached by op; hence `functools.cache` below.
    """

    split: Callable[[Any, Sequence[Shape]], Sequence[Any]]
    join: Callable[[Sequence[Any]], Any]

    @functools.cache  # noqa: B019 - ops are few, and live as long as the process
    def then(self, other: "Op") -> "Op":
        """Returns this op followed by `other` on each of its arrays."""
        return Op(
            lambda x, shapes: [other.split(y, [s])[0] for y, s in zip(self.split(x, shapes), shapes, strict=True)],
            lambda arrays: self.join([other.join([y]) for y in arrays]),
        )


def concat_arrays(arrays: Sequence[Any], axis: int) -> Any:
    """Concatenates NumPy or JAX arrays."""
    return (jnp if isinstance(arrays[0], jax.Array) else np).concatenate(arrays, axis)


def one_to_one(forward: Callable, backward: Callable) -> Op:
    """Returns an op between one tensor and one parameter: `forward(x, shape)` and `backward(y)`."""
    return Op(lambda x, shapes: [forward(x, shapes[0])], lambda arrays: backward(arrays[0]))


identity = one_to_one(lambda x, shape: x, lambda y: y)
transpose = one_to_one(lambda x, shape: x.T, lambda y: y.T)
flatten = one_to_one(lambda x, shape: x.reshape(shape), lambda y: y.reshape(-1))


@functools.cache
def leading_ones(ones: int) -> Op:
    """A vector that the file stores with `ones` leading dimensions of size 1."""
    return one_to_one(lambda x, shape: x.reshape(shape), lambda y: y.reshape(*[1] * ones, -1))


def flatten_kernel(y: Any, inputs: int) -> Any:
    """Reshapes a kernel to (inputs, outputs); its first `inputs` dimensions are the inputs."""
    return y.reshape(math.prod(y.shape[:inputs]), -1)


@functools.cache
def linear(inputs: int = 1) -> Op:
    """A torch Linear [out, in] and a kernel whose first `inputs` dimensions are the inputs."""
    return one_to_one(lambda x, shape: x.T.reshape(shape), lambda y: flatten_kernel(y, inputs).T)


@functools.cache
def conv1d(inputs: int = 1) -> Op:
    """A GPT-2 Conv1D [in, out] and a kernel whose first `inputs` dimensions are the inputs."""
    return one_to_one(lambda x, shape: x.reshape(shape), lambda y: flatten_kernel(y, inputs))


@functools.cache
def permute(*axes: int) -> Op:
    """A permutation of the dimensions."""
    back = tuple(np.argsort(axes))
    return one_to_one(lambda x, shape: x.transpose(axes), lambda y: y.transpose(back))


@functools.cache
def deinterleave(width: int) -> Op:
    """Rotary pairs in the first `width` numbers of every head: neighbours in the file (GPT-J), halves in the parameter."""
    order = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
    back = np.argsort(order)

    def reorder(x: Any, indices: np.ndarray) -> Any:
        return concat_arrays([x[..., indices], x[..., width:]], axis=-1)

    return one_to_one(lambda x, shape: reorder(x, order), lambda y: reorder(y, back))


@functools.cache
def concatenate(kernel: bool, conv: bool = False) -> Op:
    """Outputs of several parameters, concatenated in the rows of a Linear (columns of a Conv1D, elements of a bias)."""
    outputs_last = conv or not kernel

    def split(x: Any, shapes: Sequence[Shape]) -> list[Any]:
        sizes = [math.prod(shape[1:] if kernel else shape) for shape in shapes]
        ends = np.cumsum(sizes)
        pieces = [
            x[..., end - size : end] if outputs_last else x[end - size : end]
            for size, end in zip(sizes, ends, strict=True)
        ]
        return [(y if outputs_last else y.T).reshape(shape) for y, shape in zip(pieces, shapes, strict=True)]

    def join(arrays: Sequence[Any]) -> Any:
        if not kernel:
            return concat_arrays([y.reshape(-1) for y in arrays], 0)
        fused = concat_arrays([flatten_kernel(y, 1) for y in arrays], 1)
        return fused if conv else fused.T

    return Op(split, join)


@functools.cache
def qkv_by_group(kernel: bool, groups: int) -> Op:
    """Fused query, key, value [.., H or G, K]: for each of G groups its H / G query heads, then its key and its value."""

    def split(x: Any, shapes: Sequence[Shape]) -> list[Any]:
        (*lead, heads, depth), shared = shapes[0], shapes[0][-2] // groups + 2
        x = (x.T if kernel else x).reshape(*lead, groups, shared, depth)
        q, k, v = x[..., :-2, :], x[..., -2, :], x[..., -1, :]
        return [q.reshape(*lead, heads, depth), k, v]

    def join(arrays: Sequence[Any]) -> Any:
        q, k, v = arrays
        *lead, heads, depth = q.shape
        q = q.reshape(*lead, groups, heads // groups, depth)
        fused = concat_arrays([q, k[..., None, :], v[..., None, :]], -2)
        return fused.reshape(*lead, -1).T if kernel else fused.reshape(-1)

    return Op(split, join)


@functools.cache
def qkv_by_core(cores: int) -> Op:
    """CodeGen's fused kernel: for each of the TPU cores it was trained on, its query heads, value heads, key heads."""

    def split(x: Any, shapes: Sequence[Shape]) -> list[Any]:
        width, heads, depth = shapes[0]
        x = x.T.reshape(width, cores, 3, heads // cores, depth)
        return [x[:, :, i].reshape(width, heads, depth) for i in (0, 2, 1)]

    def join(arrays: Sequence[Any]) -> Any:
        width, heads, depth = arrays[0].shape
        parts = [arrays[i].reshape(width, cores, 1, heads // cores, depth) for i in (0, 2, 1)]
        return concat_arrays(parts, 2).reshape(width, -1).T

    return Op(split, join)
