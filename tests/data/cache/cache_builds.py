"""Runs the program that builds caches in processes forked from one that has already imported TensorFlow."""

import contextlib
import itertools
import json
import multiprocessing
import os
import resource
from pathlib import Path

from t5x_like.data.cache.token_cache import TokenCache

MODULE = "tests.data.cache.made_up_cache_tasks"
warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload(["t5x_like.tasks.caching.build", MODULE])


def run(log: Path, environment: dict, file_limit: int | None, options: dict) -> None:
    """In the child process: `build`, with stderr redirected to a file."""
    os.environ |= environment
    from t5x_like.tasks.caching import build

    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    with open(log, "w") as f, contextlib.redirect_stderr(f):
        try:
            build.build(**options)
        except (ValueError, OSError, RuntimeError) as error:
            print(f"{type(error).__name__}: {error}", file=f)
            raise SystemExit(1) from None


def start(root, task: str, split: str = "train", environment=None, file_limit=None, **options):
    """Starts a process that builds a cache; its log is root/log."""
    Path(root).mkdir(exist_ok=True)
    options = {"name": task, "split": split, "module": MODULE, "root": str(root), "workers": 2} | options
    process = warm.Process(target=run, args=(Path(root) / "log", environment or {}, file_limit, options))
    process.start()
    return process


def built(root, task: str, split: str = "train", **options) -> TokenCache:
    """Builds a cache and returns it."""
    process = start(root, task, split, **options)
    process.join()
    assert process.exitcode == 0, (Path(root) / "log").read_text()
    return TokenCache(task, split, MODULE, str(root))


def error_of_build(root, task: str, split: str = "train", **options) -> str:
    """The log of a build that fails."""
    process = start(root, task, split, **options)
    process.join()
    assert process.exitcode == 1, (Path(root) / "log").read_text()
    return (Path(root) / "log").read_text()


def content(cache: TokenCache) -> dict[str, bytes]:
    """All files of a cache."""
    return {p.relative_to(cache.folder).as_posix(): p.read_bytes() for p in cache.folder.rglob("*") if p.is_file()}


def documents(cache: TokenCache, feature: str = "targets") -> list[list[int]]:
    tokens, offsets = cache.tokens(feature), cache.offsets(feature)
    return [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def journal(root, task: str) -> list[dict]:
    """The parts of a build in progress."""
    journals = list((Path(root) / task).glob(".building_*/journal.jsonl"))
    return [json.loads(line[9:]) for line in journals[0].read_text().splitlines()] if journals else []
