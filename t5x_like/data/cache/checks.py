"""Checksums of a cache's files, per file and per block, and the record of caches already verified on this machine."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from t5x_like.types import PathLike

BLOCK = 2**22  # bytes; the unit in which a remote cache is fetched
DIGITS = 16  # hexadecimal digits of a block's sha256 that are stored


def block_checksum(block: bytes) -> str:
    """The first digits of a block's sha256."""
    return hashlib.sha256(block).hexdigest()[:DIGITS]


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yields the blocks of a file; the last may be shorter."""
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            yield block


def describe_file(path: Path) -> dict:
    """The manifest's entry for a file: its size in bytes, its sha256 and the checksums of its blocks."""
    digest, checksums, size = hashlib.sha256(), [], 0
    for block in read_blocks(path):
        digest.update(block)
        checksums.append(block_checksum(block))
        size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest(), "blocks": checksums}


def check_block(name: PathLike, number: int, block: bytes, checksums: list[str]) -> None:
    """Compares a block with its checksum.

    Raises:
      ValueError: the block differs; the message names the file and the range of bytes.
    """
    if number >= len(checksums) or block_checksum(block) != checksums[number]:
        raise ValueError(
            f"{name}, bytes {number * BLOCK}-{number * BLOCK + len(block) - 1} (block {number} of {len(checksums)}), do not "
            "match their checksum; copy the file again, or delete the cache's folder to have it rebuilt at the next use"
        )


def check_sizes(folder: Path, files: dict) -> None:
    """Compares the sizes of all files with the manifest.

    Raises:
      ValueError: a file has another size.
    """
    for name, file in files.items():
        size = (folder / name).stat().st_size if (folder / name).exists() else 0
        if size != file["bytes"]:
            raise ValueError(
                f"{folder / name} has {size} bytes, its manifest says {file['bytes']}: the cache is damaged; "
                "delete its folder to have it rebuilt at the next use"
            )


def check_files(folder: Path, files: dict) -> None:
    """Reads every file in the manifest's `files` and compares its blocks with their checksums, with a progress bar.

    Raises:
      ValueError: a file differs; the message names it and the range of bytes.
    """
    check_sizes(folder, files)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"checking {folder}", total=sum(file["bytes"] for file in files.values()))
        for name, file in files.items():
            for number, block in enumerate(read_blocks(folder / name)):
                check_block(folder / name, number, block, file["blocks"])
                bar.advance(task, len(block))


def stamp_path(folder: Path, home: Path) -> Path:
    """The file below `home` that records which files of a cache were verified."""
    return home / "verified" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}.json"


def file_states(folder: Path, files: dict) -> dict[str, list[int]]:
    """Size, modification time and inode of each file, which tell whether it changed."""
    stats = {name: (folder / name).stat() for name in files}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats.items()}


def check_once(folder: Path, files: dict, home: Path) -> None:
    """Verifies a cache unless this machine wrote or verified these same files before.

    Raises:
      ValueError: a file differs from the manifest.
    """
    check_sizes(folder, files)
    stamp = stamp_path(folder, home)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(stamp.read_text()) == file_states(folder, files):
            return
    check_files(folder, files)
    write_stamp(folder, files, home)


def write_stamp(folder: Path, files: dict, home: Path) -> None:
    """Records that the files of a cache match its manifest."""
    stamp = stamp_path(folder, home)
    partial = stamp.with_suffix(f".{os.getpid()}")
    # If `home` is read-only, the cache is verified each time it is opened.
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(file_states(folder, files)))
        partial.replace(stamp)
