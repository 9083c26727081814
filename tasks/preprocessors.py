"""Steps between a source and the token cache."""

import functools

import tensorflow as tf


def rekey(dataset: tf.data.Dataset, **names: str) -> tf.data.Dataset:
    """Keeps the named fields under new names: rekey(dataset, targets="text")."""
    return dataset.map(
        lambda example: {new: example[old] for new, old in names.items()}, num_parallel_calls=tf.data.AUTOTUNE
    )


text_as_targets = functools.partial(rekey, targets="text")
