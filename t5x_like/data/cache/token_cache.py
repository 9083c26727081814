"""Token caches: a split of a task, tokenized once into flat files that are memory-mapped.

    <root>/<task>/<fingerprint>/<split>/manifest.json      inputs, counts and checksums
                                       /<feature>.tokens   ids of all documents, concatenated (uint16 or uint32)
                                       /<feature>.offsets  int64[documents + 1], start of each document, and the end
                                       /examples.jsonl     the other fields of each document, if the task has metrics
                                       /vocabulary/

The fingerprint is a hash of everything the tokens depend on: the task, the source files that define it, the data files
it reads, its vocabularies and the versions of Python (whose library is the embedded corpus) and seqio. It is recomputed
each time a cache is opened, from the list in the manifest and without imports, so that a stale cache is never read.
Files that were not written or verified on this machine are compared with their checksums when they are first opened.
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
from typing import Any, cast

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import manifests, sources
from t5x_like.data.cache import mirror as cache_mirror
from t5x_like.data.cache.data_sets import DataSets
from t5x_like.data.cache.sources import default_root
from t5x_like.data.tokenizers import loading
from t5x_like.types import PathLike, Vocabulary

FORMAT = 5  # part of the fingerprint; raise it when the same task produces different files
MANIFEST, EXAMPLES = manifests.MANIFEST, manifests.EXAMPLES
REJECTS = "rejects.jsonl"  # the records that the source dropped; not a part of the cache
FLAGS_VARIABLE = "T5X_LIKE_CACHE_FLAGS"  # extra flags for the program that builds caches
PROGRESS_PREFIXES = ("tokenizing ", "joining ", "waiting ")  # of its progress lines


def fingerprint_of(inputs: dict) -> str:
    """The fingerprint: a hash of the inputs of a cache."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def as_json(values: Mapping[str, Any]) -> dict:
    """Values after a round trip through JSON (tuples become lists).

    Raises:
      ValueError: a value that JSON cannot represent.
    """
    try:
        return json.loads(json.dumps(dict(values)))
    except TypeError as error:
        raise ValueError(f"arguments={values!r}: {error}; use only strings, numbers, lists and dictionaries") from error


def source_hash(module: str) -> str | None:
    """sha256 of a module's source file; nothing is imported. None if there is no such module."""
    path = sources.locate(module)
    return None if path is None else file_hash(path)


def file_hash(path: PathLike) -> str:
    """sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def data_hash(pattern: str) -> str:
    """Hash of the names, sizes and modification times of the local files that match a pattern."""
    stats = ((path, os.stat(path)) for path in sorted(glob.glob(pattern, recursive=True)))
    return fingerprint_of({path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats})


def package_version(name: str) -> str | None:
    """Version of an installed package, without importing it; "python" is the interpreter. None if not installed."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def current_inputs(inputs: dict) -> dict:
    """The inputs with the hashes of modules and data, and the versions, recomputed."""
    probes = {"modules": source_hash, "data": data_hash, "versions": package_version}
    return inputs | {
        kind: {name: probe(name) for name in inputs[kind]} for kind, probe in probes.items() if kind in inputs
    }


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """One split of a task; opened at first use, and then built if it is missing or stale.

    Importing `module` registers the task; with `arguments` (plain values by name), `module.define(task, **arguments)`
    registers it. A task that is one of `data_sets` is defined by these instead. `fingerprint` pins a cache that was copied
    from another machine: it is read as it is, even if the local sources differ. `root` may be a URL that fsspec supports
    (gs://, s3://, https://, ...): tokens are then fetched in blocks and kept under $T5X_LIKE_CACHE/mirror. A separate
    process builds the cache, so that TensorFlow is never loaded into a training run.

    Raises (at first use):
      FileNotFoundError: a pinned cache is missing, or the cache cannot be built here.
      ValueError: a file differs from its manifest.
    """

    task: str
    split: str
    module: str = "t5x_like.tasks.pretraining"
    root: str | None = None
    fingerprint: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_sets: DataSets | None = None

    @property
    def definition(self) -> tuple[str, Mapping[str, Any]]:
        """The module that defines the task, and its arguments."""
        if self.data_sets is not None and self.task in self.data_sets.sets:
            return self.data_sets.module, self.data_sets.arguments(self.task)
        return self.module, self.arguments

    @property
    def task_folder(self) -> Path:
        """The folder of all caches of the task."""
        return Path(self.root or default_root()) / self.task

    @functools.cached_property
    def mirror(self) -> cache_mirror.Mirror | None:
        """The local copy of the fresh (or pinned) cache if the root is a URL, else None."""
        if not cache_mirror.is_url(self.root):
            return None
        pattern = f"{self.task}/{self.fingerprint or '*'}/{self.split}/{MANIFEST}"
        for path, content in cache_mirror.read_manifests(self.root, pattern):
            if self.accepts(content, f"{self.root} ({path})"):
                return cache_mirror.Mirror(self.root, path, content, default_root())
        raise FileNotFoundError(
            f"no token cache {pattern} at {self.root} matches this task as it is defined here; copy one there, or pin one "
            "with token_cache.TokenCache.fingerprint (required for web servers that do not list folders, and for tasks over "
            "files)"
        )

    def find(self) -> Path | None:
        """The folder of the fresh (or pinned) cache, or None; the folder of its local copy if the root is a URL.

        Raises:
          ValueError: the manifest of the pinned cache is damaged or unsafe.
        """
        if self.mirror is not None:
            return self.mirror.folder
        pattern = f"{self.fingerprint or '*'}/{self.split}/{MANIFEST}"
        for manifest in sorted(self.task_folder.glob(pattern)):
            if self.accepts(manifest.read_bytes(), manifest):
                return manifest.parent
        return None

    def accepts(self, content: bytes, where: PathLike) -> bool:
        """Whether a manifest is the pinned one, or fresh; `where` is its path or URL.

        Raises:
          ValueError: the manifest of the pinned cache is damaged or unsafe.
        """
        try:
            manifest = manifests.parse(content, where)
        except ValueError:
            if self.fingerprint:
                raise
            return False  # such as one of another format
        if self.fingerprint and manifest["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{where} has the fingerprint {manifest['fingerprint']!r}, pinned is {self.fingerprint!r}; copy it again"
            )
        return bool(self.fingerprint) or self.is_fresh(manifest)

    def is_fresh(self, manifest: dict) -> bool:
        """Whether a cache matches the task as it is defined now; a remote manifest's patterns of data never do."""
        inputs, (module, arguments) = manifest["inputs"], self.definition
        same = inputs.get("task", self.task) == self.task and inputs.get("module", module) == module
        same &= inputs.get("arguments", {}) == as_json(arguments) and inputs.get("format", FORMAT) == FORMAT
        same &= not (cache_mirror.is_url(self.root) and inputs.get("data"))
        return same and fingerprint_of(current_inputs(inputs)) == manifest["fingerprint"]

    def ensure(self) -> Path:
        """The folder of the cache, which is built if it is missing.

        Raises:
          FileNotFoundError: a pinned cache is missing, or seqio or TensorFlow is not installed.
          RuntimeError: the program that builds it failed.
        """
        folder = self.find()
        if folder is None and self.fingerprint is None:
            self.build()
            folder = self.find()
        if folder is None:
            others = [p.parent.parent.name for p in self.task_folder.glob(f"*/{self.split}/{MANIFEST}")]
            raise FileNotFoundError(
                f"no token cache of task {self.task!r}, split {self.split!r}"
                + (f" with fingerprint {self.fingerprint!r}" if self.fingerprint else "")
                + f" under {self.task_folder.parent} (found: {others or 'none'}); build it with "
                "`t5x_like cache` on a machine that has seqio and TensorFlow, copy its folder here, and pin it with "
                "token_cache.TokenCache.fingerprint"
            )
        return folder

    def build(self) -> None:
        """Runs the program that tokenizes this split; does nothing if seqio or TensorFlow is not installed.

        Raises:
          RuntimeError: the program failed.
        """
        if importlib.util.find_spec("seqio") is None or importlib.util.find_spec("tensorflow") is None:
            return
        module, arguments = self.definition
        flags = {"task": self.task, "split": self.split, "module": module, "root": str(self.task_folder.parent)}
        flags["arguments"] = json.dumps(as_json(arguments))
        command = [sys.executable, "-m", "t5x_like.tasks.caching", *(f"--{k}={v}" for k, v in flags.items())]
        command += shlex.split(os.environ.get(FLAGS_VARIABLE, ""))
        own = () if self.data_sets is None else tuple(self.data_sets.sets)
        code, message = run_with_progress(command, os.environ | import_environment())
        if code:
            raise RuntimeError(
                f"tokenizing task {self.task!r}, split {self.split!r} failed (exit {code})"
                + (f": {message}" if message else "; see its messages above")
                + (f" (the data sets of the configuration: {', '.join(own)})" if own and self.task not in own else "")
            )

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the cache, or of its local copy."""
        return self.ensure()

    @functools.cached_property
    def manifest(self) -> dict:
        """The manifest; the files are verified first, unless they were on this machine before."""
        if self.mirror is not None:
            return self.mirror.manifest
        content = manifests.parse((self.folder / MANIFEST).read_bytes(), self.folder / MANIFEST)
        cache_checks.check_once(self.folder, content["files"], default_root())
        return content

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return list(self.manifest["features"])

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the ids.

        Raises:
          ValueError: it is damaged, or has another size than the manifest says.
        """
        for name in self.manifest["files"]:
            if name.startswith("vocabulary/"):
                self.file(name)
        vocabulary = loading.load(self.folder / "vocabulary")
        if vocabulary.vocab_size != self.manifest["vocab_size"]:
            raise ValueError(
                f"{self.folder} has a vocabulary of {vocabulary.vocab_size} ids, its manifest says "
                f"{self.manifest['vocab_size']}; delete its folder to have it rebuilt at the next use"
            )
        return vocabulary

    def file(self, name: str) -> Path:
        """The local path of a file; a remote file is fetched as a whole."""
        return self.folder / name if self.mirror is None else self.mirror.fetch_file(name)

    @functools.cached_property
    def _maps(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(tokens, offsets) by feature."""
        return {
            name: (
                open_memmap(self.folder / f"{name}.tokens", feature["dtype"])
                if self.mirror is None
                else cast(np.ndarray, self.mirror.ids(f"{name}.tokens", feature["dtype"])),
                open_memmap(self.file(f"{name}.offsets"), "int64"),
            )
            for name, feature in self.manifest["features"].items()
        }

    def tokens(self, feature: str) -> np.ndarray:
        """All ids of a feature, memory-mapped; for a remote cache a `RemoteIds`, which fetches what is read."""
        return self._map(feature)[0]

    def offsets(self, feature: str) -> np.ndarray:
        """int64[documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]]."""
        return self._map(feature)[1]

    def _map(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        if feature not in self._maps:
            raise ValueError(f"task {self.task!r} has no feature {feature!r}; it has {self.features}")
        return self._maps[feature]

    def examples(self) -> Iterator[dict]:
        """Yields the fields of each document other than its tokens, which metrics and postprocessors read.

        Raises:
          ValueError: the task has no metrics, so these fields were not written.
        """
        if "metrics" not in self.manifest:
            raise ValueError(f"task {self.task!r} has no metric_fns, so its cache holds only tokens; add a metric")
        with open(self.file(EXAMPLES), "rb") as f:
            yield from map(json.loads, f)

    def verify(self) -> None:
        """Reads every file and compares its checksums.

        Raises:
          ValueError: a file differs; the message names it and the range of bytes.
        """
        for name in self.manifest["files"]:
            self.file(name)
        cache_checks.check_files(self.folder, self.manifest["files"])


def open_memmap(path: Path, dtype: str) -> np.ndarray:
    """Memory-maps a file read-only as a flat array."""
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


def import_environment() -> dict[str, str]:
    """The environment variables with which a Python process searches modules where this one does, in the same order."""
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # "" is the working directory
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def run_with_progress(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Runs the program that builds caches. Returns its exit code, and its last message if stderr is not a terminal.

    On a terminal its stderr is shown unchanged. Otherwise only its progress lines are passed on, not TensorFlow's messages.
    An interrupt is passed on, and the program is waited for.
    """
    pipe, last = None if sys.stderr.isatty() else subprocess.PIPE, ""
    with subprocess.Popen(command, env=environment, stderr=pipe, text=True, errors="replace") as program:
        try:
            for line in program.stderr or ():
                last = line.strip() or last
                if line.startswith(PROGRESS_PREFIXES):
                    print(line, end="", file=sys.stderr, flush=True)
            return program.wait(), last
        except BaseException:
            program.terminate()
            program.communicate()
            raise
