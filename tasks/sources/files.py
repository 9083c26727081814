"""seqio sources for files and Python generators, with a fixed order; they count every record that they drop.

A shard is the unit of reading: a file, or one part of a generator's examples. A split is the concatenation of its shards
in the order of `list_shards`. See `sources.tfds` for TFDS, `sources.arrow` for folders of Hugging Face's `datasets`.
"""

import abc
import contextlib
import hashlib
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
from t5x_like.cleaning.shards import format_json_line
from t5x_like.cleaning.steps import Dropped, attempt
from t5x_like.tasks.sources.fields import ARRAYS, Fields, Kind, infer_kinds, normalize_fields, select_fields, to_arrays
from t5x_like.tasks.sources.patterns import match_files

KIND_EXAMPLES = 100  # examples from which the kinds of the fields are inferred
MAX_FAILURES = 10_000  # a split whose first 10,000 records give no example is an error
CHUNK, CHUNK_BYTES = 256, 2**20  # examples, and bytes of their text, passed to TensorFlow at once
TENSORS = {str: tf.string, dict: tf.string, bool: tf.bool, int: tf.int64, float: tf.float64}


class RecordSource(seqio.DataSource):
    """Base class of sources that turn records into examples.

    An example has the selected `fields` as text, numbers, or lists of these; deeper nesting becomes JSON text.

    Args:
      splits: names of the splits.
      fields: {new name: name in the record}, a list of names, or None for all fields.
      strict: raise an error that names shard, record and field, instead of dropping a record.
      split_filter: `split_filter(split, example)` is False for examples of another split; None keeps all.

    Attributes:
      dropped: {(split, shard): Counter of dropped records by rule}; reset when reading of the shard starts.
      failure: the exception that ended a dataset of `get_dataset`; TensorFlow reports only its text.
      rejects: a folder for lists of the dropped records, one file per shard; None writes none.
    """

    def __init__(
        self,
        splits: Iterable[str],
        fields: Fields = None,
        strict: bool = False,
        split_filter: Callable[[str, Mapping], bool] | None = None,
    ):
        super().__init__(splits=splits)
        self.fields, self.strict, self.split_filter = normalize_fields(fields), strict, split_filter
        self.dropped: dict[tuple[str, str], Counter] = {}
        self.failure: Exception | None = None
        self.rejects: Path | None = None
        self._kinds: dict[str, tuple[dict[str, str], dict[str, Kind]]] = {}

    @abc.abstractmethod
    def list_shards(self, split: str) -> Sequence[str]:
        """Returns the names of the shards of a split, in order."""

    @abc.abstractmethod
    def records(self, split: str, shard: str) -> Iterator[Mapping[str, Any] | Dropped]:
        """Yields the records of one shard, and a Dropped for each unreadable one."""

    @abc.abstractmethod
    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on: "options" (JSON), "functions" called, "data" (file patterns)."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: a shard is read as a whole."""
        return False

    def check_split(self, split: str) -> None:
        """Raises ValueError if the source has no such split."""
        if split not in self.splits:
            raise ValueError(f"split={split!r} is not a split of this source; it has {', '.join(self.splits)}")

    def examples(self, split: str, shard: str) -> Iterator[dict[str, Any]]:
        """Yields the examples of one shard in order: bytes, NumPy numbers and arrays by field.

        Raises:
          ValueError: the first records of the split give no example, or, if strict, a record gives none.
        """
        names, kinds = self.kinds(split)
        dropped = self.dropped[split, shard] = Counter()
        number = 0
        with self.open_rejects(split, shard) as reject:
            for number, record in enumerate(self.records(split, shard), 1):
                example: dict | Dropped | None = self.make_example(record, names, kinds)
                if self.split_filter is not None and not isinstance(example, Dropped):
                    selected = attempt("error.split_filter", self.split_filter, split, example)
                    example = selected if isinstance(selected, Dropped) else example if selected else None
                if isinstance(example, dict):
                    example = self.complete(example)
                if isinstance(example, Dropped):
                    self.check_strict(shard, number, example)
                    dropped[example.rule] += 1
                    reject({"file": shard, "record": number, "rule": example.rule, "detail": example.detail})
                elif example is not None:
                    yield example
        if not number:
            dropped["reading.empty_file"] += 1

    @contextlib.contextmanager
    def open_rejects(self, split: str, shard: str) -> Iterator[Callable[[Mapping[str, Any]], Any]]:
        """A function that adds a line to the list of a shard's dropped records, which is begun anew."""
        if self.rejects is None:
            yield lambda reject: None
            return
        self.rejects.mkdir(exist_ok=True)
        with open(self.rejects / rejects_name(shard), "wb", buffering=0) as file:
            yield lambda reject: file.write(format_json_line(reject))

    @staticmethod
    def make_example(
        record: Mapping[str, Any] | Dropped, names: Mapping[str, str], kinds: Mapping[str, Kind]
    ) -> dict | Dropped:
        """Selects the fields of a record and converts them to the values of tensors."""
        values = record if isinstance(record, Dropped) else attempt("error.fields", select_fields, record, names)
        return values if isinstance(values, Dropped) else attempt("error.fields", to_arrays, values, kinds)

    def complete(self, example: dict) -> dict | Dropped:
        """Returns an example of the split as it is yielded; what is expensive is done here, after the split's selection."""
        return example

    def check_strict(self, shard: str, number: int, dropped: Dropped) -> None:
        """Raises ValueError for a dropped record if `strict`."""
        if self.strict:
            raise ValueError(
                f"{shard}, record {number}: {dropped.rule}: {dropped.detail}; fix it, or count such records with strict=False"
            )

    def kinds(self, split: str) -> tuple[dict[str, str], dict[str, Kind]]:
        """Returns ({name: name in the record}, {name: kind}), inferred from the first examples of a split."""
        if split not in self._kinds:
            names, examples = self.read_beginning(split)
            self._kinds[split] = names, infer_kinds(examples)
        return self._kinds[split]

    def read_beginning(self, split: str) -> tuple[dict[str, str], list[dict]]:
        """Returns the names of the fields, and their values in the first examples of a split.

        Raises:
          ValueError: the first records give no example.
        """
        names, examples, last = self.fields, [], ""
        dropped: Counter[str] = Counter()
        places = ((shard, x) for shard in self.list_shards(split) for x in enumerate(self.records(split, shard), 1))
        for shard, (number, record) in itertools.islice(places, MAX_FAILURES):
            if isinstance(record, Dropped):
                values: dict | Dropped = record
            else:
                if names is None:
                    names = {name: name for name, value in record.items() if value is not None}
                values = select_fields(record, names)
            if isinstance(values, Dropped):
                self.check_strict(shard, number, values)
                dropped[values.rule] += 1
                last = f"{shard}, record {number}: {values.detail}"
            else:
                examples.append(values)
            if len(examples) == KIND_EXAMPLES:
                break
        if names is None or not examples:
            raise ValueError(self.explain_empty(split, dropped, last))
        return names, examples

    def explain_empty(self, split: str, dropped: Counter, last: str) -> str:
        """Returns the error message for a split without examples; `last` describes the last dropped record."""
        shards = self.list_shards(split)
        fields = "" if self.fields is None else f", fields={self.fields}"
        if not dropped:
            return f"split {split!r}{fields}: {', '.join(shards[:3])} ({len(shards)} shards) hold no record"
        rules = ", ".join(f"{count:,} {rule}" for rule, count in dropped.most_common())
        return (
            f"split {split!r}{fields}: none of the first {dropped.total():,} records gives an example ({rules}); {last}"
        )

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
        """Returns the examples of a split, or of every `num_shards`-th shard; `shuffle` permutes the shards only."""
        shards = list(self.list_shards(split))
        if shard_info and len(shards) < shard_info.num_shards:
            raise ValueError(f"num_shards={shard_info.num_shards} is more than the {len(shards)} shards of {split!r}")
        if shard_info:
            shards = shards[shard_info.index :: shard_info.num_shards]
        if shuffle:
            shards = [shards[i] for i in np.random.default_rng(seed).permutation(len(shards))]
        _, kinds = self.kinds(split)
        chunked = not any(kind.many for kind in kinds.values())  # lists of different lengths do not fit one tensor
        signature = {
            name: tf.TensorSpec((None,) * (kind.many + chunked), TENSORS[kind.element]) for name, kind in kinds.items()
        }
        generator = partial(self.read_chunks if chunked else self.read_shards, split, shards)
        dataset = tf.data.Dataset.from_generator(generator, output_signature=signature)
        return dataset.unbatch() if chunked else dataset

    def read_shards(self, split: str, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields the examples of several shards."""
        try:
            for shard in shards:
                yield from self.examples(split, shard)
        except Exception as error:
            self.failure = error
            raise

    def read_chunks(self, split: str, shards: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yields the examples of several shards in chunks, because passing them to TensorFlow one by one is slow."""
        _, kinds = self.kinds(split)
        types = {name: ARRAYS[kind.element] for name, kind in kinds.items()}
        chunk, size = [], 0
        for example in self.read_shards(split, shards):
            chunk.append(example)
            size += sum(len(value) for value in example.values() if isinstance(value, bytes))
            if len(chunk) == CHUNK or size > CHUNK_BYTES:
                yield stack_examples(chunk, types)
                chunk, size = [], 0
        if chunk:
            yield stack_examples(chunk, types)


def rejects_name(shard: str) -> str:
    """The name of the list of a shard's dropped records."""
    return f"{hashlib.sha256(shard.encode()).hexdigest()[:24]}.jsonl"


def stack_examples(examples: Sequence[Mapping[str, Any]], types: Mapping[str, type]) -> dict[str, np.ndarray]:
    """Stacks examples into one array per field."""
    return {name: np.array([example[name] for example in examples], dtype) for name, dtype in types.items()}


CONVERSION = (RecordSource, to_arrays)  # turn records into examples; every token cache depends on them


class FileSource(RecordSource):
    """Files, each a shard, sorted by name within a split.

    The suffix selects the reader (`cleaning.reading.FORMATS`, plain, .gz or .zst): a record is a line of text, a JSON
    object, or a row of a table.

    Args:
      split_to_patterns: {split: a path, a glob (also with **), or a list of these}.
      fields: {new name: name in the record}, a list of names, or None for all fields.
      columns: names of the columns of .tsv and .csv files without a header line.
      whole_files: read each file as one document.
      max_bytes: drop longer documents.
      strict: raise an error instead of dropping a record.
      split_filter: see `RecordSource`.
    """

    def __init__(
        self,
        split_to_patterns: Mapping[str, str | Path | Sequence[str | Path]],
        fields: Fields = None,
        columns: Sequence[str] = (),
        whole_files: bool = False,
        max_bytes: int = reading.MAX_BYTES,
        strict: bool = False,
        split_filter: Callable[[str, Mapping], bool] | None = None,
    ):
        super().__init__(split_to_patterns, fields, strict, split_filter)
        self.patterns = {
            split: [str(each) for each in ([patterns] if isinstance(patterns, str | os.PathLike) else patterns)]
            for split, patterns in split_to_patterns.items()
        }
        self.columns, self.whole_files, self.max_bytes = list(columns), whole_files, max_bytes

    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        options = [self.patterns, self.fields, self.columns, self.whole_files, self.max_bytes, self.strict]
        data = sorted({pattern for patterns in self.patterns.values() for pattern in patterns})
        return {
            "options": options,
            "functions": [*CONVERSION, self.split_filter, reading.read, compression.open_file],
            "data": data,
        }

    def list_shards(self, split: str) -> list[str]:
        """Returns the files of a split.

        Raises:
          ValueError: a pattern matches no file, or a file has no reader.
          ImportError: the package that reads a file is missing.
        """
        self.check_split(split)
        paths = match_files(split, self.patterns[split])
        for path in paths:
            self.find_reader(path)
            if path.endswith(".zst"):
                compression.import_zstandard()
            if path.endswith(".parquet") and importlib.util.find_spec("pyarrow") is None:
                raise ImportError(f"{path}: .parquet files need pyarrow: pip install pyarrow")
        return paths

    def find_reader(self, path: str) -> reading.Reader:
        """Returns the function that reads a file.

        Raises:
          ValueError: the suffix is unknown, or `columns` is given for a file that is not .tsv or .csv.
        """
        if self.whole_files:
            return reading.read_whole_file
        if reading.find_suffix(path) == ".parquet" and self.fields is not None:
            return partial(reading.read_parquet, fields=tuple(self.fields.values()))
        reader: Callable[..., Iterator[dict[str, Any] | Dropped]] = reading.find_reader(path)
        if self.columns and reader not in (reading.read_tsv, reading.read_csv):
            raise ValueError(f"columns={self.columns} are for .tsv and .csv files, not {path}; use fields")
        return partial(reader, columns=self.columns) if self.columns else reader

    def records(self, split: str, shard: str) -> Iterator[Mapping[str, Any] | Dropped]:
        """Yields the records of one file."""
        return reading.read(shard, field=None, reader=self.find_reader(shard), max_bytes=self.max_bytes)


class GeneratorSource(RecordSource):
    """Examples from a Python function: `function(split)` yields dictionaries, the same ones in every call.

    With `num_shards`, `function(split, shard, num_shards)` yields those of one shard (0, 1, ...), and shards can be read
    in parallel.
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
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        options = [self.fields, self.num_shards, self.strict]
        return {"options": options, "functions": [*CONVERSION, self.function], "data": []}

    def list_shards(self, split: str) -> list[str]:
        """Returns one name per shard, `train-00000-of-00001`."""
        self.check_split(split)
        count = self.num_shards or 1
        return [f"{split}-{index:05}-of-{count:05}" for index in range(count)]

    def records(self, split: str, shard: str) -> Iterator[Mapping[str, Any] | Dropped]:
        """Yields the function's dictionaries of one shard.

        Raises:
          TypeError: the function yields something else.
        """
        index = self.list_shards(split).index(shard)
        part = () if self.num_shards is None else (index, self.num_shards)
        for record in self.function(split, *part):
            if not isinstance(record, Mapping | Dropped):
                raise TypeError(f"{self.function} yields a {type(record).__name__}; it must yield dictionaries")
            yield record
