"""seqio preprocessors: renaming of fields, and pretraining objectives for pipelines that do not use token caches.

Training makes its rows from token caches with the classes of `t5x_like.data.rows`; gin_configs/objectives has a file for
each, and the task does not change. `objective` makes a seqio preprocessor of any of these classes:

    spans = functools.partial(rows.SpanCorruption, inputs_length=512, targets_length=114)
    seqio.TaskRegistry.add(..., preprocessors=[..., seqio.CacheDatasetPlaceholder(), preprocessors.objective(spans)])
    seqio.get_dataset(name, None, feature_converter=seqio.PassThroughFeatureConverter(), ...)

`span_corruption` stands where a T5 task has that of `t5.data.preprocessors`, before `append_eos_after_trim`. A token cache of a
task with such a step behind its placeholder holds the tokens before it, and is read only by rows that make the same noise.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data import rows
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.types import Rows, Vocabulary

SIDES = {
    "inputs": ("encoder_input_tokens", "decoder_input_tokens"),
    "targets": ("decoder_target_tokens", "encoder_target_tokens"),
}


def rekey(dataset: tf.data.Dataset, **names: str) -> tf.data.Dataset:
    """Selects and renames fields: rekey(dataset, targets="text")."""
    return dataset.map(
        lambda example: {new: example[old] for new, old in names.items()}, num_parallel_calls=tf.data.AUTOTUNE
    )


def objective(make: Callable[..., Rows], window: int = 1024, seed: int = 0) -> Callable[..., tf.data.Dataset]:
    """Returns `make_rows` with these arguments, a seqio preprocessor."""
    return functools.partial(make_rows, make=make, window=window, seed=seed)


def make_rows(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    make: Callable[..., Rows],
    window: int = 1024,
    seed: int = 0,
) -> tf.data.Dataset:
    """Turns tokenized documents into rows, with the features of `t5x_like.batches`.

    The features that seqio expects are included: `inputs` is what the row's first side reads, `targets` what its last side
    predicts. Each window of documents is one epoch of a token cache for `make`: tokens that do not fill a row at its end
    are dropped, and noise depends on (seed, window, row). If all documents fit one window, the rows equal those of the
    first epoch of the token cache.

    Args:
      dataset: documents, {feature: ids}.
      output_features: the features of the task.
      make: makes rows from a cache.
      window: documents per window.
      seed: seed of the noise.

    Raises:
      ValueError: if the first window gives no row.
    """
    plain = next(iter(output_features.values())).vocabulary.plain
    windows = functools.partial(iterate_windows, dataset, make, plain, list(output_features), window, seed)
    first = next(windows(), None)
    if first is None:
        raise ValueError(f"window={window} documents make no row of {make}; raise window or shorten the lengths")
    spec = {name: tf.TensorSpec((None, *x.shape[1:]), x.dtype) for name, x in first.items()}
    return tf.data.Dataset.from_generator(windows, output_signature=spec).unbatch()


def span_rows(mean_noise_span_length: float = 3.0, noise_density: float = 0.15) -> Callable[..., Rows]:
    """The class of rows that makes the noise of `span_corruption`; its lengths are those of the run."""
    return functools.partial(
        rows.SpanCorruption, mean_span_length=float(mean_noise_span_length), noise_density=float(noise_density)
    )


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    mean_noise_span_length: float = 3.0,
    noise_density: float = 0.15,
) -> tf.data.Dataset:
    """T5's span corruption as a seqio preprocessor: texts become `inputs` and `targets`, without EOS (Raffel et al. 2020)."""
    make = functools.partial(
        span_rows(mean_noise_span_length, noise_density),
        inputs_length=sequence_length["inputs"],
        targets_length=sequence_length["targets"],
    )

    def unpad(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        counts = {
            side: tf.reduce_sum(tf.cast(row[f"{side}_segment_ids"] > 0, tf.int32)) for side in ("encoder", "decoder")
        }
        return {  # a row ends with EOS
            "inputs": row["encoder_input_tokens"][: counts["encoder"] - 1],
            "targets": row["decoder_target_tokens"][: counts["decoder"] - 1],
        }

    texts = dataset.map(lambda example: {"targets": example["targets"]})
    return make_rows(texts, {"targets": output_features["targets"]}, make).map(unpad)


def iterate_windows(
    dataset: tf.data.Dataset,
    make: Callable[..., Rows],
    vocabulary: Vocabulary,
    features: Sequence[str],
    window: int,
    seed: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields all rows of each window of `window` documents."""
    examples = dataset.as_numpy_iterator()
    for number in itertools.count():
        cache = MemoryCache.from_examples("live", str(number), vocabulary, features, itertools.islice(examples, window))
        if len(cache) == 0:
            return
        made = make(cache)
        index_n = np.arange(len(made))
        if len(index_n):
            batch = made.fetch(index_n, np.full_like(index_n, number), seed)
            yield batch | {feature: batch[next(x for x in SIDES[feature] if x in batch)] for feature in features}
