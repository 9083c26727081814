"""Checksums of a cache's files, by file and by block, and which caches were compared with them on this machine."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

BLOCK = 2**22  # bytes; what a remote cache is fetched by
DIGITS = 16  # of a block's sha256


def block_sum(block) -> str:
    """Checksum of a block: the beginning of its sha256."""
    return hashlib.sha256(block).hexdigest()[:DIGITS]


def blocks_of(path: Path) -> Iterator[bytes]:
    """The blocks of a file; the last may be shorter."""
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            yield block


def described(path: Path) -> dict:
    """A file as the manifest lists it."""
    whole, sums, size = hashlib.sha256(), [], 0
    for block in blocks_of(path):
        whole.update(block)
        sums.append(block_sum(block))
        size += len(block)
    return {"bytes": size, "sha256": whole.hexdigest(), "blocks": sums}


def check_block(name, number: int, block, sums: list[str]) -> None:
    """Refuses a block that is not what was written.

    Raises:
      ValueError: it differs, by file and bytes.
    """
    if number >= len(sums) or block_sum(block) != sums[number]:
        raise ValueError(
            f"{name}, bytes {number * BLOCK}-{number * BLOCK + len(block) - 1} (block {number} of {len(sums)}), are not "
            "what was written (checksum); copy the file again, or delete the cache's folder, and it is built again at "
            "the next use"
        )


def check_sizes(folder: Path, files: dict) -> None:
    """Refuses a file of another size than the manifest says."""
    for name, file in files.items():
        size = (folder / name).stat().st_size if (folder / name).exists() else 0
        if size != file["bytes"]:
            raise ValueError(
                f"{folder / name} has {size} bytes, its manifest says {file['bytes']}: the cache is damaged; "
                "delete its folder, and it is built again at the next use"
            )


def check(folder: Path, files: dict) -> None:
    """Reads every file of the manifest's `files` and compares its blocks, with a progress bar.

    Raises:
      ValueError: the file, and the bytes in it, that differ.
    """
    check_sizes(folder, files)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"checking {folder}", total=sum(file["bytes"] for file in files.values()))
        for name, file in files.items():
            for number, block in enumerate(blocks_of(folder / name)):
                check_block(folder / name, number, block, file["blocks"])
                bar.advance(task, len(block))


def stamp_path(folder: Path, home: Path) -> Path:
    """Where it is kept which files of a cache were checked."""
    return home / "verified" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}.json"


def states(folder: Path, files: dict) -> dict[str, list[int]]:
    """What changes with a file: size, time of change and inode."""
    found = {name: (folder / name).stat() for name in files}
    return {name: [state.st_size, state.st_mtime_ns, state.st_ino] for name, state in found.items()}


def check_once(folder: Path, files: dict, home: Path) -> None:
    """Checks a cache unless its files are those that were checked, or written, on this machine before."""
    check_sizes(folder, files)
    stamp = stamp_path(folder, home)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(stamp.read_text()) == states(folder, files):
            return
    check(folder, files)
    put_stamp(folder, files, home)


def put_stamp(folder: Path, files: dict, home: Path) -> None:
    """Notes that the files of a cache are what the manifest says."""
    stamp = stamp_path(folder, home)
    fresh = stamp.with_suffix(f".{os.getpid()}")
    # Where nothing can be written every opening checks again.
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(states(folder, files)))
        fresh.replace(stamp)
