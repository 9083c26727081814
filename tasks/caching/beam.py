"""Builds token caches with Apache Beam: workers turn each shard of a source into a part, then the parts are joined.

The cache is byte-identical to that of `build`. Parts are written to a folder that all machines can reach (local, gs://,
s3://, hdfs://), and existing parts are not rebuilt. Beam needs a separate environment: see requirements-beam.txt.
"""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

from t5x_like.data.cache import pool
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.journal import EXAMPLES, CacheWriter, Place
from t5x_like.data.cache.progress import BuildProgress
from t5x_like.data.cache.tokenizing import Tokens
from t5x_like.tasks.caching import build, task_inputs
from t5x_like.tasks.caching.documents import Documents

PART_SUMMARY = "part.json"  # written last, so it marks a complete part


@dataclasses.dataclass(frozen=True)
class PartSpec:
    """What each worker needs to know: the task, its split, and the folder of the parts."""

    task: str
    split: str
    module: str
    arguments: dict
    parts: str

    def path(self, shard: int, name: str) -> str:
        """The path of a file of a part."""
        return FileSystems.join(self.parts, f"{shard:05d}", name)


def fill(
    folder: Path,
    documents: Documents,
    inputs: dict,
    module: str,
    arguments: dict,
    runner: str,
    options: Sequence[str],
    parts: str | None = None,
) -> None:
    """Writes the files of a cache into `folder`, as `build.fill` does, with a pipeline on `runner`."""
    task, vocabulary = documents.task, task_inputs.vocabulary_of(documents.task)
    evaluation = task_inputs.describe_evaluation(task)
    parts = parts or str(folder.parent / f"{folder.name.replace('building', 'parts')}")
    spec = PartSpec(task.name, documents.split, module, arguments, parts)
    flags = PipelineOptions([f"--runner={runner}", *options])
    flags.view_as(SetupOptions).save_main_session = False
    with beam.Pipeline(options=flags) as pipeline:
        shards = pipeline | "shards" >> beam.Create(range(len(documents.shards)))
        _ = shards | "spread" >> beam.Reshuffle() | "tokenize" >> beam.Map(functools.partial(make_part, spec))
    writer = cache_writer.open_writer(folder, list(documents.features), vocabulary, evaluation)
    with BuildProgress(f"joining {task.name}/{documents.split}", None, writer.documents) as progress:
        for shard in range(writer.place.shard, len(documents.shards)):
            progress.advance(*append_part(writer, spec, shard))
    cache_writer.finish(writer, task.name, documents.split, inputs, vocabulary, evaluation)
    FileSystems.delete([parts])


def make_part(spec: PartSpec, shard: int) -> None:
    """Tokenizes one shard and writes its part, the summary last."""
    if FileSystems.exists(spec.path(shard, PART_SUMMARY)):
        return
    task = task_inputs.find_task(spec.task, spec.module, spec.arguments)
    vocabulary, documents = task_inputs.vocabulary_of(task), Documents(task, spec.split)
    evaluation = task_inputs.describe_evaluation(task)
    with tempfile.TemporaryDirectory() as folder:
        writer = cache_writer.open_writer(Path(folder), list(documents.features), vocabulary, evaluation)
        for chunk in documents.chunks(Place(shard), stop=shard + 1):
            texts = build.texts_of(chunk)
            build.append_chunk(writer, chunk, functools.partial(pool.tokenize_features, texts, vocabulary))
        writer.close()
        for name in writer.files:
            with FileSystems.create(spec.path(shard, name)) as target, open(Path(folder) / name, "rb") as source:
                shutil.copyfileobj(source, target)
        summary = {"text_bytes": writer.part.text_bytes, "max_id": writer.part.max_id, "dropped": writer.place.dropped}
        with FileSystems.create(spec.path(shard, PART_SUMMARY)) as target:
            target.write(json.dumps(summary).encode())


def append_part(writer: CacheWriter, spec: PartSpec, shard: int) -> tuple[int, int]:
    """Appends a part to the cache; returns its numbers of documents and ids."""
    summary = json.loads(read_bytes(spec.path(shard, PART_SUMMARY)))
    features = {}
    for name, dtype in writer.features.items():
        offsets = np.frombuffer(read_bytes(spec.path(shard, f"{name}.offsets")), np.int64)
        ids = np.frombuffer(read_bytes(spec.path(shard, f"{name}.tokens")), dtype)
        features[name] = Tokens(ids, np.diff(offsets), summary["text_bytes"][name], summary["max_id"][name])
    lines = read_bytes(spec.path(shard, EXAMPLES)) if EXAMPLES in writer.files else b""
    dropped = dict(writer.place.dropped)
    for rule, count in summary["dropped"].items():
        dropped[rule] = dropped.get(rule, 0) + count
    before = writer.documents
    writer.append(features, lines, Place(shard + 1, 0, dropped))
    writer.end_part()
    return writer.documents - before, sum(len(x.ids) for x in features.values())


def read_bytes(path: str) -> bytes:
    """The content of a file on any file system that Beam supports."""
    with FileSystems.open(path, compression_type="uncompressed") as f:
        return f.read()
