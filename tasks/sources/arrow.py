"""Folders of Hugging Face's `datasets`, read with pyarrow only: the output of save_to_disk, and data files of the Hub."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from t5x_like.cleaning import reading
from t5x_like.cleaning.arrow_rows import batch_to_documents, select_columns
from t5x_like.cleaning.compression import report_damage
from t5x_like.cleaning.steps import Document, Dropped
from t5x_like.file_names import check_name
from t5x_like.tasks.sources.fields import Fields
from t5x_like.tasks.sources.files import CONVERSION, RecordSource

STATE, SPLITS = "state.json", "dataset_dict.json"
END_MARK = b"\xff\xff\xff\xff\0\0\0\0"  # the last bytes of a complete Arrow stream
CHUNK = 256  # rows converted to Python at once
# data/train-00000-of-00002.parquet, train.jsonl, en/train/0000.parquet
SPLIT_NAME = re.compile(r"(?P<split>[A-Za-z][A-Za-z0-9_.]*?)(-\d+-of-\d+)?$")
ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}


def is_saved(folder: str | Path) -> bool:
    """Returns whether save_to_disk wrote a folder."""
    return any((Path(folder) / name).is_file() for name in (STATE, SPLITS))


class ArrowSource(RecordSource):
    """A Dataset or DatasetDict written by `save_to_disk`; a shard is a .arrow file, labels stay numbers.

    Args:
      folder: the folder that `save_to_disk` wrote.
      fields: see `RecordSource`; so are `strict` and `split_filter`.
      splits: {name: split in the folder}, or None for all; a Dataset has one split, by default "train".

    Raises:
      ValueError: the folder is not a saved dataset, has no such split, or has an indices mapping.
    """

    def __init__(
        self,
        folder: str | Path,
        fields: Fields = None,
        strict: bool = False,
        split_filter: Callable[[str, Mapping], bool] | None = None,
        splits: Mapping[str, str] | None = None,
    ):
        self.folder = Path(folder)
        saved = find_saved_splits(folder)
        for split, name in (splits or {}).items():
            if name not in saved:
                raise ValueError(f"splits={{{split!r}: {name!r}}}: {folder} has the splits {', '.join(saved)}")
        self.files = {split: saved[name] for split, name in (splits or {s: s for s in saved}).items()}
        super().__init__(self.files, fields, strict, split_filter)

    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        folders = sorted({str(path.parent) for paths in self.files.values() for path in paths} | {str(self.folder)})
        files = {split: [str(path) for path in paths] for split, paths in self.files.items()}
        return {
            "options": [files, self.fields, self.strict],
            "functions": [*CONVERSION, self.split_filter],
            "data": [f"{folder}/*" for folder in folders],
        }

    def list_shards(self, split: str) -> list[str]:
        """Returns the .arrow files of a split."""
        self.check_split(split)
        return [str(path) for path in self.files[split]]

    def records(self, split: str, shard: str) -> Iterator[Document | Dropped]:
        """Yields the rows of one .arrow file; a damaged file gives a Dropped after the rows that can be read."""
        import pyarrow

        try:
            with pyarrow.memory_map(shard) as file, pyarrow.ipc.open_stream(file) as stream:
                fields = () if self.fields is None else tuple(self.fields.values())
                columns = select_columns(stream.schema.names, fields) or stream.schema.names
                for batch in stream:
                    for start in range(0, batch.num_rows, CHUNK):
                        yield from batch_to_documents(batch.slice(start, CHUNK).select(columns))
            check_end(shard)
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError, EOFError) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            yield report_damage(shard, error)


def check_end(path: str) -> None:
    """Raises EOFError if an Arrow stream lacks its end mark, because it was cut between two batches."""
    with open(path, "rb") as file:
        file.seek(-len(END_MARK), os.SEEK_END)
        if file.read() != END_MARK:
            raise EOFError("the Arrow stream has no end mark")


def find_saved_splits(folder: str | Path) -> dict[str, list[Path]]:
    """Returns the .arrow files of each split, in order.

    Raises:
      ValueError: the folder was not written by save_to_disk, or is incomplete.
    """
    folder = Path(folder)
    if (folder / SPLITS).is_file():
        names = read_json(folder / SPLITS)["splits"]
        return {name: find_saved_files(folder / check_name(name, folder / SPLITS))[1] for name in names}
    if (folder / STATE).is_file():
        return dict([find_saved_files(folder)])
    content = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) if folder.is_dir() else "it does not exist"
    raise ValueError(f"folder={folder} was not written by save_to_disk: no {STATE}, no {SPLITS} ({content or 'empty'})")


def find_saved_files(folder: Path) -> tuple[str, list[Path]]:
    """Returns (split, .arrow files) of one Dataset.

    Raises:
      ValueError: the dataset has an indices mapping, or a file is missing.
    """
    state = read_json(folder / STATE)
    if any(state.get(name) for name in ("_indices_files", "_indices_data_files")):
        raise ValueError(
            f"{folder} has an indices mapping, which is not supported; write it again with "
            "dataset.flatten_indices().save_to_disk(...)"
        )
    files = [folder / check_name(file["filename"], folder / STATE) for file in state["_data_files"]]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(f"{folder / STATE} names missing files: {', '.join(missing[:3])}; copy the folder again")
    return state.get("_split") or "train", files


def read_json(path: Path) -> dict:
    """Reads a JSON file.

    Raises:
      ValueError: the file is unreadable.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the folder again") from error


def find_splits_by_name(folder: str | Path) -> dict[str, list[str]]:
    """Returns the data files of each split, from file or folder names as on the Hub.

    Files are directly in the folder or in data/ (`data/train-00000-of-00001.parquet`), or in one folder per split.

    Raises:
      ValueError: no data file is found.
    """
    folder = Path(folder)
    splits: dict[str, list[str]] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob("*")):
            name = SPLIT_NAME.match(strip_suffixes(path))
            if path.is_file() and reading.find_suffix(path) in reading.FORMATS and name:
                splits.setdefault(ALIASES.get(name["split"], name["split"]), []).append(str(path))
            elif path.is_dir() and path.name != "data" and (files := list_data_files(path)):
                splits.setdefault(ALIASES.get(path.name, path.name), []).extend(files)
    if not splits:
        raise ValueError(
            f"folder={folder} holds no file with a split in its name, such as data/train-00000-of-00001.parquet or "
            f"train.jsonl ({', '.join(reading.FORMATS)}, also .gz or .zst)"
        )
    return splits


def strip_suffixes(path: Path) -> str:
    """Returns a file's name without the suffixes of its format and compression."""
    return path.name.lower().split(reading.find_suffix(path))[0] if reading.find_suffix(path) else path.name


def list_data_files(folder: Path) -> list[str]:
    """Returns the files of a folder in a known format, sorted."""
    return [str(path) for path in sorted(folder.glob("*")) if reading.find_suffix(path) in reading.FORMATS]
