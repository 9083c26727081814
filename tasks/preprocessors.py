"""seqio preprocessors: renaming of fields, and pretraining objectives for pipelines that do not use token caches.

Training makes its rows from token caches with the classes of `t5x_like.data.rows`; gin_configs/objectives has a file for
each, and the task does not change. `objective` makes a seqio preprocessor of any of these classes:

    spans = functools.partial(rows.SpanCorruption, inputs_length=512, targets_length=114)
    seqio.TaskRegistry.add(..., preprocessors=[..., seqio.CacheDatasetPlaceholder(), preprocessors.objective(spans)])
    seqio.get_dataset(name, None, feature_converter=seqio.PassThroughFeatureConverter(), ...)
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

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
    """Returns a seqio preprocessor that turns tokenized documents into rows, with the features of `t5x_like.batches`.

    The features that seqio expects are included: `inputs` is what the row's first side reads, `targets` what its last side
    predicts. Each window of documents is one epoch of a token cache for `make`: tokens that do not fill a row at its end
    are dropped, and noise depends on (seed, window, row). If all documents fit one window, the rows equal those of the
    first epoch of the token cache.

    Args:
      make: makes rows from a cache.
      window: documents per window.
      seed: seed of the noise.

    Raises:
      ValueError: in the preprocessor, if the first window gives no row.
    """

    def step(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        plain = next(iter(output_features.values())).vocabulary.plain
        windows = functools.partial(iterate_windows, dataset, make, plain, list(output_features), window, seed)
        first = next(windows(), None)
        if first is None:
            raise ValueError(f"window={window} documents make no row of {make}; raise window or shorten the lengths")
        spec = {name: tf.TensorSpec((None, *x.shape[1:]), x.dtype) for name, x in first.items()}
        return tf.data.Dataset.from_generator(windows, output_signature=spec).unbatch()

    return step


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
        rows = make(cache)
        index_n = np.arange(len(rows))
        if len(index_n):
            batch = rows.fetch(index_n, np.full_like(index_n, number), seed)
            yield batch | {feature: batch[next(x for x in SIDES[feature] if x in batch)] for feature in features}
