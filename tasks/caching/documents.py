"""Reads the documents of a task for its token cache, shard by shard, with as little TensorFlow as possible.

If the cached steps of a task end with seqio's `tokenize` (and `append_eos`), the steps before it run in tf.data on texts,
and the tokenizer is called outside of tf.data on many texts at once. Otherwise all cached steps run in tf.data.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.cache.journal import Place
from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens, is_mask, join_documents
from t5x_like.data.cache.writer import to_json_line
from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.tasks.caching import steps as task_steps
from t5x_like.tasks.caching import task_inputs
from t5x_like.tasks.vocabularies import SeqioVocabulary

CHUNK_BYTES = 2**20  # of text, approximately, that are tokenized at once
CHUNK_DOCUMENTS = 2**14
BATCH = 64  # documents per batch of tf.data
TOKENIZE_STEPS = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)


@dataclasses.dataclass(frozen=True)
class Ending:
    """The tokenizer and what follows it at the end of a task's steps."""

    steps_before: int
    eos: int  # how many are appended
    copy_pretokenized: bool


def parse_ending(steps: list) -> Ending | None:
    """Finds the tokenizer and append_eos at the end of a task's steps; None if they end differently."""
    eos = 0
    while steps and steps[-1] in task_steps.EOS_STEPS:
        steps, eos = steps[:-1], eos + 1
    if not steps:
        return None
    options, step = {}, steps[-1]
    if isinstance(step, functools.partial) and not step.args:
        options, step = dict(step.keywords), step.func
    if step not in TOKENIZE_STEPS or options.keys() - {"copy_pretokenized", "with_eos"}:
        return None
    with_eos = options.get("with_eos", False) or step is seqio.preprocessors.tokenize_and_append_eos
    return Ending(len(steps) - 1, eos + with_eos, options.get("copy_pretokenized", True))


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive documents: their features, tokenized or not yet, and the JSON lines of their other fields."""

    features: dict[str, Texts | Tokens]
    lines: bytes
    documents: int
    text_bytes: int
    place: Place  # the position in the source after the chunk


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of a split; with `everything_in_tf`, tf.data always tokenizes."""

    task: seqio.Task
    split: str
    everything_in_tf: bool = False

    @functools.cached_property
    def shards(self) -> list[str]:
        """The source's shards, in the order in which they are read.

        Raises:
          ValueError: there are none.
        """
        shards = list(self.task.source.list_shards(self.split))
        if not shards:
            raise ValueError(
                f"task {self.task.name!r} has no file in split {self.split!r}; its source is {self.task.source}"
            )
        return shards

    @functools.cached_property
    def features(self) -> dict[str, seqio.Feature]:
        """The features of the cache."""
        return task_steps.cached_features(self.task)

    @functools.cached_property
    def has_metrics(self) -> bool:
        """Whether metrics read the other fields of each document."""
        return bool(self.task.metric_fns)

    def location(self, shard: int) -> str:
        """A shard's task, split and name, for error messages."""
        return f"task {self.task.name!r}, split {self.split!r}, shard {self.shards[shard]!r}"

    def source(self, shard: int) -> tf.data.Dataset:
        """The source's examples of a shard."""
        info = seqio.ShardInfo(index=shard, num_shards=len(self.shards)) if len(self.shards) > 1 else None
        return self.task.source.get_dataset(split=self.split, shuffle=False, shard_info=info)

    def prepare(self, shard: int) -> tuple[tf.data.Dataset, Ending | None]:
        """Runs a shard's steps in tf.data; returns the examples, and the ending if it remains to be done outside.

        Raises:
          ValueError: the examples lack a field, or a feature is not a list of ids.
        """
        steps, dataset = list(task_steps.split(self.task).cached), self.source(shard)
        ending = None if self.everything_in_tf else parse_ending(steps)
        count = len(steps) if ending is None else ending.steps_before
        with seqio.utils.map_seed_manager(0):
            dataset = self.apply_steps(dataset, steps[:count], shard)
            if ending is not None and not self.can_tokenize_outside(dataset.element_spec, ending):
                dataset, ending = self.apply_steps(dataset, steps[count:], shard), None
        self.check_fields(dataset.element_spec, shard, ending)
        return dataset, ending

    def apply_steps(self, dataset: tf.data.Dataset, steps: list, shard: int) -> tf.data.Dataset:
        """Applies steps to a dataset.

        Raises:
          ValueError: a step reads a field that the examples do not have.
        """
        for step in steps:
            fields = dataset.element_spec
            transform = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=None, output_features=self.task.output_features
            )
            try:
                dataset = transform(dataset)
            except KeyError as error:
                field = str(error).rpartition("KeyError: ")[2].splitlines()[0]
                raise ValueError(
                    f"{self.location(shard)}: step {task_inputs.describe_value(step)[0]} reads the field {field}, the "
                    f"examples have {field_names(fields)}; name one of these"
                ) from error
        return dataset

    def can_tokenize_outside(self, spec: Any, ending: Ending) -> bool:
        """Whether the tokenizer can run outside of tf.data: token features are texts, and masks are finished."""

        def fits(name: str) -> bool:
            if name not in spec:
                return True  # reported by check_fields
            feature = self.features[name]
            if is_mask(name):
                return spec[name].shape.rank == 1 and not (ending.eos and feature.add_eos)
            is_text = spec[name].shape.rank == 0 and spec[name].dtype == tf.string
            return is_text and type(feature.vocabulary) is SeqioVocabulary

        copies = {f"{name}_pretokenized" for name in self.features} if ending.copy_pretokenized else set()
        return isinstance(spec, dict) and all(map(fits, self.features)) and not copies & spec.keys()

    def check_fields(self, spec: Any, shard: int, ending: Ending | None) -> None:
        """Checks that the examples have all features, each a list of ids or a text that remains to be tokenized.

        Raises:
          ValueError: a feature is missing, or of another kind.
        """
        for name in self.features:
            if not isinstance(spec, dict) or name not in spec:
                raise ValueError(
                    f"{self.location(shard)}: no field {name!r} after the task's steps, the examples have "
                    f"{field_names(spec)}; rename one in a step (t5x_like.tasks.preprocessors.rekey), or change output_features"
                )
            field = spec[name]
            if (ending is None or is_mask(name)) and not (field.shape.rank == 1 and field.dtype.is_integer):
                raise ValueError(
                    f"{self.location(shard)}: feature {name!r} is {field.dtype.name} of rank {field.shape.rank} after the "
                    "task's steps; a token cache holds one list of ids per document, so add seqio.preprocessors.tokenize"
                )

    def chunks(self, start: Place, before: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yields the documents from `start` up to shard `stop`, in chunks; the last may be empty.

        `before` is the number of documents that precede `start`.

        Raises:
          ValueError: reading failed; the message names shard and document.
        """
        builder = ChunkBuilder(self, start, before)
        for shard in range(start.shard, len(self.shards) if stop is None else stop):
            dataset, ending = self.prepare(shard)
            builder.begin_shard(shard, ending)
            for columns in self.columns(dataset, shard, builder.place.examples):
                builder.add(columns)
                if builder.text_bytes >= CHUNK_BYTES or builder.documents >= CHUNK_DOCUMENTS:
                    yield builder.finish_chunk()
            builder.end_shard(shard)
        yield builder.finish_chunk()

    def columns(self, dataset: tf.data.Dataset, shard: int, skipped: int) -> Iterator[dict[str, list]]:
        """Yields batches of examples after the first `skipped`, as {field: list of values}."""
        spec = dataset.element_spec
        fields = sorted(spec) if self.has_metrics else sorted(self.features)
        dataset = dataset.map(lambda example: {name: example[name] for name in fields})
        can_batch = all(isinstance(spec[name], tf.TensorSpec) and spec[name].shape.rank == 0 for name in fields)
        done = skipped
        try:
            if can_batch:
                for batch in dataset.skip(done).batch(BATCH).prefetch(2).as_numpy_iterator():
                    columns = {name: values.tolist() for name, values in batch.items()}
                    done += len(columns[fields[0]])
                    yield columns
                return
        except tf.errors.OpError:
            pass  # read one by one below, to find which example fails
        try:
            for example in dataset.skip(done).prefetch(BATCH).as_numpy_iterator():
                done += 1
                yield {name: [value] for name, value in example.items()}
        except tf.errors.OpError as error:
            # The source's own error, if it keeps it: TensorFlow keeps only its text.
            failure = getattr(self.task.source, "failure", None)
            message = f"{type(failure).__name__}: {failure}" if failure else error_line(error)
            raise ValueError(f"{self.location(shard)}: reading failed at document {done}: {message}") from error

    def dropped(self, shard: int) -> dict[str, int]:
        """How many documents the source dropped from a shard, by rule, according to its attribute `dropped`."""
        counts = getattr(self.task.source, "dropped", {})
        return dict(counts.get((self.split, self.shards[shard]), {}))


def field_names(spec: Any) -> str:
    """The names of the fields of examples, as text."""
    return ", ".join(sorted(spec)) if isinstance(spec, dict) else str(spec)


def error_line(error: Exception) -> str:
    """The most specific line of a TensorFlow error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    tracebacks = [line for line in lines if line.startswith("Traceback")]
    if not tracebacks:
        return lines[0] if lines else type(error).__name__
    after = lines[lines.index(tracebacks[-1]) :]
    return next((line for line in after if line.split(":")[0].isidentifier() and ":" in line), lines[0])


class ChunkBuilder:
    """Collects documents into chunks; `before` is the number of documents that precede the chunk."""

    def __init__(self, source: Documents, start: Place, before: int):
        self.source, self.place, self.before = source, start, before
        self.ending: Ending | None = None
        self.clear()

    def clear(self) -> None:
        """Begins an empty chunk."""
        self.lists: dict[str, list] = {name: [] for name in self.source.features}
        self.lines: list[bytes] = []
        self.text_bytes = self.documents = 0

    def begin_shard(self, shard: int, ending: Ending | None) -> None:
        """Begins a shard; a shard that was partly read keeps its position."""
        if shard != self.place.shard:
            self.place = Place(shard, 0, self.place.dropped)
        self.ending = ending

    def add(self, columns: dict[str, list]) -> None:
        """Adds examples, given as {field: list of values}."""
        count = len(next(iter(columns.values())))
        for name, values in self.lists.items():
            values += columns[name]
            self.text_bytes += sum(map(len, columns[name]))
        if self.source.has_metrics:
            self.lines += [to_json_line(self.other_fields({k: v[i] for k, v in columns.items()})) for i in range(count)]
        self.documents += count
        self.place = dataclasses.replace(self.place, examples=self.place.examples + count)

    def other_fields(self, example: dict) -> dict:
        """The fields of an example that are not in the token files."""
        fields = {name: value for name, value in example.items() if name not in self.lists}
        if self.ending is not None and self.ending.copy_pretokenized:
            fields |= {f"{name}_pretokenized": example[name] for name in self.lists}
        return fields

    def end_shard(self, shard: int) -> None:
        """Ends a shard, and adds what its source dropped to the counts."""
        dropped = dict(self.place.dropped)
        for rule, count in self.source.dropped(shard).items():
            dropped[rule] = dropped.get(rule, 0) + count
        self.place = Place(shard + 1, 0, dropped)

    def finish_chunk(self) -> Chunk:
        """Returns the chunk and begins an empty one."""
        features = {name: self.feature(name, values) for name, values in self.lists.items()}
        chunk = Chunk(features, b"".join(self.lines), self.documents, self.text_bytes, self.place)
        self.before += self.documents
        self.clear()
        return chunk

    def feature(self, name: str, values: list) -> Texts | Tokens:
        """A feature of the chunk: ids, or texts if it remains to be tokenized.

        Raises:
          ValueError: an id is outside the vocabulary; the message names the document.
        """
        vocabulary = task_inputs.vocabulary_of(self.source.task)
        if self.ending is None or is_mask(name):
            try:
                return join_documents(name, [np.asarray(ids, np.int64) for ids in values], vocabulary)
            except BadDocument as error:
                raise error.with_offset(self.before) from None
        if not self.ending.eos or not self.source.features[name].add_eos:
            return Texts(values)
        return Texts(values, (end_id(vocabulary),) * self.ending.eos)
