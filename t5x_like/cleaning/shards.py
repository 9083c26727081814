"""The output files of a cleaning run: one shard per input, written atomically."""

import contextlib
import errno
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from t5x_like.cleaning.compression import COMPRESSED, import_zstandard
from t5x_like.cleaning.reading import find_suffix
from t5x_like.files import atomic


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete; an error leaves no part of it.

    Raises:
      OSError: the disk is full, or the file cannot be written.
    """
    try:
        with atomic.new_file(path) as file:
            yield file
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"no space left while writing {path}; free some and run the same command to resume"
            raise OSError(error.errno, message) from error
        raise


def open_gzip(file: BinaryIO) -> contextlib.AbstractContextManager[Any]:
    """A gzip writer without name and time, so that the same documents give the same bytes."""
    return gzip.GzipFile("", "wb", fileobj=file, mtime=0)


def open_zstandard(file: BinaryIO) -> contextlib.AbstractContextManager[Any]:
    """A Zstandard writer."""
    return import_zstandard().ZstdCompressor().stream_writer(file, closefd=False)


WRITERS: dict[str, Callable[[BinaryIO], contextlib.AbstractContextManager[Any]]] = {
    ".jsonl": contextlib.nullcontext,
    ".jsonl.gz": open_gzip,
    ".jsonl.zst": open_zstandard,
}


def check_suffix(suffix: str) -> None:
    """Raises ValueError for a suffix that is not in WRITERS, ImportError if its package is missing."""
    if suffix not in WRITERS:
        raise ValueError(f"suffix={suffix!r} is not known; give one of {', '.join(WRITERS)}")
    if suffix == ".jsonl.zst":
        try:
            import_zstandard()
        except ImportError as error:
            raise ImportError(f"suffix={suffix} needs zstandard: pip install zstandard, or give .jsonl.gz") from error


@contextlib.contextmanager
def open_shard(path: Path, suffix: str) -> Iterator[Callable[[bytes], Any]]:
    """A function that appends lines to a shard, compressed by its suffix."""
    with write_atomically(path) as file, WRITERS[suffix](file) as out:
        yield out.write


def format_json_line(value: Any) -> bytes:
    """One line of UTF-8; lone surrogates, which UTF-8 cannot hold, become JSON escapes."""
    text = json.dumps(value, ensure_ascii=False, default=json_default)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def json_default(value: Any) -> str:
    """A string for values that JSON cannot hold (Parquet's dates, decimals and bytes)."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def name_shards(inputs: Sequence[Path]) -> list[str]:
    """A name per input: its path below their common folder, without suffixes unless two names would be equal."""
    absolute = [path.absolute() for path in inputs]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    relative = [path.relative_to(root) for path in absolute]
    short = [str(path.with_name(remove_suffixes(path.name))) for path in relative]
    counts = Counter(short)
    return [name if counts[name] == 1 else str(path) for name, path in zip(short, relative, strict=True)]


def remove_suffixes(name: str) -> str:
    """A file's name without suffixes such as .jsonl.gz."""
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name.removesuffix(find_suffix(name)) or name
