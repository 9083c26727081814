"""Steps of tasks: from a source to the token cache, and the objectives as steps after it, for seqio's own pipeline.

Training makes its rows from token caches, with the classes of `t5x_like.data.rows*`: gin_configs/objectives has a file for
each, and the task stays as it is. As a seqio step any of them is `objective` of the class:

    spans = functools.partial(rows.SpanCorruption, inputs_length=512, targets_length=114)
    seqio.TaskRegistry.add(..., preprocessors=[..., seqio.CacheDatasetPlaceholder(), preprocessors.objective(spans)])
    seqio.get_dataset(name, None, feature_converter=seqio.PassThroughFeatureConverter(), ...)
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from t5x_like.data.cache.memory import MemoryCache

SIDES = {
    "inputs": ("encoder_input_tokens", "decoder_input_tokens"),
    "targets": ("decoder_target_tokens", "encoder_target_tokens"),
}


def rekey(dataset: tf.data.Dataset, **names: str) -> tf.data.Dataset:
    """Keeps the named fields under new names: rekey(dataset, targets="text")."""
    return dataset.map(
        lambda example: {new: example[old] for new, old in names.items()}, num_parallel_calls=tf.data.AUTOTUNE
    )


def objective(make: Callable, window: int = 1024, seed: int = 0) -> Callable[..., tf.data.Dataset]:
    """A seqio step that turns tokenized documents into the rows `make(cache)`: examples as `t5x_like.batches` names them.

    What seqio asks for by the names of the task's features is there too: `inputs` and `targets` are what the row's first
    side reads and its last predicts.
    Documents come in windows, each of which is to the rows what an epoch of a token cache is: what does not fill a row
    at a window's end is left out, and noise depends on (seed, window, row). With all documents in one window the rows are
    those of the token cache's first epoch.
    """

    def step(dataset: tf.data.Dataset, output_features) -> tf.data.Dataset:
        plain = next(iter(output_features.values())).vocabulary.plain
        windows = functools.partial(windows_of, dataset, make, plain, list(output_features), window, seed)
        first = next(windows(), None)
        if first is None:
            raise ValueError(f"window={window} documents make no row of {make}; raise window or shorten the lengths")
        rows = {name: tf.TensorSpec((None, *x.shape[1:]), x.dtype) for name, x in first.items()}
        return tf.data.Dataset.from_generator(windows, output_signature=rows).unbatch()

    return step


def windows_of(dataset, make, vocabulary, features, window: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """All rows of each window of documents, a window at a time."""
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
