"""Folders of Hugging Face's `datasets`, read with pyarrow alone: what save_to_disk wrote, and files as the Hub has them."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from t5x_like.cleaning import reading
from t5x_like.cleaning.compression import report_damage
from t5x_like.cleaning.steps import Document, Dropped
from t5x_like.tasks.sources.fields import Fields
from t5x_like.tasks.sources.files import READING, RecordSource

STATE, SPLITS = "state.json", "dataset_dict.json"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
ROWS = 256  # turned into Python at a time
# data/train-00000-of-00002.parquet, train.jsonl, en/train/0000.parquet
NAMED = re.compile(r"(?P<split>[A-Za-z][A-Za-z0-9_.]*?)(-\d+-of-\d+)?$")
SAME = {"valid": "validation", "val": "validation", "dev": "validation"}


def is_saved(folder) -> bool:
    """Whether save_to_disk wrote a folder."""
    return any((Path(folder) / name).is_file() for name in (STATE, SPLITS))


class ArrowSource(RecordSource):
    """A Dataset or DatasetDict that `save_to_disk` wrote; the only split of a Dataset has the name it had, or "train".

    A shard is a .arrow file. Labels stay numbers.

    Raises:
      ValueError: a folder that is none, or one whose rows are to be read in an order of their own (indices).
    """

    def __init__(
        self,
        folder: str | Path,
        fields: Fields = None,
        strict: bool = False,
        belongs: Callable[[str, Mapping], bool] | None = None,
        splits: Mapping[str, str] | None = None,
    ):
        self.folder = Path(folder)
        found = saved_splits(folder)
        for split, saved in (splits or {}).items():
            if saved not in found:
                raise ValueError(f"splits={{{split!r}: {saved!r}}}: {folder} has the splits {', '.join(found)}")
        self.files = {split: found[saved] for split, saved in (splits or {s: s for s in found}).items()}
        super().__init__(self.files, fields, strict, belongs)

    def inputs(self) -> dict[str, list]:
        folders = sorted({str(path.parent) for paths in self.files.values() for path in paths} | {str(self.folder)})
        options = [{split: [str(path) for path in paths] for split, paths in self.files.items()}]
        options += [self.fields, self.strict]
        return {
            "options": options,
            "functions": [*READING, self.belongs],
            "data": [f"{folder}/*" for folder in folders],
        }

    def list_shards(self, split: str) -> list[str]:
        self.check_split(split)
        return [str(path) for path in self.files[split]]

    def records(self, split: str, shard: str) -> Iterator[Document | Dropped]:
        import pyarrow

        try:
            with pyarrow.memory_map(shard) as file, pyarrow.ipc.open_stream(file) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, ROWS):
                        yield from batch.slice(start, ROWS).to_pylist()
            check_end(shard)
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError, EOFError) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            yield report_damage(shard, error)


def check_end(path: str) -> None:
    """A stream cut between two batches reads like a whole one, but for the mark that its writer ends with."""
    with open(path, "rb") as file:
        file.seek(-len(END), os.SEEK_END)
        if file.read() != END:
            raise EOFError("the Arrow stream has no end")


def saved_splits(folder: str | Path) -> dict[str, list[Path]]:
    """The .arrow files of each split, in their order."""
    folder = Path(folder)
    if (folder / SPLITS).is_file():
        names = read_json(folder / SPLITS)["splits"]
        return {name: saved_files(folder / name)[1] for name in names}
    if (folder / STATE).is_file():
        return dict([saved_files(folder)])
    there = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) if folder.is_dir() else "it does not exist"
    raise ValueError(f"folder={folder} was not written by save_to_disk: no {STATE}, no {SPLITS} ({there or 'empty'})")


def saved_files(folder: Path) -> tuple[str, list[Path]]:
    """(split, .arrow files) of one Dataset."""
    state = read_json(folder / STATE)
    if any(state.get(name) for name in ("_indices_files", "_indices_data_files")):
        raise ValueError(
            f"{folder} keeps its rows in an order of their own (indices); write it anew with "
            "dataset.flatten_indices().save_to_disk(...)"
        )
    files = [folder / file["filename"] for file in state["_data_files"]]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(f"{folder / STATE} names {', '.join(missing[:3])}, which are not there; copy the folder again")
    return state.get("_split") or "train", files


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the folder again") from error


def splits_by_name(folder: str | Path) -> dict[str, list[str]]:
    """The data files of a folder by the split in their names, as the Hub has them: in it, in data/, or a folder a split.

    Raises:
      ValueError: none is found.
    """
    folder, found = Path(folder), {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob("*")):
            name = NAMED.match(split_name(path))
            if path.is_file() and reading.find_suffix(path) in reading.FORMATS and name:
                found.setdefault(SAME.get(name["split"], name["split"]), []).append(str(path))
            elif path.is_dir() and path.name != "data" and (inside := data_files(path)):
                found.setdefault(SAME.get(path.name, path.name), []).extend(inside)
    if not found:
        raise ValueError(
            f"folder={folder} holds no file with a split in its name, such as data/train-00000-of-00001.parquet or "
            f"train.jsonl ({', '.join(reading.FORMATS)}, also .gz or .zst)"
        )
    return found


def split_name(path: Path) -> str:
    """A file's name before its suffixes."""
    return path.name.lower().split(reading.find_suffix(path))[0] if reading.find_suffix(path) else path.name


def data_files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*")) if reading.find_suffix(path) in reading.FORMATS]
