"""Safetensors files: read a tensor at a time from one file or a sharded index, written a tensor at a time.

Format: 8 bytes header length, a JSON header {name: {dtype, shape, data_offsets}}, the data. The `safetensors` library checks
every file that is opened; data are read with plain file reads, so that no more than one tensor is in host memory.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

ALIGNMENT = 64  # bytes; JAX uses host memory that is aligned so without copying it
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file, or one that `make` works out when it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path | None = None
    offset: int = 0
    make: Callable[[], np.ndarray] | None = None

    def read(self, scratch: np.ndarray | None = None) -> np.ndarray:
        """The tensor, in memory of its own, or in the bytes of `scratch`, which are used again."""
        if self.make is not None:
            return self.make()
        if scratch is None:
            data = aligned(self.shape, self.dtype)
        else:
            data = scratch[: size(self)].view(self.dtype).reshape(self.shape)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            view, done = memoryview(data.reshape(-1).view(np.uint8)), 0
            while done < data.nbytes:  # a read gives at most 2 GiB
                got = file.readinto(view[done:])
                if not got:
                    missing = data.nbytes - done
                    raise ValueError(f"{self.path} ends {missing} bytes early; download or copy it again")
                done += got
        return data


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array, not filled, in memory that JAX can use without copying it."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + count].view(dtype).reshape(shape)


def stored(folder) -> dict[str, Stored]:
    """Every tensor of a folder's model.safetensors, or else of the shards its index names.

    Raises:
      FileNotFoundError: no safetensors, or a shard that the index names is not there.
      ValueError: a damaged file, an index that disagrees with its shards, a dtype that is not supported.
    """
    folder = Path(folder)
    if (folder / SINGLE).exists():
        return dict(read_header(folder / SINGLE))
    if not (folder / INDEX).exists():
        refuse_absent(folder)
    return from_index(folder)


def refuse_absent(folder: Path) -> None:
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    remedy = (
        f"; {pickles[0]} is not read, because reading a pickle runs its code. Convert it where it comes from: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(OUT, safe_serialization=True)"
        if pickles
        else ""
    )
    raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}{remedy}")


def from_index(folder: Path) -> dict[str, Stored]:
    """The tensors that an index names, from the shards it names."""
    try:
        where = json.loads((folder / INDEX).read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is not an index: {error!r}") from error
    found: dict[str, Stored] = {}
    for shard in sorted(set(where.values())):
        if not (folder / shard).exists():
            raise FileNotFoundError(f"{folder / INDEX} names {shard}, which is not there; copy it or download it again")
        found |= read_header(folder / shard)
    if missing := sorted(set(where) - set(found)):
        raise ValueError(f"{folder / INDEX} names tensors that are in none of its shards: {', '.join(missing[:5])}")
    return found


def read_header(path: Path) -> Iterator[tuple[str, Stored]]:
    """(name, tensor) for every tensor of a file, which is checked."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):  # the system may begin to read what will be needed
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; download or copy it again") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is stored as {entry['dtype']}; supported are {', '.join(DTYPES)}")
        offset = 8 + size + entry["data_offsets"][0]
        yield name, Stored(tuple(entry["shape"]), np.dtype(DTYPES[entry["dtype"]]), path, offset)


def write(folder: Path, tensors: Mapping[str, Stored], shard_bytes: int, progress: Callable) -> None:
    """Writes tensors, each made when its turn comes, as model.safetensors, or as shards of at most `shard_bytes` + index."""
    shards, where = split(tensors, shard_bytes), {}
    shown = iter(progress(list(tensors), len(tensors)))
    for number, names in enumerate(shards, 1):
        shard = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / shard, {name: tensors[name] for name in names}, shown)
        where |= dict.fromkeys(names, shard)
    next(shown, None)
    if len(shards) == 1:
        return
    total = sum(size(tensor) for tensor in tensors.values())
    content = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


def split(tensors: Mapping[str, Stored], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut before a shard grows beyond `shard_bytes`."""
    shards, room = [], 0
    for name, tensor in tensors.items():
        if not shards or size(tensor) > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size(tensor)
    return shards


def size(tensor: Stored) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def write_file(path: Path, tensors: Mapping[str, Stored], shown: Iterator) -> None:
    """One safetensors file; a tensor is in memory only while it is written. `shown` is advanced by each."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = offset + size(tensor)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            next(shown)
            np.ascontiguousarray(tensor.read()).tofile(file)
