"""TensorFlow Datasets prepared on disk, read in the order of their files; the network is not used by default."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_like.tasks.sources.fields import Fields, get_field, normalize_fields


def resolve_data_dir(data_dir: str | None) -> str:
    """Returns the folder of prepared datasets: `data_dir`, $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return str(Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser())


def open_prepared(name: str, data_dir: str, download: bool) -> tfds.core.DatasetBuilder:
    """Opens a prepared dataset; with `download`, TFDS first downloads and prepares it if necessary.

    Raises:
      ValueError: the dataset is not prepared.
    """
    if download:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
        return builder
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        folder = Path(data_dir)
        content = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())[:8])
        raise ValueError(
            f"tfds_name={name!r} is not prepared in data_dir={data_dir} "
            f"({'it holds ' + (content or 'nothing') if folder.is_dir() else 'there is no such folder'}); set data_dir or "
            f"$TFDS_DATA_DIR to its folder, or prepare it on a machine with network access: tfds build {name} "
            "--data_dir=..., or download=True here"
        ) from error


class TfdsSource(seqio.DataSource):
    """A prepared TFDS dataset; a shard is a file, and files are read one after the other.

    Args:
      tfds_name: `name`, `name/config` or `name:1.0.0`; the dataset is opened at first use.
      fields: {new name: name}, a list of names, or None for all; `translation.en` names a nested field.
      splits: {name: TFDS split or slice} ({"validation": "train[:1%]"}), names of TFDS splits, or None for all.
      data_dir: see `resolve_data_dir`.
      download: let TFDS download and prepare the dataset.
    """

    def __init__(
        self,
        tfds_name: str,
        fields: Fields = None,
        splits: Mapping[str, str] | Iterable[str] | None = None,
        data_dir: str | None = None,
        download: bool = False,
    ):
        super().__init__(splits=splits or ())
        self.tfds_name, self.data_dir, self.download = tfds_name, resolve_data_dir(data_dir), download
        self.fields = normalize_fields(fields)
        self.slices = dict(splits) if isinstance(splits, Mapping) else {split: split for split in splits or ()}
        self._builder = None

    @property
    def builder(self) -> tfds.core.DatasetBuilder:
        """The TFDS builder of the dataset."""
        if self._builder is None:
            self._builder = open_prepared(self.tfds_name, self.data_dir, self.download)
        return self._builder

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.slices or self.builder.info.splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: a file is read as a whole."""
        return False

    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        options = [self.tfds_name, self.fields, self.slices]
        return {"options": options, "functions": [], "data": [f"{self.builder.data_dir}/*"]}

    def split_info(self, split: str) -> tfds.core.SplitInfo:
        """Returns TFDS's description of a split or slice.

        Raises:
          ValueError: there is no such split.
        """
        known = self.builder.info.splits
        tfds_split = self.slices.get(split, split)
        try:
            if split in self.splits:
                return known[tfds_split]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"splits={self.slices}: {self.tfds_name} has the splits {', '.join(known)}: {error}"
            ) from error
        raise ValueError(f"split={split!r} is not a split of this source; it has {', '.join(self.splits)}")

    def num_input_examples(self, split: str) -> int:
        """Returns the number of examples of a split."""
        return self.split_info(split).num_examples

    def list_shards(self, split: str) -> list[str]:
        """Returns the names of the files of a split."""
        return [Path(part.filename).name for part in self.split_info(split).file_instructions]

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
        """Returns the examples of a split, or of every `num_shards`-th file; `shuffle` permutes the files only."""
        if not self.split_info(split).num_examples:
            raise ValueError(f"split {split!r} of {self.tfds_name} in {self.data_dir} has no example")
        part = shard_info and tf.distribute.InputContext(shard_info.num_shards, shard_info.index)
        dataset = self.builder.as_dataset(
            split=self.slices.get(split, split),
            shuffle_files=shuffle,
            read_config=tfds.ReadConfig(
                interleave_cycle_length=1,
                shuffle_seed=seed,
                input_context=part,
                skip_prefetch=True,
                try_autocache=False,
                enable_ordering_guard=False,
            ),
        )
        return dataset if self.fields is None else dataset.map(self.field_selector(dataset.element_spec, self.fields))

    def field_selector(self, spec: Mapping[str, Any], fields: Mapping[str, str]) -> Callable[[Mapping], dict[str, Any]]:
        """Returns a function that selects and renames the fields of an example.

        Raises:
          ValueError: the dataset lacks a field.
        """
        for new, old in fields.items():
            if get_field(spec, old) is None:
                raise ValueError(f"fields={{{new!r}: {old!r}}}: {self.tfds_name} has the fields {', '.join(spec)}")
        return lambda example: {new: get_field(example, old) for new, old in fields.items()}
