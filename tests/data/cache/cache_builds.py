"""The program that builds caches, run in real processes that are forked from one which has TensorFlow already."""

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
    """In the process: `build`, its messages going to a file."""
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
    """A process that builds; its log is root/log."""
    Path(root).mkdir(exist_ok=True)
    options = {"name": task, "split": split, "module": MODULE, "root": str(root), "workers": 2} | options
    process = warm.Process(target=run, args=(Path(root) / "log", environment or {}, file_limit, options))
    process.start()
    return process


def built(root, task: str, split: str = "train", **options) -> TokenCache:
    """The cache, built here."""
    process = start(root, task, split, **options)
    process.join()
    assert process.exitcode == 0, (Path(root) / "log").read_text()
    return TokenCache(task, split, MODULE, str(root))


def complaint(root, task: str, split: str = "train", **options) -> str:
    """What a build that fails says."""
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
    """The parts of a build that is under way."""
    found = list((Path(root) / task).glob(".building_*/journal.jsonl"))
    return [json.loads(line[9:]) for line in found[0].read_text().splitlines()] if found else []
