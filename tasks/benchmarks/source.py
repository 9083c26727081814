"""Where the examples of a standard set come from: its files, or what TFDS has prepared; found out at first use."""

from collections.abc import Iterator

from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks.benchmarks import sets
from t5x_like.tasks.benchmarks.sets import Benchmark
from t5x_like.tasks.sources.files import RecordSource

PREPARED = "prepared by TFDS"


class BenchmarkSource(RecordSource):
    """The examples of a standard set; a shard is a file, or all of a split where TFDS has it."""

    def __init__(self, name: str, benchmark: Benchmark):
        super().__init__(benchmark.splits)
        self.name, self.benchmark = name, benchmark

    def inputs(self) -> dict[str, list]:
        patterns = [pattern for split in self.splits for _, pattern in sets.patterns(self.benchmark, split)]
        functions = [self.benchmark.example, *(files.read for files in self.benchmark.files)]
        options = [self.name, self.benchmark.tfds_name, sorted(self.benchmark.splits.items())]
        return {"options": options, "functions": functions, "data": sorted(set(patterns))}

    def list_shards(self, split: str) -> list[str]:
        """The files of a split, or what TFDS has prepared.

        Raises:
          ValueError: neither is there; it says where they were looked for.
        """
        self.check_split(split)
        found = sets.found(self.benchmark, split)
        if found:
            return [str(path) for path in found[1]]
        try:
            self.tfds(split)
        except ValueError as error:
            looked = ", ".join(pattern for _, pattern in sets.patterns(self.benchmark, split))
            raise ValueError(
                f"{self.name}, split {split!r}: no file {looked}; put the set there, or set {sets.ROOT} to the "
                f"folder that has it; and {error}"
            ) from error
        return [PREPARED]

    def tfds(self, split: str):
        """The prepared TFDS dataset.

        Raises:
          ValueError: it is not prepared, or TFDS does not have this set.
        """
        if self.benchmark.tfds_name is None:
            raise ValueError("TFDS does not have this set")
        # TFDS costs seconds to import; sets in files do without.
        from t5x_like.tasks.sources.tfds import TfdsSource

        source = TfdsSource(self.benchmark.tfds_name, splits=self.benchmark.splits)
        source.split_info(split)
        return source

    def rows(self, split: str, shard: str) -> Iterator[sets.Row | Dropped]:
        """The rows of a shard, with TFDS's fields."""
        if shard != PREPARED:
            files, paths = sets.found(self.benchmark, split)
            return files.read(paths[[str(path) for path in paths].index(shard)])
        dataset = self.tfds(split).get_dataset(split, shuffle=False)
        return map(decoded, dataset.as_numpy_iterator())

    def records(self, split: str, shard: str) -> Iterator[dict | Dropped]:
        return sets.examples(self.benchmark, self.rows(split, shard))


def decoded(value):
    """A row as Python has it: texts for bytes, lists for arrays."""
    if isinstance(value, dict):
        return {name: decoded(one) for name, one in value.items()}
    if hasattr(value, "tolist"):
        return decoded(value.tolist())
    if isinstance(value, list):
        return [decoded(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
