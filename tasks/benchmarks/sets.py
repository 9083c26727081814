"""What a standard set is: how its rows become examples, where they are looked for, its wordings and metrics.

Rows have TFDS's fields, whatever they are read from. They are looked for below `$T5X_LIKE_DATA`, in files as the set is
distributed, then among the datasets that TFDS has prepared; never downloaded.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.prompting.templates import Template
from t5x_like.text_metrics import postprocess as answers_as

Row = Mapping
Metric = Callable[[list, list], dict[str, float]]
ROOT = "T5X_LIKE_DATA"


@dataclass(frozen=True)
class Files:
    """A layout of a set's files: {split: glob below `$T5X_LIKE_DATA`}, and what reads the rows of one."""

    patterns: Mapping[str, str]
    read: Callable[[Path], Iterator[Row | Dropped]]


@dataclass(frozen=True)
class Benchmark:
    """A standard set; `splits` are {ours: TFDS's}, `example` makes one of a row, `cluster` is held out as a whole."""

    example: Callable[[Row], dict | Dropped]
    templates: tuple[Template, ...]
    metric_fns: tuple[Metric, ...]
    files: tuple[Files, ...]
    cluster: str
    tfds_name: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: SPLITS)
    postprocess: Callable = answers_as.strip


def root() -> Path:
    """The folder below which sets are looked for: $T5X_LIKE_DATA, or ~/t5x_like_data."""
    return Path(os.environ.get(ROOT) or Path.home() / "t5x_like_data")


def patterns(benchmark: Benchmark, split: str) -> list[tuple[Files, str]]:
    """Each layout that has the split, and the glob of its files."""
    return [(files, str(root() / files.patterns[split])) for files in benchmark.files if split in files.patterns]


def found(benchmark: Benchmark, split: str) -> tuple[Files, list[Path]] | None:
    """The first layout that has files of a split, and these."""
    for files, pattern in patterns(benchmark, split):
        if paths := sorted(glob.glob(pattern, recursive=True)):
            return files, [Path(path) for path in paths]
    return None


def examples(benchmark: Benchmark, rows: Iterable[Row | Dropped]) -> Iterator[dict | Dropped]:
    """The examples of rows."""
    for row in rows:
        yield row if isinstance(row, Dropped) else benchmark.example(row)


def records(path: Path) -> Iterator[Row | Dropped]:
    """The rows of a table or of JSON lines, by the suffix, under their own names."""
    return reading.read(path, field=None)


def renamed(path: Path, names: Mapping[str, str], columns: tuple[str, ...] = ()) -> Iterator[Row | Dropped]:
    """The rows of a TSV file with {TFDS's name: column}; `columns` where the file has no first line with names."""
    for row in reading.read_tsv(path, columns=columns):
        missing = () if isinstance(row, Dropped) else [name for name in names.values() if name not in row]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}, only {', '.join(row)}; is it a file of this set?")
        yield row if isinstance(row, Dropped) else {name: row[column] for name, column in names.items()}


def class_of(names: tuple[str, ...], given) -> str | None:
    """The name of a label given as a number, as a truth value, or by its name; None of what has no label (test sets)."""
    text = str(int(given) if isinstance(given, bool) else given).strip()
    if text in names:
        return text
    lowered = {"false": "0", "true": "1"}.get(text.lower(), text)
    return names[int(lowered)] if lowered.isdigit() and int(lowered) < len(names) else None


def classified(row: Row, label, answers: tuple[str, ...], names: tuple[str, ...] = ()) -> dict | Dropped:
    """The row with `answer`, one of `answers`, which stand for the labels in the order of their numbers (and `names`)."""
    name = class_of(names or answers, label)
    if name is None:
        return Dropped("benchmark.no_label", f"label={label!r} is none of {', '.join(names or answers)}")
    return {**row, "answer": answers[(names or answers).index(name)]}


SPLITS = {"train": "train", "validation": "validation"}


def parquet(folder: str, splits: Mapping[str, str] = SPLITS) -> Files:
    """Files as the Hub has them: SPLIT-00000-of-00001.parquet in the folder or below; `splits` are {ours: theirs}."""
    return Files({ours: f"{folder}/**/{theirs}-*.parquet" for ours, theirs in splits.items()}, records)


def jsonl(folder: str, splits: Mapping[str, str] = SPLITS) -> Files:
    """JSON lines under TFDS's names, also .gz or .zst."""
    return Files({ours: f"{folder}/**/{theirs}.jsonl*" for ours, theirs in splits.items()}, records)
