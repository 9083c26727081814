"""Token caches built by Apache Beam: every shard of a source becomes a part on some machine, then the parts are joined.

The cache is the one that `build` writes, to the byte. Parts lie in a folder that all machines reach (local, gs://,
s3://, hdfs://), and those that are there are not made again. Beam needs an environment of its own: requirements-beam.txt.
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
from t5x_like.data.cache.journal import EXAMPLES, Place, Writer
from t5x_like.data.cache.progress import Speed
from t5x_like.data.cache.tokenizing import Tokens
from t5x_like.tasks.caching import build, task_inputs
from t5x_like.tasks.caching.documents import Documents

DONE = "part.json"


@dataclasses.dataclass(frozen=True)
class Order:
    """What every machine needs to know: the task, its split, and where parts go."""

    task: str
    split: str
    module: str
    arguments: dict
    parts: str

    def part(self, shard: int, name: str) -> str:
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
    """Writes the files of a cache into a folder, as `build.fill` does, by a pipeline on `runner`."""
    task, vocabulary = documents.task, task_inputs.vocabulary_of(documents.task)
    evaluation = task_inputs.evaluation_of(task)
    parts = parts or str(folder.parent / f"{folder.name.replace('building', 'parts')}")
    order = Order(task.name, documents.split, module, arguments, parts)
    flags = PipelineOptions([f"--runner={runner}", *options])
    flags.view_as(SetupOptions).save_main_session = False
    with beam.Pipeline(options=flags) as pipeline:
        shards = pipeline | "shards" >> beam.Create(range(len(documents.shards)))
        _ = shards | "spread" >> beam.Reshuffle() | "tokenize" >> beam.Map(functools.partial(make_part, order))
    writer = cache_writer.open_writer(folder, list(task.output_features), vocabulary, evaluation)
    with Speed(f"joining {task.name}/{documents.split}", None, writer.documents) as speed:
        for shard in range(writer.place.shard, len(documents.shards)):
            speed.advance(*join(writer, order, shard))
    cache_writer.finish(writer, task.name, documents.split, inputs, vocabulary, evaluation)
    FileSystems.delete([parts])


def make_part(order: Order, shard: int) -> None:
    """Tokenizes one shard and puts its files among the parts; the description comes last."""
    if FileSystems.exists(order.part(shard, DONE)):
        return
    task = task_inputs.find_task(order.task, order.module, order.arguments)
    vocabulary, documents = task_inputs.vocabulary_of(task), Documents(task, order.split)
    evaluation = task_inputs.evaluation_of(task)
    with tempfile.TemporaryDirectory() as folder:
        writer = cache_writer.open_writer(Path(folder), list(task.output_features), vocabulary, evaluation)
        for chunk in documents.chunks(Place(shard), stop=shard + 1):
            texts = build.texts_of(chunk)
            build.add(writer, chunk, functools.partial(pool.all_tokenized, texts, vocabulary))
        writer.close()
        for name in writer.files:
            with FileSystems.create(order.part(shard, name)) as out, open(Path(folder) / name, "rb") as made:
                shutil.copyfileobj(made, out)
        said = {"text_bytes": writer.part.text_bytes, "max_id": writer.part.max_id, "dropped": writer.place.dropped}
        with FileSystems.create(order.part(shard, DONE)) as out:
            out.write(json.dumps(said).encode())


def join(writer: Writer, order: Order, shard: int) -> tuple[int, int]:
    """Appends a part to the cache; how many documents and ids it has."""
    said = json.loads(content(order.part(shard, DONE)))
    features = {}
    for name, dtype in writer.features.items():
        offsets = np.frombuffer(content(order.part(shard, f"{name}.offsets")), np.int64)
        ids = np.frombuffer(content(order.part(shard, f"{name}.tokens")), dtype)
        features[name] = Tokens(ids, np.diff(offsets), said["text_bytes"][name], said["max_id"][name])
    lines = content(order.part(shard, EXAMPLES)) if EXAMPLES in writer.files else b""
    dropped = dict(writer.place.dropped)
    for rule, count in said["dropped"].items():
        dropped[rule] = dropped.get(rule, 0) + count
    before = writer.documents
    writer.append(features, lines, Place(shard + 1, 0, dropped))
    writer.end_part()
    return writer.documents - before, sum(len(x.ids) for x in features.values())


def content(path: str) -> bytes:
    """A file's bytes, whatever file system it is on."""
    with FileSystems.open(path, compression_type="uncompressed") as f:
        return f.read()
