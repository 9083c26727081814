"""The definition of a benchmark: conversion of its rows to examples, layouts of its files, templates and metrics.

Rows have TFDS's fields, whatever they are read from. Files are looked up below `$T5X_LIKE_DATA`, in the layouts in which the
benchmark is distributed, and then among the datasets that TFDS has prepared. Nothing is downloaded.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.prompting.renderings import Shots
from t5x_like.prompting.templates import Template
from t5x_like.text_metrics import postprocess as postprocessors

Row = Mapping
Metric = Callable[[list, list], dict[str, float]]
DATA_VARIABLE = "T5X_LIKE_DATA"
SEPARATOR = Shots().separator
TRAIN_VALIDATION: Mapping[str, str] = {"train": "train", "validation": "validation"}


@dataclass(frozen=True)
class Layout:
    """A layout of a benchmark's files: {split: glob below `$T5X_LIKE_DATA`}, and `read`, which yields a file's rows."""

    patterns: Mapping[str, str]
    read: Callable[[Path], Iterator[Row | Dropped]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      make_example: converts a row to an example.
      templates: wordings of the task.
      metric_fns: seqio metrics.
      layouts: layouts of its files, in order of preference.
      cluster: benchmarks of the same cluster are similar, and are held out together.
      tfds_name: its name in TFDS, if it is there.
      splits: {split of the task: split in TFDS}.
      postprocess: seqio's postprocess function.
      stops: texts that end an answer; a model that has read examples goes on with another one after a blank line.
      ranked: whether its own script ranks the choices by log-probability.
    """

    make_example: Callable[[Row], dict | Dropped]
    templates: tuple[Template, ...]
    metric_fns: tuple[Metric, ...]
    layouts: tuple[Layout, ...]
    cluster: str
    tfds_name: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: TRAIN_VALIDATION)
    postprocess: Callable = postprocessors.strip
    stops: tuple[str, ...] = (SEPARATOR,)
    ranked: bool = False


def data_root() -> Path:
    """Returns the folder of benchmark files: $T5X_LIKE_DATA, or ~/t5x_like_data."""
    return Path(os.environ.get(DATA_VARIABLE) or Path.home() / "t5x_like_data")


def list_patterns(benchmark: Benchmark, split: str) -> list[tuple[Layout, str]]:
    """Returns each layout that has the split, with the glob of its files."""
    return [
        (layout, str(data_root() / layout.patterns[split])) for layout in benchmark.layouts if split in layout.patterns
    ]


def find_files(benchmark: Benchmark, split: str) -> tuple[Layout, list[Path]] | None:
    """Returns the first layout that has files of a split, and these files; None if there are none."""
    for layout, pattern in list_patterns(benchmark, split):
        if paths := sorted(glob.glob(pattern, recursive=True)):
            return layout, [Path(path) for path in paths]
    return None


def make_examples(benchmark: Benchmark, rows: Iterable[Row | Dropped]) -> Iterator[dict | Dropped]:
    """Converts rows to examples."""
    for row in rows:
        yield row if isinstance(row, Dropped) else benchmark.make_example(row)


def read_records(path: Path) -> Iterator[Row | Dropped]:
    """Yields the rows of a table or of a JSONL file with their own field names; the suffix selects the format."""
    return reading.read(path, field=None)


def read_tsv(path: Path, names: Mapping[str, str], columns: tuple[str, ...] = ()) -> Iterator[Row | Dropped]:
    """Yields the rows of a TSV file; `names` is {TFDS's name: column}, `columns` names the columns of a file without header.

    Raises:
      ValueError: a column is missing.
    """
    for row in reading.read_tsv(path, columns=columns):
        if isinstance(row, Dropped):
            yield row
            continue
        missing = [name for name in names.values() if name not in row]
        if missing:
            raise ValueError(
                f"{path} has no column {missing[0]!r}, only {', '.join(row)}; is it a file of this benchmark?"
            )
        yield {name: row[column] for name, column in names.items()}


def parse_label(names: tuple[str, ...], label: Any) -> str | None:
    """Returns the name of a label given as number, bool or name; None if it has no label (test sets)."""
    text = str(int(label) if isinstance(label, bool) else label).strip()
    if text in names:
        return text
    number = {"false": "0", "true": "1"}.get(text.lower(), text)
    return names[int(number)] if number.isdigit() and int(number) < len(names) else None


def add_answer(row: Row, label: Any, answers: tuple[str, ...], names: tuple[str, ...] = ()) -> dict | Dropped:
    """Adds "answer" to a row: `answers[i]` for the label with number i, or with name `names[i]` (`answers` by default)."""
    name = parse_label(names or answers, label)
    if name is None:
        return Dropped("benchmark.no_label", f"label={label!r} is none of {', '.join(names or answers)}")
    return {**row, "answer": answers[(names or answers).index(name)]}


def parquet_layout(folder: str, splits: Mapping[str, str] = TRAIN_VALIDATION) -> Layout:
    """Returns the Hub's layout: SPLIT-00000-of-00001.parquet in the folder or below; `splits` is {ours: theirs}."""
    return Layout({ours: f"{folder}/**/{theirs}-*.parquet" for ours, theirs in splits.items()}, read_records)


def jsonl_layout(folder: str, splits: Mapping[str, str] = TRAIN_VALIDATION) -> Layout:
    """Returns the layout SPLIT.jsonl, also .gz or .zst, in the folder or below; `splits` is {ours: theirs}."""
    return Layout({ours: f"{folder}/**/{theirs}.jsonl*" for ours, theirs in splits.items()}, read_records)
