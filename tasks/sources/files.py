"""seqio sources whose order is exact and that lose nothing in silence: files, and Python generators.

A shard is what is read in one piece: a file, or one part of a generator's examples. A split is its shards one after the
other, in the order of `list_shards`. TFDS is in `sources_tfds`, folders of Hugging Face's `datasets` in `sources_arrow`.
"""

import abc
import glob
import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.cleaning import compression, reading
from t5x_like.cleaning.steps import Document, Dropped
from t5x_like.tasks.sources import fields as sources_fields
from t5x_like.tasks.sources.fields import Fields, Kind

LOOKED_AT = 100  # examples that decide of which kind a field is
PATIENCE = 10_000  # records without an example after which something is taken to be wrong
TOGETHER, TOGETHER_BYTES = 256, 2**20  # examples and their text that TensorFlow is given at once
TENSORS = {str: tf.string, dict: tf.string, bool: tf.bool, int: tf.int64, float: tf.float64}


class RecordSource(seqio.DataSource):
    """Examples from records: `fields` of them, as text, numbers, or lists of these; what is nested becomes JSON text.

    A record that gives no example is counted in `dropped[split, shard]`, by rule, afresh whenever that shard is begun;
    `strict` makes it an error that names shard, record and field. `belongs(split, example)` leaves out what belongs to
    another split. `failure` is the exception that ended a `get_dataset`, of which TensorFlow keeps the text alone.
    """

    def __init__(
        self,
        splits: Iterable[str],
        fields: Fields = None,
        strict: bool = False,
        belongs: Callable[[str, Mapping], bool] | None = None,
    ):
        super().__init__(splits=splits)
        self.fields, self.strict, self.belongs = sources_fields.named(fields), strict, belongs
        self.dropped: dict[tuple[str, str], Counter] = {}
        self.failure: Exception | None = None
        self._kinds: dict[str, tuple[dict[str, str], dict[str, Kind]]] = {}

    @abc.abstractmethod
    def list_shards(self, split: str) -> Sequence[str]:
        """Names of the shards of a split, in their order."""

    @abc.abstractmethod
    def records(self, split: str, shard: str) -> Iterator[Document | Dropped]:
        """The records of one shard, with a Dropped for each that cannot be read."""

    @abc.abstractmethod
    def inputs(self) -> dict[str, list]:
        """What a token cache depends on: "options" as JSON, "functions" that are called, "data" as patterns of files."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def check_split(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"split={split!r} is none of this source's: {', '.join(self.splits)}")

    def examples(self, split: str, shard: str) -> Iterator[dict[str, Any]]:
        """The examples of one shard in order: bytes, NumPy numbers and arrays by field.

        Raises:
          ValueError: no example near the beginning of the split, or, if strict, a record that gives none.
        """
        names, kinds = self.kinds(split)
        lost = self.dropped[split, shard] = Counter()
        number = 0
        for number, record in enumerate(self.records(split, shard), 1):
            example = self.example(record, names, kinds)
            if isinstance(example, Dropped):
                self.refuse(shard, number, example)
                lost[example.rule] += 1
            elif self.belongs is None or self.belongs(split, example):
                yield example
        if not number:
            lost["reading.empty_file"] += 1

    @staticmethod
    def example(record: Document | Dropped, names: Mapping[str, str], kinds: Mapping[str, Kind]) -> dict | Dropped:
        """The wanted fields of a record as what tensors hold."""
        values = record if isinstance(record, Dropped) else sources_fields.chosen(record, names)
        return values if isinstance(values, Dropped) else sources_fields.arrays(values, kinds)

    def refuse(self, shard: str, number: int, lost: Dropped) -> None:
        """An error for a record that is lost, if strict."""
        if self.strict:
            raise ValueError(
                f"{shard}, record {number}: {lost.rule}: {lost.detail}; mend it, or count such records with strict=False"
            )

    def kinds(self, split: str) -> tuple[dict[str, str], dict[str, Kind]]:
        """({name: name in the record}, {name: kind}) as the beginning of a split has them."""
        if split not in self._kinds:
            names, found = self.beginning(split)
            self._kinds[split] = names, sources_fields.kinds_of(found)
        return self._kinds[split]

    def beginning(self, split: str) -> tuple[dict[str, str], list[dict]]:
        """The names and values of the fields wanted, of the first examples of a split.

        Raises:
          ValueError: there is none.
        """
        names, found, lost, last = self.fields, [], Counter(), ""
        places = ((shard, x) for shard in self.list_shards(split) for x in enumerate(self.records(split, shard), 1))
        for shard, (number, record) in itertools.islice(places, PATIENCE):
            if names is None and isinstance(record, Mapping):
                names = {name: name for name, value in record.items() if value is not None}
            values = record if isinstance(record, Dropped) else sources_fields.chosen(record, names)
            if isinstance(values, Dropped):
                self.refuse(shard, number, values)
                lost[values.rule] += 1
                last = f"{shard}, record {number}: {values.detail}"
            else:
                found.append(values)
            if len(found) == LOOKED_AT:
                break
        if not found:
            raise ValueError(self.nothing(split, lost, last))
        return names, found

    def nothing(self, split: str, lost: Counter, last: str) -> str:
        """Why a split has no example."""
        shards = self.list_shards(split)
        wanted = "" if self.fields is None else f", fields={self.fields}"
        if not lost:
            return f"split {split!r}{wanted}: {', '.join(shards[:3])} ({len(shards)} shards) hold no record at all"
        rules = ", ".join(f"{count:,} {rule}" for rule, count in lost.most_common())
        return f"split {split!r}{wanted}: none of the first {lost.total():,} records gives an example ({rules}); {last}"

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The examples of a split, or of every `num_shards`-th shard; `shuffle` changes the order of shards alone."""
        shards = list(self.list_shards(split))
        if shard_info and len(shards) < shard_info.num_shards:
            raise ValueError(f"num_shards={shard_info.num_shards} is more than the {len(shards)} shards of {split!r}")
        if shard_info:
            shards = shards[shard_info.index :: shard_info.num_shards]
        if shuffle:
            shards = [shards[i] for i in np.random.default_rng(seed).permutation(len(shards))]
        _, kinds = self.kinds(split)
        together = not any(kind.many for kind in kinds.values())  # lists of different lengths stand in no tensor
        signature = {
            name: tf.TensorSpec((None,) * (kind.many + together), TENSORS[kind.of]) for name, kind in kinds.items()
        }
        generated = partial(self.batches if together else self.generated, split, shards)
        dataset = tf.data.Dataset.from_generator(generated, output_signature=signature)
        return dataset.unbatch() if together else dataset

    def generated(self, split: str, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The examples of several shards."""
        try:
            for shard in shards:
                yield from self.examples(split, shard)
        except Exception as error:
            self.failure = error
            raise

    def batches(self, split: str, shards: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The examples of several shards, some together: handing them to TensorFlow one by one is slow."""
        _, kinds = self.kinds(split)
        types = {name: sources_fields.ARRAYS[kind.of] for name, kind in kinds.items()}
        some, size = [], 0
        for example in self.generated(split, shards):
            some.append(example)
            size += sum(len(value) for value in example.values() if isinstance(value, bytes))
            if len(some) == TOGETHER or size > TOGETHER_BYTES:
                yield stacked(some, types)
                some, size = [], 0
        if some:
            yield stacked(some, types)


def stacked(examples: Sequence[Mapping[str, Any]], types: Mapping[str, type]) -> dict[str, np.ndarray]:
    """Examples as one array a field."""
    return {name: np.array([example[name] for example in examples], kind) for name, kind in types.items()}


READING = (RecordSource, sources_fields.arrays)  # what the examples of every source here are made by


class FileSource(RecordSource):
    """Files by split, each a shard, in the order of their names: a file, a glob (** too) or several of them a split.

    The suffix says how a file is read (`cleaning.reading.FORMATS`, plain, .gz or .zst): a line of text, a JSON object, a
    row of a table; `whole_files` makes each file one document. `columns` names the columns of a .tsv or .csv that has no
    first line with names. A document longer than `max_bytes` is dropped.
    """

    def __init__(
        self,
        split_to_patterns: Mapping[str, str | Path | Sequence[str | Path]],
        fields: Fields = None,
        columns: Sequence[str] = (),
        whole_files: bool = False,
        max_bytes: int = reading.MAX_BYTES,
        strict: bool = False,
        belongs: Callable[[str, Mapping], bool] | None = None,
    ):
        super().__init__(split_to_patterns, fields, strict, belongs)
        self.patterns = {
            split: [str(each) for each in ([given] if isinstance(given, str | os.PathLike) else given)]
            for split, given in split_to_patterns.items()
        }
        self.columns, self.whole_files, self.max_bytes = list(columns), whole_files, max_bytes

    def inputs(self) -> dict[str, list]:
        options = [self.patterns, self.fields, self.columns, self.whole_files, self.max_bytes, self.strict]
        data = sorted({pattern for given in self.patterns.values() for pattern in given})
        return {
            "options": options,
            "functions": [*READING, self.belongs, reading.read, compression.open_file],
            "data": data,
        }

    def list_shards(self, split: str) -> list[str]:
        """The files of a split.

        Raises:
          ValueError: a pattern without a file, or a file without a reader.
          ImportError: a package that reads a file is missing.
        """
        self.check_split(split)
        paths = matching(split, self.patterns[split])
        for path in paths:
            self.reader(path)
            if path.endswith(".zst"):
                compression.import_zstandard()
            if path.endswith(".parquet") and importlib.util.find_spec("pyarrow") is None:
                raise ImportError(f"{path}: .parquet files need pyarrow: pip install pyarrow")
        return paths

    def reader(self, path: str) -> reading.Reader:
        """What reads a file."""
        if self.whole_files:
            return reading.read_whole_file
        found = reading.find_reader(path)
        if self.columns and found not in (reading.read_tsv, reading.read_csv):
            raise ValueError(f"columns={self.columns} are for .tsv and .csv files, not {path}; use fields")
        return partial(found, columns=self.columns) if self.columns else found

    def records(self, split: str, shard: str) -> Iterator[Document | Dropped]:
        return reading.read(shard, field=None, reader=self.reader(shard), max_bytes=self.max_bytes)


def matching(split: str, patterns: Sequence[str]) -> list[str]:
    """The files that patterns name, sorted, each once.

    Raises:
      ValueError: a pattern without a file, with what is in its folder.
    """
    found: set[str] = set()
    for pattern in patterns:
        files = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        if not files:
            raise ValueError(f"split {split!r}: {pattern!r} matches no file; {around(pattern)}")
        found.update(files)
    return sorted(found)


def around(pattern: str) -> str:
    """What is in the folder of a pattern."""
    if os.path.isdir(pattern):
        return f"it is a folder; give a glob, such as '{pattern.rstrip('/')}/*.jsonl'"
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).absolute().parent.parts)
    folder = Path(*fixed)
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{folder} holds {shown or 'nothing'}"


class GeneratorSource(RecordSource):
    """Examples from a Python function: `function(split)` yields dictionaries, the same ones at every call.

    With `num_shards`, `function(split, shard, num_shards)` yields those of one shard (0, 1, ...), and shards can be read
    beside each other.
    """

    def __init__(
        self,
        function: Callable[..., Iterable[Mapping]],
        splits: Iterable[str],
        fields: Fields = None,
        num_shards: int | None = None,
        strict: bool = False,
    ):
        super().__init__(splits, fields, strict)
        if num_shards is not None and num_shards < 1:
            raise ValueError(f"num_shards={num_shards} must be at least 1, or None for a function of the split alone")
        self.function, self.num_shards = function, num_shards

    def inputs(self) -> dict[str, list]:
        options = [self.fields, self.num_shards, self.strict]
        return {"options": options, "functions": [*READING, self.function], "data": []}

    def list_shards(self, split: str) -> list[str]:
        self.check_split(split)
        count = self.num_shards or 1
        return [f"{split}-{index:05}-of-{count:05}" for index in range(count)]

    def records(self, split: str, shard: str) -> Iterator[Document | Dropped]:
        index = self.list_shards(split).index(shard)
        part = () if self.num_shards is None else (index, self.num_shards)
        for record in self.function(split, *part):
            if not isinstance(record, Mapping | Dropped):
                raise TypeError(f"{self.function} yields a {type(record).__name__}; it must yield dictionaries")
            yield record
