"""Safetensors files, single or sharded with an index, read and written a tensor at a time.

Format: 8 bytes header length, a JSON header {name: {dtype, shape, data_offsets}}, the data. The `safetensors` library
validates every file; plain file reads fetch the data, so that at most one tensor is in host memory.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import safetensors

from t5x_like.types import PathLike

ALIGNMENT = 64  # bytes; JAX uses memory with this alignment without a copy
CHECKED_SIZE = 2**17  # elements that are checked at once; they fit into the CPU's cache
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
SHARD_NAME = re.compile(r"(?!\.)[\w.-]+")
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file at `path` and `offset` (bytes), or one that `make` computes when it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path | None = None
    offset: int = 0
    make: Callable[[], np.ndarray] | None = None

    def read(self, scratch: np.ndarray | None = None) -> np.ndarray:
        """Reads the tensor into new memory, or into the bytes of `scratch`.

        Raises:
          ValueError: the file is too short.
        """
        if self.make is not None:
            return self.make()
        assert self.path is not None
        if scratch is None:
            data = allocate(self.shape, self.dtype)
        else:
            data = scratch[: byte_size(self)].view(self.dtype).reshape(self.shape)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            view, done = data.reshape(-1).view(np.uint8).data, 0
            while done < data.nbytes:  # a read returns at most 2 GiB
                count = file.readinto(view[done:])
                if not count:
                    missing = data.nbytes - done
                    raise ValueError(f"{self.path} is {missing} bytes too short; download or copy it again")
                done += count
        return data


def allocate(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialized array in memory that JAX can use without a copy."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + count].view(dtype).reshape(shape)


def count_nonfinite(x: np.ndarray) -> int:
    """The number of NaN and infinite values: those with the exponent of infinity."""
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    exponent = np.array(np.inf, x.dtype).view(unsigned)
    bits, count = x.reshape(-1).view(unsigned), 0
    for start in range(0, bits.size, CHECKED_SIZE):
        count += int(np.count_nonzero((bits[start : start + CHECKED_SIZE] & exponent) == exponent))
    return count


def list_tensors(folder: PathLike) -> dict[str, StoredTensor]:
    """Returns every tensor, by name, of a folder's model.safetensors or of the shards in its index; reads no data.

    Raises:
      FileNotFoundError: there are no safetensors, or a shard is missing.
      ValueError: a file is damaged, the index disagrees with its shards, or a dtype is not supported.
    """
    folder = Path(folder)
    if (folder / SINGLE_FILE).is_file():
        return dict(read_header(folder / SINGLE_FILE))
    if not (folder / INDEX_FILE).is_file():
        raise_absent(folder)
    return read_index(folder)


def raise_absent(folder: Path) -> NoReturn:
    """Raises FileNotFoundError, with the remedy if the folder has pickles."""
    pickles = [path.name for pattern in PICKLE_PATTERNS for path in sorted(folder.glob(pattern))]
    remedy = (
        f"; {pickles[0]} is not read, because loading a pickle runs its code. Convert it with transformers: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(OUT, safe_serialization=True)"
        if pickles
        else ""
    )
    raise FileNotFoundError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}{remedy}")


def read_index(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of the shards in an index."""
    try:
        weight_map = json.loads((folder / INDEX_FILE).read_bytes())["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder / INDEX_FILE} is not an index ({type(error).__name__}: {error})") from error
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise ValueError(
                f"{folder / INDEX_FILE} names the file {shard!r}; supported are names of files in the same folder"
            )
        if not (folder / shard).is_file():
            raise FileNotFoundError(
                f"{folder / INDEX_FILE} names {shard}, which does not exist; copy it or download it again"
            )
        tensors |= read_header(folder / shard)
    if missing := sorted(set(weight_map) - set(tensors)):
        raise ValueError(
            f"{folder / INDEX_FILE} names tensors that are in none of its shards: {', '.join(missing[:5])}"
        )
    return tensors


def read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Validates a file and yields (name, tensor) for each of its tensors."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):  # starts reading ahead
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; download or copy it again") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is stored as {entry['dtype']}; supported are {', '.join(DTYPES)}")
        offset = 8 + size + entry["data_offsets"][0]
        yield name, StoredTensor(tuple(entry["shape"]), np.dtype(DTYPES[entry["dtype"]]), path, offset)


def write_tensors(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    shard_bytes: int,
    progress: Callable[[Iterable[str], int], Iterable[str]],
) -> None:
    """Writes tensors one by one to model.safetensors, or to shards of at most `shard_bytes` with an index."""
    shards = split_shards(tensors, shard_bytes)
    weight_map: dict[str, str] = {}
    steps = iter(progress(list(tensors), len(tensors)))
    for number, names in enumerate(shards, 1):
        shard = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / shard, {name: tensors[name] for name in names}, steps)
        weight_map |= dict.fromkeys(names, shard)
    next(steps, None)
    if len(shards) == 1:
        return
    total = sum(byte_size(tensor) for tensor in tensors.values())
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n")


def split_shards(tensors: Mapping[str, StoredTensor], shard_bytes: int) -> list[list[str]]:
    """Splits the names, in order, into shards of at most `shard_bytes`, or of one larger tensor."""
    shards: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or byte_size(tensor) > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= byte_size(tensor)
    return shards


def byte_size(tensor: StoredTensor) -> int:
    """The size of a tensor in bytes."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def write_file(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    steps: Iterator[str],
    metadata: Mapping[str, str] = {"format": "pt"},
) -> None:
    """Writes one safetensors file. A tensor is in memory only while it is written; each advances `steps`."""
    header: dict[str, dict[str, Any]] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + byte_size(tensor)
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            next(steps)
            np.ascontiguousarray(tensor.read()).tofile(file)
