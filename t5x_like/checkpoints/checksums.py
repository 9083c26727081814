"""Checksums (CRC-32) of a checkpoint's files, computed by several threads, and by several processes a share each.

A file has one checksum per CHUNK of bytes, so that large files are read in parallel.
"""

import concurrent.futures
import itertools
import json
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

CHUNK = 2**26
BUFFER = 2**18  # read at once; fits into the cache of a core
THREADS = 8
PART = "manifest.json.part"  # the checksums of one process, until they are in the manifest

Checksums = dict[str, list[int]]  # by the file's path in the checkpoint
barriers = itertools.count()  # a barrier's name may be used only once


def compute(folder: Path, names: Iterable[str], of_chunk: Callable[[Path, int], int]) -> Checksums:
    """The checksums of the chunks of files; `of_chunk` is `read_chunk` or `map_chunk`."""
    starts = {name: range(0, (folder / name).stat().st_size, CHUNK) for name in names}
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        jobs = {name: [threads.submit(of_chunk, folder / name, start) for start in starts[name]] for name in starts}
        return {name: [job.result() for job in chunks] for name, chunks in jobs.items()}


def map_chunk(path: Path, start: int) -> int:
    """The checksum of the bytes [start, start + CHUNK) of a file that this process has just written; copies nothing."""
    size = min(CHUNK, path.stat().st_size - start)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start) as chunk:
        return zlib.crc32(chunk)


def read_chunk(path: Path, start: int) -> int:
    """The checksum of the bytes [start, start + CHUNK) of any file; an error of the disk is an OSError."""
    checksum, left, buffer = 0, CHUNK, memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(buffer[:left])):
            checksum, left = zlib.crc32(buffer[:count], checksum), left - count
    return checksum


def own_files(names: Iterable[str]) -> list[str]:
    """The files that this process computes checksums of: those it wrote; the first process has those of nobody."""

    def owner(name: str) -> int:
        written_by = re.search(r"process_(\d+)", name)
        return int(written_by[1]) % jax.process_count() if written_by else 0

    return [name for name in names if owner(name) == jax.process_index()]


def compute_together(folder: Path, names: Iterable[str]) -> Checksums:
    """The checksums of files, each computed by the process that wrote it. All processes call this; the first gets all."""
    checksums = compute(folder, own_files(names), map_chunk)
    if jax.process_count() == 1:
        return checksums
    (folder / f"{PART}{jax.process_index()}").write_text(json.dumps(checksums))
    ocp.multihost.sync_global_processes(f"checksums {next(barriers)}", processes=set(range(jax.process_count())))
    if jax.process_index() == 0:
        for path in sorted(folder.glob(f"{PART}*")):
            checksums |= json.loads(path.read_text())
            path.unlink()
    return checksums
