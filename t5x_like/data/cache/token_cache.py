"""Token caches: a task's split, tokenized once, as flat files that are read by memory map.

    <root>/<task>/<fingerprint>/<split>/manifest.json      what it is made of, counts and checksums
                                       /<feature>.tokens   ids of all documents, one after the other (uint16 or uint32)
                                       /<feature>.offsets  int64, where each document begins, and the end
                                       /examples.jsonl     the other fields of each document, of a task with metrics
                                       /vocabulary/

The fingerprint is a hash of everything the tokens depend on: the task, the source files that define it, the data files
it reads, its vocabularies and the versions of Python (whose library is the embedded corpus) and seqio. It is worked out
again at every opening, from the list in the manifest and without importing anything, so that a stale cache is never read.
Files that were not written or checked on this machine are compared with their checksums when they are opened first.
"""

import dataclasses
import functools
import glob
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import mirror as cache_mirror
from t5x_like.data.tokenizers import loading
from t5x_like.types import Vocabulary

FORMAT = 2  # part of the fingerprint; to be raised when the same task comes to mean other files
MANIFEST, EXAMPLES = "manifest.json", "examples.jsonl"


FLAGS = "T5X_LIKE_CACHE_FLAGS"  # more flags for the program that builds caches
PROGRESS = ("tokenizing ", "joining ")  # how the lines of its progress begin


def default_root() -> Path:
    """$T5X_LIKE_CACHE, or ~/.cache/t5x_like."""
    return Path(os.environ.get("T5X_LIKE_CACHE") or Path.home() / ".cache" / "t5x_like")


def fingerprint_of(inputs: dict) -> str:
    """Hash of what a cache is made of."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def as_json(values: Mapping[str, Any]) -> dict:
    """Values as they come back from JSON (tuples as lists).

    Raises:
      ValueError: a value that JSON has no form for.
    """
    try:
        return json.loads(json.dumps(dict(values)))
    except TypeError as error:
        raise ValueError(f"arguments={values!r}: {error}; give texts, numbers, lists and dictionaries") from error


def source_hash(module: str) -> str | None:
    """sha256 of a module's source file, found without running it; None where there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if spec is None or spec.origin is None else file_hash(spec.origin)


def file_hash(path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def data_hash(pattern: str) -> str:
    """Hash of the names, sizes and times of the local files a pattern matches; their content is not read."""
    found = ((path, os.stat(path)) for path in sorted(glob.glob(pattern, recursive=True)))
    return fingerprint_of({path: [state.st_size, state.st_mtime_ns] for path, state in found})


def package_version(name: str) -> str | None:
    """Version of an installed package, without importing it; "python" is the interpreter's."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def current(inputs: dict) -> dict:
    """The inputs as they are now: the same task and vocabularies, today's source files, data files and versions."""
    probes = {"modules": source_hash, "data": data_hash, "versions": package_version}
    return inputs | {
        kind: {name: probe(name) for name in inputs[kind]} for kind, probe in probes.items() if kind in inputs
    }


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """One split of a task; opened at first use, and built then if it is missing or stale.

    `module` is what to import so that the task is registered; where there are `arguments` (plain values by name),
    `module.define(task, **arguments)` registers it. `fingerprint` pins a cache that was carried from another machine: it
    is read as it is, whatever the sources here say. `root` may be a URL that fsspec knows (gs://, s3://, https://, ...):
    tokens are then fetched by blocks, and kept under $T5X_LIKE_CACHE/mirror. Building runs in a process of its own, so
    that TensorFlow is never loaded beside a training run.

    Raises (at first use):
      FileNotFoundError: a pinned cache that is not there, or no way to build it here.
      ValueError: a file that is not what its manifest says.
    """

    task: str
    split: str
    module: str = "t5x_like.tasks.pretraining"
    root: str | None = None
    fingerprint: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder_of_task(self) -> Path:
        return Path(self.root or default_root()) / self.task

    @functools.cached_property
    def mirror(self) -> cache_mirror.Mirror | None:
        """What is here of a fresh (or the pinned) cache whose root is a URL, or None."""
        if not cache_mirror.is_url(self.root):
            return None
        pattern = f"{self.task}/{self.fingerprint or '*'}/{self.split}/{MANIFEST}"
        for path, content in cache_mirror.manifests(self.root, pattern):
            if self.fingerprint or self.is_fresh(json.loads(content)):
                return cache_mirror.Mirror(self.root, path, content, default_root())
        raise FileNotFoundError(
            f"no token cache {pattern} at {self.root} is of this task as it is defined here; copy one there, or pin the "
            "one to read with token_cache.TokenCache.fingerprint (which web servers without listings need too)"
        )

    def find(self) -> Path | None:
        """The folder of a fresh (or the pinned) cache, or None; what is here of it where the root is a URL."""
        if self.mirror is not None:
            return self.mirror.folder
        pattern = f"{self.fingerprint or '*'}/{self.split}/{MANIFEST}"
        for manifest in sorted(self.folder_of_task.glob(pattern)):
            content = json.loads(manifest.read_text())
            if self.fingerprint or self.is_fresh(content):
                return manifest.parent
        return None

    def is_fresh(self, manifest: dict) -> bool:
        """Whether a cache is of this task as it is defined here and now."""
        inputs = manifest["inputs"]
        same = inputs.get("arguments", {}) == as_json(self.arguments)
        same &= inputs.get("format", FORMAT) == FORMAT
        return same and fingerprint_of(current(inputs)) == manifest["fingerprint"]

    def ensure(self) -> Path:
        """The folder of the cache, which is built first where there is none."""
        found = self.find()
        if found is None and self.fingerprint is None:
            self.build()
            found = self.find()
        if found is None:
            there = [p.parent.parent.name for p in self.folder_of_task.glob(f"*/{self.split}/{MANIFEST}")]
            raise FileNotFoundError(
                f"no token cache of task {self.task!r}, split {self.split!r}"
                + (f" with fingerprint {self.fingerprint!r}" if self.fingerprint else "")
                + f" under {self.folder_of_task.parent} (found: {there or 'none'}); build it with "
                "`t5x_like cache` on a machine that has seqio and TensorFlow, copy its folder here, and pin it with "
                "token_cache.TokenCache.fingerprint"
            )
        return found

    def build(self) -> None:
        """Runs the program that tokenizes this split."""
        if importlib.util.find_spec("seqio") is None or importlib.util.find_spec("tensorflow") is None:
            return
        flags = {"task": self.task, "split": self.split, "module": self.module, "root": str(self.folder_of_task.parent)}
        flags["arguments"] = json.dumps(as_json(self.arguments))
        command = [sys.executable, "-m", "t5x_like.tasks.caching", *(f"--{k}={v}" for k, v in flags.items())]
        command += shlex.split(os.environ.get(FLAGS, ""))
        path = os.pathsep.join(p for p in sys.path if p)
        code, said = followed(command, os.environ | {"PYTHONPATH": path})
        if code:
            raise RuntimeError(
                f"tokenizing task {self.task!r}, split {self.split!r} failed (exit {code})"
                + (f": {said}" if said else "; its messages are above")
            )

    @functools.cached_property
    def folder(self) -> Path:
        return self.ensure()

    @functools.cached_property
    def manifest(self) -> dict:
        if self.mirror is not None:
            return self.mirror.manifest
        content = json.loads((self.folder / MANIFEST).read_text())
        cache_checks.check_once(self.folder, content["files"], default_root())
        return content

    @property
    def features(self) -> list[str]:
        return list(self.manifest["features"])

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        for name in self.manifest["files"]:
            if name.startswith("vocabulary/"):
                self.file(name)
        return loading.load(self.folder / "vocabulary")

    def file(self, name: str) -> Path:
        """A file of the cache, all of which is on this machine."""
        return self.folder / name if self.mirror is None else self.mirror.whole(name)

    @functools.cached_property
    def _maps(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(tokens, offsets) by feature."""
        return {
            name: (
                mapped(self.folder / f"{name}.tokens", described["dtype"])
                if self.mirror is None
                else self.mirror.ids(f"{name}.tokens", described["dtype"]),
                mapped(self.file(f"{name}.offsets"), "int64"),
            )
            for name, described in self.manifest["features"].items()
        }

    def tokens(self, feature: str) -> np.ndarray:
        """All ids of a feature, memory-mapped; of a remote cache what reads as an array, and is fetched when it is read."""
        return self._map(feature)[0]

    def offsets(self, feature: str) -> np.ndarray:
        """int64[documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]."""
        return self._map(feature)[1]

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        if feature not in self._maps:
            raise ValueError(f"task {self.task!r} has no feature {feature!r}; it has {self.features}")
        return self._maps[feature]

    def examples(self) -> Iterator[dict]:
        """The fields of every document beside its tokens, read one by one: what metrics and post-processing need.

        Raises:
          ValueError: the task has no metrics, so that none were kept.
        """
        if "metrics" not in self.manifest:
            raise ValueError(
                f"task {self.task!r} has no metric_fns, so its cache keeps nothing but tokens; add a metric"
            )
        with open(self.file(EXAMPLES), "rb") as f:
            yield from map(json.loads, f)

    def verify(self) -> None:
        """Reads every file and compares its checksums.

        Raises:
          ValueError: the file and bytes that differ.
        """
        for name in self.manifest["files"]:
            self.file(name)
        cache_checks.check(self.folder, self.manifest["files"])


def mapped(path: Path, dtype: str) -> np.ndarray:
    """A file's numbers, memory-mapped for reading."""
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


def followed(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Runs the building program: its exit code, and what it said last where that was not seen on a terminal.

    Where there is no terminal its progress is handed on line by line, and TensorFlow's greetings are not.
    """
    if sys.stderr.isatty():
        return subprocess.run(command, env=environment).returncode, ""
    last = ""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as program:
        for line in program.stderr:
            last = line.strip() or last
            if line.startswith(PROGRESS):
                print(line, end="", file=sys.stderr, flush=True)
    return program.returncode, last
