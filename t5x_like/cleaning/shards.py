"""The files of a cleaning run: what each input becomes, written whole or not at all."""

import contextlib
import errno
import gzip
import json
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from t5x_like.cleaning.opening import COMPRESSED, zstandard
from t5x_like.cleaning.reading import suffix_of
from t5x_like.cleaning.steps import Document


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete; no part of it is left after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"no space left while writing {path}; make room, and the same command goes on"
            raise OSError(error.errno, message) from error
        raise
    finally:
        Path(partial).unlink(missing_ok=True)


def gzipped(file: BinaryIO):
    """Without name and time, so that the same documents give the same bytes."""
    return gzip.GzipFile("", "wb", fileobj=file, mtime=0)


def zstandard_written(file: BinaryIO):
    return zstandard().ZstdCompressor().stream_writer(file, closefd=False)


WRITERS = {".jsonl": contextlib.nullcontext, ".jsonl.gz": gzipped, ".jsonl.zst": zstandard_written}


def check_suffix(suffix: str) -> None:
    """Refuses a suffix that is not in WRITERS (ValueError) or whose package is missing (ImportError)."""
    if suffix not in WRITERS:
        raise ValueError(f"suffix={suffix!r} is not known; give one of {', '.join(WRITERS)}")
    if suffix == ".jsonl.zst":
        try:
            zstandard()
        except ImportError as error:
            raise ImportError(f"suffix={suffix} needs zstandard: pip install zstandard, or give .jsonl.gz") from error


@contextlib.contextmanager
def documents_to(path: Path, suffix: str) -> Iterator[Any]:
    """A function that writes one document as a line of JSON."""
    with whole(path) as file, WRITERS[suffix](file) as out:
        yield lambda document: out.write(json_line(document))


def json_line(document: Document) -> bytes:
    """One line; half surrogate pairs, which are no UTF-8, as JSON's escapes."""
    text = json.dumps(document, ensure_ascii=False, default=plain)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def plain(value: Any) -> str:
    """What JSON has no form for (Parquet's dates, decimals and bytes)."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def pickles(path: Path) -> Iterator[Any]:
    """The objects of a file, one after another."""
    with open(path, "rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


@contextlib.contextmanager
def pickles_to(path: Path) -> Iterator[Any]:
    """A function that adds an object to a file."""
    with whole(path) as file:
        yield lambda thing: pickle.dump(thing, file, pickle.HIGHEST_PROTOCOL)


def write_pickles(path: Path, things: Iterable[Any]) -> None:
    with pickles_to(path) as add:
        for thing in things:
            add(thing)


def names(inputs: Sequence[Path]) -> list[str]:
    """A name for each input's shard: its place below the folder of all, without suffixes unless two would be the same."""
    absolute = [path.absolute() for path in inputs]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    places = [path.relative_to(root) for path in absolute]
    short = [str(place.with_name(stem(place.name))) for place in places]
    common = Counter(short)
    return [name if common[name] == 1 else str(place) for name, place in zip(short, places, strict=True)]


def stem(name: str) -> str:
    """A file's name without .jsonl.gz and the like."""
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name.removesuffix(suffix_of(name)) or name
