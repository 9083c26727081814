"""The documents of a task as its token cache holds them, shard by shard: what TensorFlow has to do, and no more.

Where the cached part of a task ends in seqio's `tokenize` (and `append_eos`), the steps before it run in tf.data, as texts,
and the tokenizer is called outside of it, for many texts at once. A cached part of another shape runs in tf.data as a whole.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.cache.journal import Place
from t5x_like.data.cache.tokenizing import BadDocument, Texts, Tokens, is_mask, joined
from t5x_like.data.cache.writer import example_line
from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.tasks.caching import task_inputs
from t5x_like.tasks.vocabularies import SeqioVocabulary

CHUNK_BYTES = 2**20  # of text, about; what is tokenized at once
CHUNK_DOCUMENTS = 2**14
BATCH = 64  # documents that tf.data hands over at once
EOS_STEPS = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
TOKENIZE_STEPS = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)


@dataclasses.dataclass(frozen=True)
class Ending:
    """How many steps come before the tokenizer, and what it and those after it do."""

    before: int
    eos: int  # how many times it is appended
    copy_pretokenized: bool


def ending_of(steps: list) -> Ending | None:
    """The tokenizer and append_eos at the end of a task's steps; None where the steps are of another shape."""
    eos = 0
    while steps and steps[-1] in EOS_STEPS:
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
    """Some documents in order: their features, to be tokenized or ready, and the lines of their other fields."""

    features: dict[str, Texts | Tokens]
    lines: bytes
    documents: int
    text_bytes: int
    place: Place  # where reading goes on after it


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of a task's split; `everything_in_tf` has tf.data tokenize whatever the steps are."""

    task: seqio.Task
    split: str
    everything_in_tf: bool = False

    @functools.cached_property
    def shards(self) -> list[str]:
        """The source's shards, which are read one after the other."""
        found = list(self.task.source.list_shards(self.split))
        if not found:
            raise ValueError(
                f"task {self.task.name!r} has no file in split {self.split!r}; its source is {self.task.source}"
            )
        return found

    @functools.cached_property
    def evaluated(self) -> bool:
        """Whether metrics need the other fields of each document."""
        return bool(self.task.metric_fns)

    def where(self, shard: int) -> str:
        return f"task {self.task.name!r}, split {self.split!r}, shard {self.shards[shard]!r}"

    def source(self, shard: int) -> tf.data.Dataset:
        """The examples of a shard as the source has them."""
        info = seqio.ShardInfo(index=shard, num_shards=len(self.shards)) if len(self.shards) > 1 else None
        return self.task.source.get_dataset(split=self.split, shuffle=False, shard_info=info)

    def prepared(self, shard: int) -> tuple[tf.data.Dataset, Ending | None]:
        """The examples of a shard after the steps that run in tf.data, and what is left to do."""
        steps, dataset = task_inputs.steps_of(self.task), self.source(shard)
        ending = None if self.everything_in_tf else ending_of(steps)
        left = len(steps) if ending is None else ending.before
        with seqio.utils.map_seed_manager(0):
            dataset = self.after(dataset, steps[:left], shard)
            if ending is not None and not self.can_wait(dataset.element_spec, ending):
                dataset, ending = self.after(dataset, steps[left:], shard), None
        self.check_fields(dataset.element_spec, shard, ending)
        return dataset, ending

    def after(self, dataset: tf.data.Dataset, steps: list, shard: int) -> tf.data.Dataset:
        """The dataset after some steps.

        Raises:
          ValueError: a step looks for a field that the examples do not have.
        """
        for step in steps:
            fields = dataset.element_spec
            made = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=None, output_features=self.task.output_features
            )
            try:
                dataset = made(dataset)
            except KeyError as error:
                field = str(error).rpartition("KeyError: ")[2].splitlines()[0]
                raise ValueError(
                    f"{self.where(shard)}: step {task_inputs.described(step)[0]} looks for the field {field}, the examples "
                    f"have {shown(fields)}; name a field that is there"
                ) from error
        return dataset

    def can_wait(self, spec, ending: Ending) -> bool:
        """Whether tokenizing may be left to the tokenizer alone: features are texts, and masks that are ready."""

        def plain(name: str) -> bool:
            if name not in spec:
                return True  # said by check_fields
            feature = self.task.output_features[name]
            if is_mask(name):
                return spec[name].shape.rank == 1 and not (ending.eos and feature.add_eos)
            text = spec[name].shape.rank == 0 and spec[name].dtype == tf.string
            return text and type(feature.vocabulary) is SeqioVocabulary

        copies = {f"{name}_pretokenized" for name in self.task.output_features} if ending.copy_pretokenized else set()
        return isinstance(spec, dict) and all(map(plain, self.task.output_features)) and not copies & spec.keys()

    def check_fields(self, spec, shard: int, ending: Ending | None) -> None:
        """Refuses examples without the features, or with features that are no lists of ids."""
        for name in self.task.output_features:
            if not isinstance(spec, dict) or name not in spec:
                raise ValueError(
                    f"{self.where(shard)}: no field {name!r} after the task's steps, the examples have {shown(spec)}; rename "
                    "one in a step (t5x_like.tasks.preprocessors.rekey), or change output_features"
                )
            made = spec[name]
            if (ending is None or is_mask(name)) and not (made.shape.rank == 1 and made.dtype.is_integer):
                raise ValueError(
                    f"{self.where(shard)}: feature {name!r} is {made.dtype.name} of rank {made.shape.rank} after the task's "
                    "steps; a token cache holds one list of ids a document, so add seqio.preprocessors.tokenize"
                )

    def chunks(self, start: Place, before: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """All documents from `start` on, which `before` came before, up to shard `stop`; the last chunk may be empty.

        Raises:
          ValueError: reading failed, by shard and document.
        """
        gathering = Gathering(self, start, before)
        for shard in range(start.shard, len(self.shards) if stop is None else stop):
            dataset, ending = self.prepared(shard)
            gathering.begin(shard, ending)
            for columns in self.columns(dataset, shard, gathering.place.examples):
                gathering.add(columns)
                if gathering.text_bytes >= CHUNK_BYTES or gathering.documents >= CHUNK_DOCUMENTS:
                    yield gathering.take()
            gathering.end(shard)
        yield gathering.take()

    def columns(self, dataset: tf.data.Dataset, shard: int, skipped: int) -> Iterator[dict[str, list]]:
        """The fields of some examples after the first `skipped`, each as a list."""
        spec = dataset.element_spec
        kept = sorted(spec) if self.evaluated else sorted(self.task.output_features)
        dataset = dataset.map(lambda example: {name: example[name] for name in kept})
        together = all(isinstance(spec[name], tf.TensorSpec) and spec[name].shape.rank == 0 for name in kept)
        done = skipped
        try:
            if together:
                for batch in dataset.skip(done).batch(BATCH).prefetch(2).as_numpy_iterator():
                    columns = {name: values.tolist() for name, values in batch.items()}
                    done += len(columns[kept[0]])
                    yield columns
                return
        except tf.errors.OpError:
            pass  # one by one, to say which it is
        try:
            for example in dataset.skip(done).prefetch(BATCH).as_numpy_iterator():
                done += 1
                yield {name: [value] for name, value in example.items()}
        except tf.errors.OpError as error:
            own = getattr(self.task.source, "failure", None)  # of which TensorFlow keeps the text alone
            said = f"{type(own).__name__}: {own}" if own else reason(error)
            raise ValueError(f"{self.where(shard)}: reading failed at document {done}: {said}") from error

    def dropped(self, shard: int) -> dict[str, int]:
        """What the source left out of a shard, by rule; a source says it by its attribute `dropped`."""
        counts = getattr(self.task.source, "dropped", {})
        return dict(counts.get((self.split, self.shards[shard]), {}))


def shown(spec) -> str:
    """The fields of examples."""
    return ", ".join(sorted(spec)) if isinstance(spec, dict) else str(spec)


def reason(error: Exception) -> str:
    """The line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inside = [line for line in lines if line.startswith("Traceback")]
    if not inside:
        return lines[0] if lines else type(error).__name__
    after = lines[lines.index(inside[-1]) :]
    return next((line for line in after if line.split(":")[0].isidentifier() and ":" in line), lines[0])


class Gathering:
    """Documents on their way into a chunk."""

    def __init__(self, documents: Documents, start: Place, before: int):
        self.of, self.place, self.before, self.ending = documents, start, before, None
        self.clear()

    def clear(self) -> None:
        self.lists: dict[str, list] = {name: [] for name in self.of.task.output_features}
        self.lines: list[bytes] = []
        self.text_bytes = self.documents = 0

    def begin(self, shard: int, ending: Ending | None) -> None:
        if shard != self.place.shard:
            self.place = Place(shard, 0, self.place.dropped)
        self.ending = ending

    def add(self, columns: dict[str, list]) -> None:
        """Takes examples in, field by field."""
        count = len(next(iter(columns.values())))
        for name, values in self.lists.items():
            values += columns[name]
            self.text_bytes += sum(map(len, columns[name]))
        if self.of.evaluated:
            self.lines += [example_line(self.beside({k: v[i] for k, v in columns.items()})) for i in range(count)]
        self.documents += count
        self.place = dataclasses.replace(self.place, examples=self.place.examples + count)

    def beside(self, example: dict) -> dict:
        """The fields of an example that are not in the token files."""
        fields = {name: value for name, value in example.items() if name not in self.lists}
        if self.ending is not None and self.ending.copy_pretokenized:
            fields |= {f"{name}_pretokenized": example[name] for name in self.lists}
        return fields

    def end(self, shard: int) -> None:
        dropped = dict(self.place.dropped)
        for rule, count in self.of.dropped(shard).items():
            dropped[rule] = dropped.get(rule, 0) + count
        self.place = Place(shard + 1, 0, dropped)

    def take(self) -> Chunk:
        """What was gathered, as a chunk."""
        features = {name: self.feature(name, values) for name, values in self.lists.items()}
        chunk = Chunk(features, b"".join(self.lines), self.documents, self.text_bytes, self.place)
        self.before += self.documents
        self.clear()
        return chunk

    def feature(self, name: str, values: list) -> Texts | Tokens:
        """A feature of what was gathered.

        Raises:
          ValueError: an id outside the vocabulary, by document.
        """
        vocabulary = task_inputs.vocabulary_of(self.of.task)
        if self.ending is None or is_mask(name):
            try:
                return joined(name, [np.asarray(one, np.int64) for one in values], vocabulary)
            except BadDocument as error:
                raise error.at(self.before) from None
        if not self.ending.eos or not self.of.task.output_features[name].add_eos:
            return Texts(values)
        return Texts(values, (end_id(vocabulary),) * self.ending.eos)
