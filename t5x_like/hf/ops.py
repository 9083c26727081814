"""How one tensor of a file and our parameters are the same numbers: pairs of functions, read forwards and backwards.

`split(tensor, shapes) -> arrays`, one for each of our parameters with their shapes; `join(arrays) -> tensor`. They only move
numbers, so both ways together change no bit. They work on numpy arrays and, for shapes, on JAX's abstract ones.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Op:
    split: Callable[[np.ndarray, Sequence[Shape]], Sequence[np.ndarray]]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]

    @functools.cache  # noqa: B019 - ops are few, and the same op must stay the same object: programs are compiled by it
    def then(self, ours: "Op") -> "Op":
        """`ours` applied to each array between this op and our parameters."""
        return Op(
            lambda x, shapes: [ours.split(y, [s])[0] for y, s in zip(self.split(x, shapes), shapes, strict=True)],
            lambda arrays: self.join([ours.join([y]) for y in arrays]),
        )


def concatenated(arrays: Sequence, axis: int):
    """np.concatenate, also of abstract arrays."""
    return (jnp if isinstance(arrays[0], jax.Array) else np).concatenate(arrays, axis)


def one(forward: Callable, backward: Callable) -> Op:
    """An op between one tensor and one parameter."""
    return Op(lambda x, shapes: [forward(x, shapes[0])], lambda arrays: backward(arrays[0]))


same = one(lambda x, shape: x, lambda y: y)
flipped = one(lambda x, shape: x.T, lambda y: y.T)
vector = one(lambda x, shape: x.reshape(shape), lambda y: y.reshape(-1))


@functools.cache
def leading(ones: int) -> Op:
    """A vector there with dims of size 1 before it."""
    return one(lambda x, shape: x.reshape(shape), lambda y: y.reshape(*[1] * ones, -1))


def flat(y, inputs: int):
    """A kernel as (inputs, outputs), its first `inputs` dims being the inputs."""
    return y.reshape(math.prod(y.shape[:inputs]), -1)


@functools.cache
def linear(inputs: int = 1) -> Op:
    """torch's Linear [out, in]; our kernel has `inputs` input dims first."""
    return one(lambda x, shape: x.T.reshape(shape), lambda y: flat(y, inputs).T)


@functools.cache
def conv1d(inputs: int = 1) -> Op:
    """GPT-2's Conv1D [in, out]."""
    return one(lambda x, shape: x.reshape(shape), lambda y: flat(y, inputs))


@functools.cache
def transposed(*axes: int) -> Op:
    """The dims in another order."""
    back = tuple(np.argsort(axes))
    return one(lambda x, shape: x.transpose(axes), lambda y: y.transpose(back))


@functools.cache
def unzipped(width: int) -> Op:
    """The first `width` numbers of every head paired as neighbours (GPT-J) there, as halves here."""
    order = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
    back = np.argsort(order)

    def moved(x, places):
        return concatenated([x[..., places], x[..., width:]], axis=-1)

    return one(lambda x, shape: moved(x, order), lambda y: moved(y, back))


@functools.cache
def side_by_side(kernel: bool, conv: bool = False) -> Op:
    """Our parameters' outputs one after the other in the tensor's rows (columns of a Conv1D; elements of a bias)."""
    outputs_last = conv or not kernel

    def split(x, shapes):
        sizes = [math.prod(shape[1:] if kernel else shape) for shape in shapes]
        ends = np.cumsum(sizes)
        pieces = [
            x[..., end - size : end] if outputs_last else x[end - size : end]
            for size, end in zip(sizes, ends, strict=True)
        ]
        return [(y if outputs_last else y.T).reshape(shape) for y, shape in zip(pieces, shapes, strict=True)]

    def join(arrays):
        if not kernel:
            return concatenated([y.reshape(-1) for y in arrays], 0)
        together = concatenated([flat(y, 1) for y in arrays], 1)
        return together if conv else together.T

    return Op(split, join)


@functools.cache
def by_group(kernel: bool, groups: int) -> Op:
    """Query, key, value [.., H or G, K] with, for each of G groups, its H / G query heads, then its key and its value."""

    def split(x, shapes):
        (*lead, heads, depth), shared = shapes[0], shapes[0][-2] // groups + 2
        x = (x.T if kernel else x).reshape(*lead, groups, shared, depth)
        q, k, v = x[..., :-2, :], x[..., -2, :], x[..., -1, :]
        return [q.reshape(*lead, heads, depth), k, v]

    def join(arrays):
        q, k, v = arrays
        *lead, heads, depth = q.shape
        q = q.reshape(*lead, groups, heads // groups, depth)
        together = concatenated([q, k[..., None, :], v[..., None, :]], -2)
        return together.reshape(*lead, -1).T if kernel else together.reshape(-1)

    return Op(split, join)


@functools.cache
def by_core(cores: int) -> Op:
    """CodeGen's kernel: for each of the TPU cores it was trained on, its query heads, value heads, key heads."""

    def split(x, shapes):
        width, heads, depth = shapes[0]
        x = x.T.reshape(width, cores, 3, heads // cores, depth)
        return [x[:, :, i].reshape(width, heads, depth) for i in (0, 2, 1)]

    def join(arrays):
        width, heads, depth = arrays[0].shape
        parts = [arrays[i].reshape(width, cores, 1, heads // cores, depth) for i in (0, 2, 1)]
        return concatenated(parts, 2).reshape(width, -1).T

    return Op(split, join)
