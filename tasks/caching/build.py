"""Builds token caches from seqio tasks in several processes, and resumes a killed build."""

import contextlib
import functools
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow and JAX stay off the accelerators, which belong to the training process.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Tokenizing processes run in parallel, each with one thread.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from t5x_like import interrupts, locks
from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import pool as tokenizer_pool
from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.journal import JOURNAL, CacheWriter, explain_full_disk
from t5x_like.data.cache.progress import BuildProgress
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens
from t5x_like.tasks.caching import seqio_mixtures, task_inputs
from t5x_like.tasks.caching.documents import Chunk, Documents
from t5x_like.tasks.sources.files import RecordSource, rejects_name
from t5x_like.types import Vocabulary

PART_SECONDS = 5.0  # between two points from which a killed build can resume

Filler = Callable[[Path, Documents, dict], None]  # (folder, documents, inputs): writes the files of a cache
GetTokens = Callable[[], dict[str, Tokens]]


def make_folder(root: str, name: str) -> Path:
    """Creates the folder of a task's caches.

    Raises:
      OSError: it cannot be written.
    """
    parent = Path(root) / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"root={root} cannot be written ({error.strerror}); set token_cache.TokenCache.root or $T5X_LIKE_CACHE to a "
            "writable folder"
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
    filler: Filler | None = None,
) -> Path:
    """Tokenizes one split of a task unless a fresh cache exists; returns its folder, which appears complete or not at all.

    `workers` processes tokenize (default: one per core), unless `filler` writes the files instead. Neither they nor a kill
    and resume change a byte of the cache. For a mixture, all its tasks are built and its rates written.

    Raises:
      ValueError: unknown task or split, an id outside the vocabulary, no example, or an unreadable source.
      OSError: the cache folder cannot be written, or the disk is full.
    """
    task_inputs.import_tasks(name, module, arguments)
    if seqio_mixtures.is_mixture(name):
        build_part = functools.partial(
            build,
            module=module,
            root=root,
            arguments=arguments,
            workers=workers,
            part_seconds=part_seconds,
            everything_in_tf=everything_in_tf,
            filler=filler,
        )
        for part in seqio_mixtures.tasks_of(name):
            task_inputs.check_task(task_inputs.find_task(part, module), split)
        for part in seqio_mixtures.tasks_of(name):
            build_part(part, split)
        folder = make_folder(root, name)
        return seqio_mixtures.write_rates(
            name, module, arguments, folder, functools.partial(count_documents, build_part)
        )
    task = task_inputs.find_task(name, module)
    task_inputs.check_task(task, split)
    parent = make_folder(root, name)
    what = f"the token cache {name}/{split}"

    def report_wait(holder: locks.Holder) -> None:
        print(f"waiting for {what}, in use by {holder}", file=sys.stderr, flush=True)

    with locks.hold(parent / f".{split}.lock", what, report_wait):
        fresh = TokenCache(name, split, module, root, arguments=arguments or {}).find()
        if fresh is not None:
            return fresh
        inputs = task_inputs.cache_inputs(task, module, arguments)
        target = parent / token_cache.fingerprint_of(inputs) / split
        folder = parent / f".building_{split}_{token_cache.fingerprint_of(inputs)}"
        for leftover in parent.glob(f".building_{split}_*"):
            if leftover != folder:
                shutil.rmtree(leftover, ignore_errors=True)  # of older sources; we hold the lock
        folder.mkdir(exist_ok=True)  # with the user's umask, since caches are shared
        documents = Documents(task, split, everything_in_tf)
        workers = workers or len(os.sched_getaffinity(0))
        filler = filler or functools.partial(fill, workers=workers, part_seconds=part_seconds)
        with discard_if_empty(folder):
            filler(folder, documents, inputs)
        if token_cache.current_inputs(inputs) != inputs:
            shutil.rmtree(folder)
            raise ValueError(f"the sources of task {name!r} changed while they were read; run it again")
        move_into_place(folder, target)
    return target


def count_documents(build_split: Callable[[str, str], Path], task: str) -> int:
    """The number of documents in the training split of a task, which is built for the count."""
    folder = build_split(task, "train")
    return json.loads((folder / token_cache.MANIFEST).read_text())["documents"]


def move_into_place(folder: Path, target: Path) -> None:
    """Moves a complete cache to its final folder and records it as verified."""
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    files = json.loads((target / token_cache.MANIFEST).read_text())["files"]
    cache_checks.write_stamp(target, files, token_cache.default_root())


@contextlib.contextmanager
def discard_if_empty(folder: Path) -> Iterator[None]:
    """Deletes the folder of a build that fails before its first part is complete."""
    try:
        yield
    except BaseException:
        if not any(path.stat().st_size for path in folder.glob(JOURNAL)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def fill(folder: Path, documents: Documents, inputs: dict, workers: int, part_seconds: float) -> None:
    """Writes the files of a cache into `folder`, resuming after the last complete part."""
    task, vocabulary = documents.task, task_inputs.vocabulary_of(documents.task)
    evaluation = task_inputs.describe_evaluation(task)
    writer = cache_writer.open_writer(folder, list(documents.features), vocabulary, evaluation)
    with explain_full_disk(folder):
        vocabulary.save(folder / "vocabulary")
    if isinstance(task.source, RecordSource):
        task.source.rejects = folder / ".rejects"
    total = task.source.num_input_examples(documents.split)
    title = f"tokenizing {task.name}/{documents.split}"
    with (
        contextlib.closing(writer),
        interrupts.postpone() as signals,
        BuildProgress(title, total, writer.documents) as progress,
    ):
        last = time.monotonic()
        chunks = documents.chunks(writer.place, writer.documents)
        for chunk, get_tokens in tokenize_chunks(chunks, folder, vocabulary, workers):
            progress.advance(chunk.documents, append_chunk(writer, chunk, get_tokens))
            if signals.number or time.monotonic() - last >= part_seconds:
                writer.end_part()
                last = time.monotonic()
            if signals.number:
                raise interrupts.Interrupted(signals.number)
        if writer.documents:
            writer.end_part()
    merge_rejects(folder, documents.shards)
    cache_writer.finish(writer, task.name, documents.split, inputs, vocabulary, evaluation)


def merge_rejects(folder: Path, shards: Sequence[str]) -> None:
    """Writes the dropped records of all shards to rejects.jsonl, if there are any."""
    paths = [path for shard in shards if (path := folder / ".rejects" / rejects_name(shard)).exists()]
    if any(path.stat().st_size for path in paths):
        with open(folder / token_cache.REJECTS, "wb") as file:
            for path in paths:
                file.write(path.read_bytes())
    shutil.rmtree(folder / ".rejects", ignore_errors=True)


def tokenize_chunks(
    chunks: Iterator[Chunk], folder: Path, vocabulary: Vocabulary, workers: int
) -> Iterator[tuple[Chunk, GetTokens]]:
    """Yields the chunks in order, each with a function that returns its tokens.

    With one worker, a single chunk, or no texts left to tokenize, no processes are started.
    """
    first = list(itertools.islice(chunks, 2))
    chunks = itertools.chain(first, chunks)
    if workers == 1 or len(first) < 2 or not texts_of(first[0]):
        for chunk in chunks:
            yield chunk, functools.partial(tokenizer_pool.tokenize_features, texts_of(chunk), vocabulary)
        return
    with tokenizer_pool.TokenizerPool(folder / "vocabulary", workers) as pool:
        yield from pool.map(chunks, texts_of)


def texts_of(chunk: Chunk) -> dict[str, Texts]:
    """The features of a chunk that remain to be tokenized."""
    return {name: feature for name, feature in chunk.features.items() if isinstance(feature, Texts)}


def append_chunk(writer: CacheWriter, chunk: Chunk, get_tokens: GetTokens) -> int:
    """Appends a chunk; returns its number of ids.

    Raises:
      ValueError: a document cannot be tokenized; the message has its number.
    """
    try:
        features = {name: x for name, x in chunk.features.items() if isinstance(x, Tokens)} | get_tokens()
    except BadDocument as error:
        raise error.with_offset(writer.documents) from error
    writer.append({name: features[name] for name in writer.features}, chunk.lines, chunk.place)
    return sum(len(tokens.ids) for tokens in features.values())
