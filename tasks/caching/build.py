"""Fills token caches from seqio tasks, in several processes, and resumes a build that was killed."""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Nothing is computed here; the accelerators belong to the process that trains.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Processes tokenize side by side, each in one thread.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import pool as tokenizer_pool
from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.journal import JOURNAL, Writer, naming_full_disk
from t5x_like.data.cache.progress import Speed
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens
from t5x_like.tasks.caching import seqio_mixtures, task_inputs
from t5x_like.tasks.caching.documents import Chunk, Documents
from t5x_like.types import Vocabulary

PART_SECONDS = 5.0  # between two points that a killed build can go on from


Filler = Callable[[Path, Documents, dict], None]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a lock dies with its process."""
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def make_folder(root: str, name: str) -> Path:
    """The folder of a task's caches.

    Raises:
      OSError: it cannot be written.
    """
    parent = Path(root) / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"root={root} cannot be written ({error.strerror}); set token_cache.TokenCache.root or $T5X_LIKE_CACHE to a "
            "folder that can"
        ) from error
    return parent


def build(
    name: str,
    split: str,
    module: str,
    root: str,
    arguments: dict | None = None,
    workers: int | None = None,
    part_seconds: float = PART_SECONDS,
    everything_in_tf: bool = False,
    filled: Filler | None = None,
) -> Path:
    """Tokenizes one split of a task unless a fresh cache is there; a cache appears whole or not at all.

    `workers` processes tokenize (all cores by default), or `filled` writes the files in another way; neither they nor a
    kill on the way change a byte of the cache.

    Of a mixture all tasks are built, and its rates are written for `seqio_mixtures`.

    Raises:
      ValueError: unknown task or split, ids outside the vocabulary, no example, a source that cannot be read.
      OSError: the cache folder cannot be written, or is full.
    """
    task_inputs.import_tasks(name, module, arguments)
    if seqio_mixtures.is_mixture(name):
        options = {"module": module, "root": root, "arguments": arguments, "workers": workers}
        for part in seqio_mixtures.tasks_of(name):
            build(part, split, **options)
        return seqio_mixtures.write(name, module, make_folder(root, name), functools.partial(documents_of, **options))
    task = task_inputs.find_task(name, module)
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; it has {', '.join(task.splits)}")
    task_inputs.check_vocabularies(task)
    parent = make_folder(root, name)
    with locked(parent / f".{split}.lock"):
        fresh = TokenCache(name, split, module, root, arguments=arguments or {}).find()
        if fresh is not None:
            return fresh
        inputs = task_inputs.inputs_of(task, module, arguments)
        target = parent / token_cache.fingerprint_of(inputs) / split
        folder = parent / f".building_{split}_{token_cache.fingerprint_of(inputs)}"
        for left in parent.glob(f".building_{split}_*"):
            if left != folder:
                shutil.rmtree(left, ignore_errors=True)  # of sources that are no more; the lock is ours
        folder.mkdir(exist_ok=True)  # with the user's umask: caches are shared
        documents = Documents(task, split, everything_in_tf)
        workers = workers or len(os.sched_getaffinity(0))
        filled = filled or functools.partial(fill, workers=workers, part_seconds=part_seconds)
        with discarding(folder):
            filled(folder, documents, inputs)
        if token_cache.current(inputs) != inputs:
            shutil.rmtree(folder)
            raise ValueError(f"the sources of task {name!r} changed while they were read; run it again")
        put(folder, target)
    return target


def documents_of(task: str, **options) -> int:
    """How many documents the training split of a task has, which is built for that."""
    folder = build(task, "train", **options)
    return json.loads((folder / token_cache.MANIFEST).read_text())["documents"]


def put(folder: Path, target: Path) -> None:
    """Moves a cache that is whole to its place, as checked."""
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    files = json.loads((target / token_cache.MANIFEST).read_text())["files"]
    cache_checks.put_stamp(target, files, token_cache.default_root())


@contextlib.contextmanager
def discarding(folder: Path) -> Iterator[None]:
    """Leaves nothing of a build that failed before its first part was whole."""
    try:
        yield
    except BaseException:
        if not any(path.stat().st_size for path in folder.glob(JOURNAL)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def fill(folder: Path, documents: Documents, inputs: dict, workers: int, part_seconds: float) -> None:
    """Writes the files of a cache into a folder, going on after what is whole there."""
    task, vocabulary = documents.task, task_inputs.vocabulary_of(documents.task)
    evaluation = task_inputs.evaluation_of(task)
    writer = cache_writer.open_writer(folder, list(task.output_features), vocabulary, evaluation)
    with naming_full_disk(folder):
        vocabulary.save(folder / "vocabulary")
    total = task.source.num_input_examples(documents.split)
    what = f"tokenizing {task.name}/{documents.split}"
    with contextlib.closing(writer), Speed(what, total, writer.documents) as speed:
        last = time.monotonic()
        coming = documents.chunks(writer.place, writer.documents)
        for chunk, tokens in tokenized(coming, folder, vocabulary, workers):
            speed.advance(chunk.documents, add(writer, chunk, tokens))
            if time.monotonic() - last >= part_seconds:
                writer.end_part()
                last = time.monotonic()
        if writer.documents:
            writer.end_part()
    cache_writer.finish(writer, task.name, documents.split, inputs, vocabulary, evaluation)


Ready = Callable[[], dict[str, Tokens]]


def tokenized(
    coming: Iterator[Chunk], folder: Path, vocabulary: Vocabulary, workers: int
) -> Iterator[tuple[Chunk, Ready]]:
    """The chunks in order, each with what gives its ids; a chunk alone is not worth a process."""
    first = list(itertools.islice(coming, 2))
    chunks = itertools.chain(first, coming)
    if workers == 1 or len(first) < 2 or not texts_of(first[0]):
        for chunk in chunks:
            yield chunk, functools.partial(tokenizer_pool.all_tokenized, texts_of(chunk), vocabulary)
        return
    with tokenizer_pool.Pool(folder / "vocabulary", workers) as pool:
        yield from pool.map(chunks, texts_of)


def texts_of(chunk: Chunk) -> dict[str, Texts]:
    """The features that are to be tokenized."""
    return {name: x for name, x in chunk.features.items() if isinstance(x, Texts)}


def add(writer: Writer, chunk: Chunk, tokens: Ready) -> int:
    """Appends a chunk; how many ids it has.

    Raises:
      ValueError: a document that cannot be tokenized, by its number.
    """
    try:
        features = chunk.features | tokens()
    except BadDocument as error:
        raise error.at(writer.documents) from error
    writer.append({name: features[name] for name in writer.features}, chunk.lines, chunk.place)
    return sum(len(x.ids) for x in features.values())
