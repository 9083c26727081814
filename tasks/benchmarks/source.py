"""The source of a benchmark's examples: its files, or the dataset that TFDS has prepared; looked up at first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks.benchmarks import benchmark as definition
from t5x_like.tasks.benchmarks.benchmark import Benchmark, Row
from t5x_like.tasks.sources.fields import to_python
from t5x_like.tasks.sources.files import RecordSource

if TYPE_CHECKING:
    from t5x_like.tasks.sources.tfds import TfdsSource

TFDS_SHARD = "prepared by TFDS"


class BenchmarkSource(RecordSource):
    """The examples of a benchmark; a shard is a file, or the whole split if it comes from TFDS."""

    def __init__(self, name: str, benchmark: Benchmark):
        super().__init__(benchmark.splits)
        self.name, self.benchmark = name, benchmark

    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        patterns = [pattern for split in self.splits for _, pattern in definition.list_patterns(self.benchmark, split)]
        functions = [self.benchmark.make_example, *(layout.read for layout in self.benchmark.layouts)]
        options = [self.name, self.benchmark.tfds_name, sorted(self.benchmark.splits.items())]
        return {"options": options, "functions": functions, "data": sorted(set(patterns))}

    def list_shards(self, split: str) -> list[str]:
        """Returns the files of a split, or TFDS_SHARD.

        Raises:
          ValueError: there are neither files nor a prepared dataset.
        """
        self.check_split(split)
        if files := definition.find_files(self.benchmark, split):
            return [str(path) for path in files[1]]
        try:
            self.open_tfds(split)
        except ValueError as error:
            patterns = ", ".join(pattern for _, pattern in definition.list_patterns(self.benchmark, split))
            raise ValueError(
                f"{self.name}, split {split!r}: no file {patterns}; put the files there, or set "
                f"{definition.DATA_VARIABLE} to their folder; and {error}"
            ) from error
        return [TFDS_SHARD]

    def open_tfds(self, split: str) -> TfdsSource:
        """Returns the source of the prepared TFDS dataset.

        Raises:
          ValueError: it is not prepared, or TFDS does not have this benchmark.
        """
        if self.benchmark.tfds_name is None:
            raise ValueError("TFDS does not have this benchmark")
        # TFDS takes seconds to import, and benchmarks in files do not need it.
        from t5x_like.tasks.sources.tfds import TfdsSource

        source = TfdsSource(self.benchmark.tfds_name, splits=self.benchmark.splits)
        source.split_info(split)
        return source

    def read_rows(self, split: str, shard: str) -> Iterator[Row | Dropped]:
        """Yields the rows of a shard, with TFDS's fields."""
        if shard == TFDS_SHARD:
            dataset = self.open_tfds(split).get_dataset(split, shuffle=False)
            return map(to_python, dataset.as_numpy_iterator())
        files = definition.find_files(self.benchmark, split)
        if files is None:
            raise ValueError(f"{self.name}, split {split!r}: {shard} was removed; put it back")
        layout, paths = files
        return layout.read(paths[[str(path) for path in paths].index(shard)])

    def records(self, split: str, shard: str) -> Iterator[dict | Dropped]:
        """Yields the examples of a shard."""
        return definition.make_examples(self.benchmark, self.read_rows(split, shard))
