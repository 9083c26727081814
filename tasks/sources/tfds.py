"""TensorFlow Datasets that are prepared on disk: any of them, in the order of their files, without the network."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_like.tasks.sources import fields as sources_fields
from t5x_like.tasks.sources.fields import Fields


def data_dir_of(data_dir: str | None) -> str:
    """The folder of prepared datasets: the one given, $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return str(Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser())


def prepared(name: str, data_dir: str, download: bool) -> tfds.core.DatasetBuilder:
    """A dataset on disk; with `download`, TFDS fetches and prepares it first where it is not.

    Raises:
      ValueError: it is not prepared.
    """
    if download:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
        return builder
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        folder = Path(data_dir)
        there = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())[:8])
        raise ValueError(
            f"tfds_name={name!r} is not prepared in data_dir={data_dir} "
            f"({'it holds ' + (there or 'nothing') if folder.is_dir() else 'there is no such folder'}); set data_dir or "
            f"$TFDS_DATA_DIR to where it is, or prepare it on a machine with a network: tfds build {name} "
            "--data_dir=..., or download=True here"
        ) from error


class TfdsSource(seqio.DataSource):
    """A TFDS dataset (`name`, `name/config`, `name:1.0.0`), one file a shard, read one after the other.

    `splits` is {name: TFDS split or slice} ({"validation": "train[:1%]"}), names that TFDS has, or None for all of them.
    `fields` are chosen and renamed, `translation.en` being a field of a field. The dataset is looked for at first use.
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
        self.tfds_name, self.data_dir, self.download = tfds_name, data_dir_of(data_dir), download
        self.fields = sources_fields.named(fields)
        self.slices = dict(splits) if isinstance(splits, Mapping) else {split: split for split in splits or ()}
        self._builder = None

    @property
    def builder(self) -> tfds.core.DatasetBuilder:
        if self._builder is None:
            self._builder = prepared(self.tfds_name, self.data_dir, self.download)
        return self._builder

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.slices or self.builder.info.splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def inputs(self) -> dict[str, list]:
        options = [self.tfds_name, self.fields, self.slices]
        return {"options": options, "functions": [], "data": [f"{self.builder.data_dir}/*"]}

    def split_info(self, split: str):
        """What TFDS knows of a split or slice.

        Raises:
          ValueError: there is no such split.
        """
        has = self.builder.info.splits
        wanted = self.slices.get(split, split)
        try:
            if split in self.splits:
                return has[wanted]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"splits={self.slices}: {self.tfds_name} has the splits {', '.join(has)}: {error}"
            ) from error
        raise ValueError(f"split={split!r} is none of this source's: {', '.join(self.splits)}")

    def num_input_examples(self, split: str) -> int:
        return self.split_info(split).num_examples

    def list_shards(self, split: str) -> list[str]:
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
        """The examples of a split, or of every `num_shards`-th file; `shuffle` changes the order of files alone."""
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
        return dataset if self.fields is None else dataset.map(self.chosen(dataset.element_spec))

    def chosen(self, spec: Mapping[str, Any]):
        """The function that takes the wanted fields.

        Raises:
          ValueError: a field that the dataset does not have.
        """
        for new, old in self.fields.items():
            if sources_fields.value_of(spec, old) is None:
                raise ValueError(f"fields={{{new!r}: {old!r}}}: {self.tfds_name} has the fields {', '.join(spec)}")
        return lambda example: {new: sources_fields.value_of(example, old) for new, old in self.fields.items()}
