"""One table of runs, a row each: what sweeps write and what laws are fitted to. CSV, or Parquet through pyarrow.

A `Table` holds columns by name: numbers as float64 arrays (missing is NaN, "" in a CSV), words as string arrays (missing is
""). NA, null and the like (MISSING) are read as missing. Known columns are in NUMBERS and WORDS, with their units; `loss/SET`
and `loss_se/SET` are the loss on one evaluation set and its standard error; any other column is kept as it is. Values are
raw: what leaves rows out is a step, and `table.steps` lists what each step dropped and why.

    table = read("runs.csv", {"n_params": "Model Size", "flops_6nd": "Training FLOP"})
    table = table.without("highest_loss=5", rows, "outliers of the original plot")
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
from typing import Any

import numpy as np

NUMBERS = {
    "n_params": "parameters but those of the embedding (N)",
    "n_total": "all parameters",
    "n_active": "parameters that work on a token (experts: those chosen)",
    "tokens": "tokens trained on, repeats counted (D)",
    "unique_tokens": "different tokens among them (U)",
    "flops_6nd": "training FLOPs as 6 n_params tokens (C)",
    "flops_with_embeddings": "training FLOPs as 6 n_total tokens",
    "flops_exact": "training FLOPs with attention, counted by t5x_like.accounting.flops",
    "lr": "peak learning rate",
    "batch_tokens": "tokens of an optimizer step",
    "warmup_steps": "optimizer steps of warmup",
    "decay": "learning rate at the last step over the peak: 0 is decayed to zero",
    "width": "of the model",
    "depth": "layers",
    "vocab": "entries of the vocabulary",
    "sequence": "tokens of a row",
    "seed": "of the run",
    "tokens_per_byte": "of the evaluation text under the run's tokenizer",
    "loss": "nats per token on the evaluation set",
    "loss_se": "standard error of loss",
    "bits_per_byte": "loss tokens_per_byte / ln 2",
    "wall_seconds": "of training",
}
WORDS = {
    "run_id": "hash of the resolved gin configuration",
    "tokenizer": "name or fingerprint",
    "device": "what the run trained on",
    "status": "finished | running | failed",
    "started": "UTC time in ISO 8601",
    "revision": "git revision of the code",
}
MISSING = {"", "na", "n/a", "null", "none", "nan", "-"}  # in any case
SEPARATORS = ",;\t|"  # of the cells of a text file


@dataclasses.dataclass(frozen=True)
class Step:
    """Something done to the rows before a fit: how it is called, how many rows it dropped, and why."""

    rule: str
    dropped: int
    why: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.dropped} rows ({self.why})" if self.dropped else f"{self.rule}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length, the steps that led to them, and where its rows stood before (None: in this order, all of them)."""

    columns: Mapping[str, np.ndarray]
    steps: tuple[Step, ...] = ()
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, name: str) -> bool:
        """Whether the column is there and has a value in some row."""
        return name in self.columns and bool(present(self.columns[name]).any())

    def __getitem__(self, name: str) -> np.ndarray:
        """A column.

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
        """A column as float64, missing is NaN, also where a word in another row, since dropped, made words of it.

        Raises:
          ValueError: the table has no such column, or a cell of it is no number.
        """
        values = self[name]
        if values.dtype.kind in "fiub":
            return values.astype(np.float64, copy=False)
        for i, each in enumerate(values.tolist()):
            if not is_number(each):
                raise ValueError(
                    f"{name} of {self.labels([i])} is {each!r}, not a number; name a column of numbers, empty that "
                    f"cell, or leave its row out, --drop {name + '==' + each!r}"
                )
        return np.array([number(each) for each in values.tolist()], np.float64)

    def with_numbers(self, name: str) -> "Table":
        """The table with a column as `numbers`."""
        return dataclasses.replace(self, columns={**self.columns, name: self.numbers(name)})

    def labels(self, rows: Sequence[int] | np.ndarray, most: int = 5) -> str:
        """Names of rows for a message: their run ids, else their numbers from 1, those that are gone counted."""
        named, place = self.columns.get("run_id"), self.place
        names = [str(named[i]) if named is not None and named[i] else f"row {place[i] + 1}" for i in rows[:most]]
        return ", ".join(names) + (f" and {len(rows) - most} more" if len(rows) > most else "")

    @property
    def place(self) -> np.ndarray:
        """Where each row stood before any was left out, from 0."""
        return np.arange(len(self)) if self.places is None else self.places

    def take(self, keep: np.ndarray) -> "Table":
        """Rows by mask or index, with no step recorded: for parts of a fit, not for filters."""
        kept = {name: values[keep] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=kept, places=self.place[keep])

    def without(self, rule: str, drop: np.ndarray, why: str) -> "Table":
        """The table less the rows where `drop` is true, with the step recorded (also when it drops nothing)."""
        kept = self.take(~np.asarray(drop, bool))
        return dataclasses.replace(kept, steps=(*self.steps, Step(rule, len(self) - len(kept), why)))

    def with_column(self, name: str, values: Sequence, rule: str = "", why: str = "") -> "Table":
        """The table with a column set; `rule` and `why` record it as a step."""
        steps = (*self.steps, Step(rule, 0, why)) if rule else self.steps
        return dataclasses.replace(self, columns={**self.columns, name: column(name, list(values))}, steps=steps)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a run, without what is missing."""
        return [
            {name: values[i].item() for name, values in self.columns.items() if present(values[i : i + 1])[0]}
            for i in range(len(self))
        ]

    def write(self, path) -> None:
        """Writes .csv or .parquet by the name's ending; reading it back gives the same values to the bit."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        (write_parquet if path.suffix == ".parquet" else write_csv)(self, partial)
        partial.replace(path)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table of mappings, in the order of NUMBERS and WORDS, then of first appearance."""
    rows = list(rows)
    found = dict.fromkeys(name for row in rows for name in row)
    order = [*(name for name in (*WORDS, *NUMBERS) if name in found), *(x for x in found if x not in known())]
    return Table({name: column(name, [row.get(name) for row in rows]) for name in order})


def read(path, columns: Mapping[str, str] | None = None) -> Table:
    """Reads .parquet, or text in UTF-8 whose cells one of SEPARATORS parts; `columns` says which of the file's columns hold
    ours, {"n_params": "Model Size"}.

    Raises:
      ValueError: an empty file or one that is not UTF-8, a mapped column that is not there or is mapped twice, or a cell
        that is no number, by row and column.
    """
    path = Path(path)
    raw = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    columns = columns or {}
    if strangers := [theirs for theirs in columns.values() if theirs not in raw]:
        raise ValueError(f"{path} has no column {strangers[0]!r} to map (it has {', '.join(raw)}); name one of those")
    ours = {theirs: name for name, theirs in columns.items()}
    if twice := [name for name, theirs in columns.items() if ours[theirs] != name]:
        theirs = columns[twice[0]]
        raise ValueError(f"{path}: {theirs!r} is mapped as {twice[0]} and as {ours[theirs]}; map it as one of them")
    kept = {theirs: values for theirs, values in raw.items() if theirs in ours or theirs not in columns}
    table = Table({ours.get(theirs, theirs): column(ours.get(theirs, theirs), cells) for theirs, cells in kept.items()})
    if not len(table):
        raise ValueError(f"{path} has no rows; a table needs a line of column names and a line for every run")
    return table


def known() -> set[str]:
    return {*NUMBERS, *WORDS}


def column(name: str, cells: Sequence) -> np.ndarray:
    """Cells as numbers or words: by the column's name where it is known, else as numbers if all that are not missing are.

    Raises:
      ValueError: a cell of a column of numbers that is none.
    """
    if name in WORDS:
        return words(["" if missing(cell) else cell for cell in cells])
    must = name in NUMBERS or name.startswith(("loss/", "loss_se/"))
    numbers = np.empty(len(cells), np.float64)
    for i, cell in enumerate(cells):
        try:
            numbers[i] = number(cell)
        except (TypeError, ValueError):
            if not must:
                return words(cells)
            raise ValueError(f"{name} of row {i + 1} is {cell!r}, not a number; write it like 4.4e7") from None
    return numbers


def missing(cell) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def number(cell) -> float:
    """A cell as a number, NaN where it is missing.

    Raises:
      TypeError, ValueError: it is no number.
    """
    return math.nan if missing(cell) else float(cell)


def is_number(cell) -> bool:
    """Whether a cell is a number or missing."""
    try:
        number(cell)
    except (TypeError, ValueError):
        return False
    return True


def words(cells: Sequence) -> np.ndarray:
    return np.asarray(["" if cell is None else str(cell) for cell in cells], dtype=np.str_)


def present(values: np.ndarray) -> np.ndarray:
    """Where a column has a value."""
    return ~np.isnan(values) if values.dtype.kind == "f" else values != ""


def read_csv(path: Path) -> dict[str, list[str]]:
    text = decoded(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text))
    names = [name.strip() for name in next(reader, [])]
    lines = [line for line in reader if line]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}; rename one of them")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells, not {len(names)} as its first line; repair it"
            )
    return {name: [line[i].strip() for line in lines] for i, name in enumerate(names)}


def decoded(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
      ValueError: it is in another encoding.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without its mark can pass for UTF-8
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in content[:2]
        raise ValueError(
            f"{path} is no text in UTF-8{', it looks like UTF-16' if wide else ''}; save it as CSV in UTF-8, or convert it: "
            f"iconv -f {'UTF-16' if wide else 'ENCODING'} -t UTF-8 {path.name} > utf8.csv"
        )
    return text


def separator(text: str) -> str:
    """What parts the cells: of SEPARATORS the one that makes most of the first line, and as many of the second."""

    def cells(sign: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign)
        first, second = itertools.islice(itertools.chain(filter(None, reader), [[], []]), 2)
        return 1 < len(first) == len(second), len(first)

    return max(SEPARATORS, key=cells)


def write_csv(table: Table, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        cells = [[cell(value) for value in values.tolist()] for values in table.columns.values()]
        writer.writerows(zip(*cells, strict=True))


def cell(value: float | str) -> str:
    """A CSV cell: words as they are, integers without a point, other numbers with every digit they need."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0" else repr(value)


def read_parquet(path: Path) -> dict[str, list]:
    return arrow("parquet").read_table(path).to_pydict()


def write_parquet(table: Table, path: Path) -> None:
    pyarrow = arrow()
    arrays = {name: pyarrow.array(values, from_pandas=True) for name, values in table.columns.items()}
    arrow("parquet").write_table(pyarrow.table(arrays), path)


def arrow(part: str = ""):
    """pyarrow, or a part of it, imported when a Parquet file is at hand.

    Raises:
      RuntimeError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RuntimeError("Parquet files need pyarrow: pip install 't5x_like[files]', or use a .csv file") from error
    return getattr(pyarrow, part) if part else pyarrow
