"""The table of runs, one row per run: what sweeps write and what laws are fitted to. CSV, or Parquet through pyarrow.

A `Table` holds columns by name: numbers as float64 arrays (missing is NaN, "" in a CSV), strings as string arrays (missing is
""). NA, null and the like (MISSING_CELLS) are read as missing. NUMBER_COLUMNS and STRING_COLUMNS list the known columns with
their units; `loss/SET` and `loss_se/SET` are the loss on one evaluation set and its standard error; any other column is kept
unchanged. Values are raw: each filter that drops rows adds a step, and `table.steps` lists what each step dropped and why.

    table = read("runs.csv", {"n_params": "Model Size", "flops_6nd": "Training FLOP"})
    table = table.drop("highest_loss=5", mask, "outliers of the original plot")
    from_rows([{"run_id": "a", "n_params": 1e6, ...}]).write("runs.parquet")
"""

import codecs
import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from t5x_like.cleaning.arrow_rows import column_to_values
from t5x_like.cleaning.steps import Dropped
from t5x_like.types import PathLike

NUMBER_COLUMNS = {
    "n_params": "parameters without the embedding (N)",
    "n_total": "all parameters",
    "n_active": "parameters used per token (experts: those selected)",
    "tokens": "training tokens, repeats counted (D)",
    "unique_tokens": "distinct tokens among them (U)",
    "flops_6nd": "training FLOPs as 6 n_params tokens (C)",
    "flops_with_embeddings": "training FLOPs as 6 n_total tokens",
    "flops_exact": "training FLOPs with attention, counted by t5x_like.accounting.flops",
    "lr": "peak learning rate",
    "batch_tokens": "tokens per optimizer step",
    "warmup_steps": "optimizer steps of warmup",
    "decay": "learning rate at the last step over the peak: 0 is decayed to zero",
    "width": "width of the model",
    "depth": "number of layers",
    "vocab": "vocabulary size",
    "sequence": "tokens per row",
    "seed": "random seed of the run",
    "tokens_per_byte": "tokens per byte of the evaluation text under the run's tokenizer",
    "loss": "nats per token on the evaluation set",
    "loss_se": "standard error of loss",
    "bits_per_byte": "loss tokens_per_byte / ln 2",
    "wall_seconds": "training time",
}
STRING_COLUMNS = {
    "run_id": "hash of the resolved gin configuration",
    "tokenizer": "name or fingerprint",
    "device": "device that the run trained on",
    "status": "finished | running | failed",
    "started": "UTC time in ISO 8601",
    "revision": "git revision of the code",
}
MISSING_CELLS = {"", "na", "n/a", "null", "none", "nan", "-"}  # case-insensitive
SEPARATORS = ",;\t|"  # cell separators of text files


@dataclasses.dataclass(frozen=True)
class Step:
    """A filter or a derived column: its rule, the number of rows it dropped, and why."""

    rule: str
    dropped: int
    why: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.dropped} rows ({self.why})" if self.dropped else f"{self.rule}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length and the steps that led to them.

    `source_rows` holds the index of each row in the table that was read; None means that no row was dropped or moved.
    """

    columns: Mapping[str, np.ndarray]
    steps: tuple[Step, ...] = ()
    source_rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, name: str) -> bool:
        """Whether the column exists and has a value in some row."""
        return name in self.columns and bool(is_present(self.columns[name]).any())

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a column.

        Raises:
          ValueError: the table has no such column; the message lists those it has.
        """
        if name not in self.columns:
            raise ValueError(
                f"the table has no column {name!r} (it has {', '.join(self.columns)}); "
                f"name the one that holds it, --columns {name}=..."
            )
        return self.columns[name]

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column as float64, missing cells as NaN, even if a dropped row had made it a string column.

        Raises:
          ValueError: the table has no such column, or one of its cells is not a number.
        """
        values = self[name]
        if values.dtype.kind in "fiub":
            return values.astype(np.float64, copy=False)
        for i, each in enumerate(values.tolist()):
            if not is_number(each):
                raise ValueError(
                    f"{name} of {self.labels([i])} is {each!r}, not a number; name a column of numbers, empty that "
                    f"cell, or drop its row, --drop {name + '==' + each!r}"
                )
        return np.array([parse_number(each) for each in values.tolist()], np.float64)

    def with_numbers(self, name: str) -> Self:
        """Returns the table with a column converted by `numbers`."""
        return dataclasses.replace(self, columns={**self.columns, name: self.numbers(name)})

    def labels(self, rows: Sequence[int] | np.ndarray, limit: int = 5) -> str:
        """Names rows for a message: by run id, else by row number from 1 in the table that was read."""
        run_ids, indices = self.columns.get("run_id"), self.row_indices
        names = [
            str(run_ids[i]) if run_ids is not None and run_ids[i] else f"row {indices[i] + 1}" for i in rows[:limit]
        ]
        return ", ".join(names) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")

    @property
    def row_indices(self) -> np.ndarray:
        """The index of each row in the table that was read, from 0."""
        return np.arange(len(self)) if self.source_rows is None else self.source_rows

    def take(self, selection: np.ndarray) -> Self:
        """Selects rows by mask or index without recording a step: for parts of a fit, not for filters."""
        selected = {name: values[selection] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=selected, source_rows=self.row_indices[selection])

    def drop(self, rule: str, mask: np.ndarray, why: str) -> Self:
        """Drops the rows where `mask` is true and records the step, even if it drops nothing."""
        remaining = self.take(~np.asarray(mask, bool))
        step = Step(rule, len(self) - len(remaining), why)
        return dataclasses.replace(remaining, steps=(*self.steps, step))

    def with_column(self, name: str, values: Sequence | np.ndarray, rule: str = "", why: str = "") -> Self:
        """Returns the table with a column set; `rule` and `why` record it as a step."""
        steps = (*self.steps, Step(rule, 0, why)) if rule else self.steps
        return dataclasses.replace(self, columns={**self.columns, name: parse_column(name, list(values))}, steps=steps)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one mapping per run, without missing values."""
        return [
            {name: values[i].item() for name, values in self.columns.items() if is_present(values[i : i + 1])[0]}
            for i in range(len(self))
        ]

    def write(self, path: PathLike) -> None:
        """Writes .csv or .parquet, by the file's extension; reading it back gives bit-identical values."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        (write_parquet if path.suffix == ".parquet" else write_csv)(self, partial)
        partial.replace(path)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Builds a table of mappings; known columns come first, in the order of STRING_COLUMNS and NUMBER_COLUMNS."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    known = (*STRING_COLUMNS, *NUMBER_COLUMNS)
    order = [*(name for name in known if name in names), *(name for name in names if name not in known)]
    return Table({name: parse_column(name, [row.get(name) for row in rows]) for name in order})


def read(path: PathLike, columns: Mapping[str, str] | None = None) -> Table:
    """Reads .parquet, or UTF-8 text with one of SEPARATORS between cells.

    `columns` maps our names to the file's: {"n_params": "Model Size"}.

    Raises:
      ValueError: the file is empty or not UTF-8, a mapped column is absent or mapped twice, or a cell of a number column is
        not a number; the message names the row and column.
    """
    path = Path(path)
    raw: Mapping[str, Sequence] = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    columns = columns or {}
    if absent := [theirs for theirs in columns.values() if theirs not in raw]:
        raise ValueError(f"{path} has no column {absent[0]!r} to map (it has {', '.join(raw)}); name one of those")
    ours = {theirs: name for name, theirs in columns.items()}
    if twice := [name for name, theirs in columns.items() if ours[theirs] != name]:
        theirs = columns[twice[0]]
        raise ValueError(f"{path}: {theirs!r} is mapped as {twice[0]} and as {ours[theirs]}; map it as one of them")
    used = {theirs: cells for theirs, cells in raw.items() if theirs in ours or theirs not in columns}
    table = Table(
        {ours.get(theirs, theirs): parse_column(ours.get(theirs, theirs), cells) for theirs, cells in used.items()}
    )
    if not len(table):
        raise ValueError(f"{path} has no rows; a table needs a line of column names and a line per run")
    return table


def parse_column(name: str, cells: Sequence) -> np.ndarray:
    """Converts cells to numbers or strings: by the column's name if it is known, else to numbers if all present cells are.

    Raises:
      ValueError: a cell of a number column is not a number.
    """
    if name in STRING_COLUMNS:
        return to_strings(["" if is_missing(cell) else cell for cell in cells])
    numeric = name in NUMBER_COLUMNS or name.startswith(("loss/", "loss_se/"))
    numbers = np.empty(len(cells), np.float64)
    for i, cell in enumerate(cells):
        try:
            numbers[i] = parse_number(cell)
        except (TypeError, ValueError):
            if not numeric:
                return to_strings(cells)
            raise ValueError(f"{name} of row {i + 1} is {cell!r}, not a number; write it like 4.4e7") from None
    return numbers


def is_missing(cell: Any) -> bool:
    """Whether a cell is None or one of MISSING_CELLS."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING_CELLS)


def parse_number(cell: Any) -> float:
    """Converts a cell to a number, NaN if missing.

    Raises:
      TypeError, ValueError: it is not a number.
    """
    return math.nan if is_missing(cell) else float(cell)


def is_number(cell: Any) -> bool:
    """Whether a cell is a number or missing."""
    try:
        parse_number(cell)
    except (TypeError, ValueError):
        return False
    return True


def to_strings(cells: Sequence) -> np.ndarray:
    """Converts cells to a string array, None to ""."""
    return np.asarray(["" if cell is None else str(cell) for cell in cells], dtype=np.str_)


def is_present(values: np.ndarray) -> np.ndarray:
    """Returns a mask of the rows in which a column has a value."""
    return ~np.isnan(values) if values.dtype.kind == "f" else values != ""


def read_csv(path: Path) -> dict[str, list[str]]:
    """Reads the cells of a text file by column.

    Raises:
      ValueError: a column name occurs twice, or a row has another number of cells than the first line.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=detect_separator(text))
    names = [name.strip() for name in next(reader, [])]
    lines = [line for line in reader if line]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}; rename one of them")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells, not {len(names)} like the first line; repair it"
            )
    return {name: [line[i].strip() for line in lines] for i, name in enumerate(names)}


def read_text(path: Path) -> str:
    """Reads a UTF-8 file.

    Raises:
      ValueError: it is in another encoding.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a byte order mark can pass for UTF-8
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in content[:2]
        raise ValueError(
            f"{path} is not UTF-8{', it looks like UTF-16' if wide else ''}; save it as CSV in UTF-8, or convert it: "
            f"iconv -f {'UTF-16' if wide else 'ENCODING'} -t UTF-8 {path.name} > utf8.csv"
        )
    return text


def detect_separator(text: str) -> str:
    """Returns the separator that splits the first line into the most cells, and the second line into as many."""

    def count_cells(separator: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        first, second = itertools.islice(itertools.chain(filter(None, reader), [[], []]), 2)
        return 1 < len(first) == len(second), len(first)

    return max(SEPARATORS, key=count_cells)


def write_csv(table: Table, path: Path) -> None:
    """Writes a table as CSV in UTF-8."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        cells = [[format_cell(value) for value in values.tolist()] for values in table.columns.values()]
        writer.writerows(zip(*cells, strict=True))


def format_cell(value: float | str) -> str:
    """Formats a CSV cell: strings unchanged, integers without a point, other numbers with all the digits they need."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0" else repr(value)


def read_parquet(path: Path) -> dict[str, list]:
    """Reads the cells of a Parquet file by column; cells that Python cannot hold are missing."""
    table = import_pyarrow().parquet.read_table(path)
    cells = {
        name: column_to_values(name, column) for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return {name: [None if isinstance(cell, Dropped) else cell for cell in values] for name, values in cells.items()}


def write_parquet(table: Table, path: Path) -> None:
    """Writes a table as Parquet, missing numbers as nulls."""
    pyarrow = import_pyarrow()
    arrays = {name: pyarrow.array(values, from_pandas=True) for name, values in table.columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


def import_pyarrow() -> Any:
    """Imports pyarrow with its Parquet module, on the first use of a Parquet file.

    Raises:
      RuntimeError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RuntimeError("Parquet files need pyarrow: pip install 't5x_like[files]', or use a .csv file") from error
    return pyarrow
