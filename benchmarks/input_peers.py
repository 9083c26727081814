"""The peers of input_pipeline.py on the same documents: seqio live, seqio from its own offline cache, and grain.

Each gets its best case. seqio live: the texts are in memory and its own SentencePiece operation tokenizes them. seqio
cached: TFRecords as its cache job writes them, without the texts. grain: the ids of every document are in memory and are
read without threads, which is faster here.
"""

import functools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.tasks import corpora

try:
    import grain
except ImportError:
    grain = None

SHARDS = 4  # of seqio's cache
BINS = 64  # rows that grain packs at a time
Batches = Iterator[dict[str, np.ndarray]]
Corpus = Callable[[str], Iterable[dict[str, str]]]  # split -> examples


@functools.cache
def read_examples(corpus: Corpus, split: str) -> list[dict[str, str]]:
    """The examples of a corpus, read once for all pipelines."""
    return list(corpus(split))


def make_dataset(
    corpus: Corpus, names: dict[str, str], split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
    """A corpus as tf.data, read before timing starts; `names` maps features to fields of the examples."""
    examples = read_examples(corpus, split)
    return tf.data.Dataset.from_tensor_slices({new: [x[old] for x in examples] for new, old in names.items()})


def join_and_cut(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """T5's reduce_concat_tokens and split_tokens: joins 128 documents and cuts them into rows."""
    ids = dataset.map(operator.itemgetter("targets"))
    together = ids.ragged_batch(128).map(operator.attrgetter("flat_values"))
    cut = together.flat_map(lambda x: tf.data.Dataset.from_tensor_slices(x).batch(length))
    return cut.map(lambda x: {"targets": x}, num_parallel_calls=tf.data.AUTOTUNE)


def add_task(
    name: str, corpus: Corpus, names: dict[str, str], model: Path, extra_ids: int, length: int | None = None
) -> None:
    """Registers a task as a user of seqio does, with seqio's own vocabulary; joins and cuts documents if `length` is given."""
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=extra_ids)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(make_dataset, corpus, names), splits=corpora.SPLITS),
        preprocessors=[
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
            *([functools.partial(join_and_cut, length=length)] if length else []),
        ],
        output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in names},
        metric_fns=[],
    )


def write_cached(name: str, folder: Path) -> None:
    """Writes the split "train" of a task as seqio's cache job does."""
    task = seqio.TaskRegistry.get(name)
    examples = list(
        task.preprocess_precache(task.source.get_dataset("train", shuffle=False), seed=None).as_numpy_iterator()
    )
    (task_dir := folder / seqio.utils.get_task_dir_from_name(name)).mkdir()
    for shard in range(SHARDS):
        path = f"{seqio.utils.get_cached_tfrecord_prefix(str(task_dir), 'train')}-{shard:05}-of-{SHARDS:05}"
        with tf.io.TFRecordWriter(path) as file:
            for example in examples[shard::SHARDS]:
                file.write(seqio.utils.dict_to_tfexample(example).SerializeToString())
    features = {feature: {"dtype": "int32", "shape": [None]} for feature in task.output_features}
    info = {"num_shards": SHARDS, "features": features, "seqio_version": seqio.__version__}
    Path(seqio.utils.get_cached_info_path(str(task_dir), "train")).write_text(json.dumps(info))
    Path(seqio.utils.get_cached_stats_path(str(task_dir), "train")).write_text(json.dumps({"examples": len(examples)}))
    (task_dir / "COMPLETED").touch()


def seqio_batches(task: str, lengths: dict[str, int], pack: bool, cached: bool, batch_size: int) -> Batches:
    """Batches of a task from seqio: tokenized while reading, or from its cache."""
    kind = seqio.EncDecFeatureConverter if "inputs" in lengths else seqio.LMFeatureConverter
    dataset = seqio.get_dataset(
        task, lengths, kind(pack=pack), dataset_split="train", shuffle=False, num_epochs=None, use_cached=cached
    )
    return dataset.batch(batch_size).prefetch(2).as_numpy_iterator()


def read_documents(cache: TokenCache, lengths: Mapping[str, int | None]) -> list[dict[str, np.ndarray]]:
    """The ids of every document by feature, truncated to `lengths`; None does not truncate."""
    ids = {
        name: [x[:length] for x in np.split(np.array(cache.tokens(name), np.int32), cache.offsets(name)[1:-1])]
        for name, length in lengths.items()
    }
    return [dict(zip(ids, values, strict=True)) for values in zip(*ids.values(), strict=True)]


def grain_batches(cache: TokenCache, lengths: dict[str, int], pack: bool, batch_size: int) -> Batches:
    """Batches of shuffled documents from grain, packed first-fit or joined and cut; inputs are not shifted."""
    source = read_documents(cache, lengths if pack else dict.fromkeys(lengths))
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    shuffled = grain.MapDataset.source(source).shuffle(seed=0).repeat().to_iter_dataset(reading)
    if pack:
        packed = grain.experimental.FirstFitPackIterDataset(shuffled, length_struct=lengths, num_packing_bins=BINS)
    else:
        packed = grain.experimental.ConcatThenSplitIterDataset(shuffled, length_struct=lengths)
    names = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}
    for batch in packed.batch(batch_size):
        yield {names.get(name, name): x for name, x in batch.items()}
