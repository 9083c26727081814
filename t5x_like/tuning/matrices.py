"""The factors A and B of a tensor of a file, and those of the parameters that the tensor is split into.

A Linear's weight [out, in] has A [rank, in] and B [out, rank]. An op (`hf.ops`) moves the weight's numbers to one or several
kernels [*inputs, *outputs]; it moves rows and columns as a whole, so each factor is moved by the same indices.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.hf.ops import Op

Shape = tuple[int, ...]
Factors = Mapping[str, np.ndarray]  # "a", "b" and, in DoRA, "magnitude"


@dataclasses.dataclass(frozen=True)
class Part:
    """One kernel of a tensor: for each of its inputs and outputs the index of the tensor's input or output."""

    ins: np.ndarray
    outs: np.ndarray

    def split(self, lora_a: np.ndarray, lora_b: np.ndarray, magnitude: np.ndarray | None) -> dict[str, np.ndarray]:
        """The factors of the kernel, from those of the tensor."""
        rank = len(lora_a)
        a = lora_a.T[self.ins.reshape(-1)].reshape(*self.ins.shape, rank)
        b = lora_b[self.outs.reshape(-1)].T.reshape(rank, *self.outs.shape)
        return {"a": a, "b": b} | ({} if magnitude is None else {"magnitude": magnitude.reshape(-1)[self.outs]})


@functools.cache
def parts(op: Op, shape: Shape, kernels: tuple[Shape, ...], inputs: tuple[int, ...]) -> tuple[Part, ...]:
    """The parts of a tensor of `shape`, whose kernels have these shapes and numbers of input dims.

    Raises:
      ValueError: the op moves single numbers.
    """
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    pieces = op.split(numbers, kernels)
    return tuple(find_part(np.asarray(x), count, shape[1]) for x, count in zip(pieces, inputs, strict=True))


def find_part(numbers: np.ndarray, inputs: int, columns: int) -> Part:
    """The part whose numbers, of a Linear [out, in] or Conv1D [in, out] with so many columns, lie in a kernel like this."""
    ins, outs = numbers.shape[:inputs], numbers.shape[inputs:]
    matrix = numbers.reshape(math.prod(ins), math.prod(outs))
    rows, cols = matrix // columns, matrix % columns
    if not (rows == rows[:1]).all():
        rows, cols = cols, rows
    if not (rows == rows[:1]).all() or not (cols == cols[:, :1]).all():
        raise ValueError("the op of a tensor moves single numbers, so its low-rank factors cannot be moved")
    return Part(cols[:, 0].reshape(ins), rows[0].reshape(outs))


def join(found: Sequence[Part], factors: Sequence[Factors | None], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The factors of a tensor with `shape` (inputs, outputs), from those of its kernels; None for one that has none.

    Kernels with the same A share it. Otherwise the rank is the sum of theirs, and each row of B uses the A of its kernel.
    """
    present = [(part, x) for part, x in zip(found, factors, strict=True) if x is not None]
    flat = [x["a"].reshape(-1, x["a"].shape[-1]).T for _, x in present]
    shared = len(present) == len(found) and all(np.array_equal(flat[0], a) for a in flat)
    blocks = [slice(0, len(flat[0]))] * len(flat) if shared else offsets([len(a) for a in flat])
    rank = max(block.stop for block in blocks)
    dtype = present[0][1]["a"].dtype
    result = {"lora_A": np.zeros((rank, shape[0]), dtype), "lora_B": np.zeros((shape[1], rank), dtype)}
    if "magnitude" in present[0][1]:
        if len(present) < len(found):
            raise ValueError(
                "some of the weights that the file stores as one have magnitudes, others not; adapt all of them"
            )
        result["lora_magnitude_vector"] = np.zeros(shape[1], dtype)
    for (part, x), a, block in zip(present, flat, blocks, strict=True):
        outs = part.outs.reshape(-1)
        result["lora_A"][block, part.ins.reshape(-1)] = a
        result["lora_B"][outs, block] = x["b"].reshape(a.shape[0], -1).T
        if "magnitude" in x:
            result["lora_magnitude_vector"][outs] = x["magnitude"].reshape(-1)
    return result


def offsets(sizes: Sequence[int]) -> list[slice]:
    """Neighbouring slices of these sizes."""
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def as_vector(tensor: Any) -> np.ndarray:
    """A tensor as a vector."""
    return np.asarray(tensor).reshape(-1)
