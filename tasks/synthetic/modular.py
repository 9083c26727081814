"""a + b = c modulo p, made to order from gin: all pairs of numbers, a share of them to train on, the others to validate.

Every number is one character and so one id: the text of n is chr(n). What networks grok (Power et al. 2022, arXiv:2201.02177).
"""

import functools
from collections.abc import Iterator

import numpy as np
import seqio

from t5x_like.tasks import corpora
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.vocabularies import BYTES

LARGEST = 128  # characters that are one byte of UTF-8


def pairs(modulus: int, train_fraction: float, seed: int, split: str) -> Iterator[dict[str, str]]:
    """{"inputs": a b, "targets": a + b mod p} of the pairs in a split; (a, b) and (b, a) are two pairs."""
    order = np.random.default_rng(seed).permutation(modulus**2)
    trained = round(train_fraction * modulus**2)
    for pair in order[:trained] if split == "train" else order[trained:]:
        a, b = divmod(int(pair), modulus)
        yield {"inputs": chr(a) + chr(b), "targets": chr((a + b) % modulus)}


def define(name: str, modulus: int, train_fraction: float, seed: int = 0) -> None:
    """Registers addition modulo `modulus`; answers have no end of sequence, so all of the loss is on the sum.

    Raises:
      ValueError: numbers that are not one byte each, or a share that leaves a split empty.
    """
    if not 2 <= modulus <= LARGEST:
        raise ValueError(f"modulus={modulus}: a number is a byte below {LARGEST}; take 2 to {LARGEST}")
    if not 0 < round(train_fraction * modulus**2) < modulus**2:
        raise ValueError(
            f"train_fraction={train_fraction} of {modulus**2} pairs leaves a split empty; give a share between 0 and 1"
        )
    seqio.TaskRegistry.add(
        name,
        source=GeneratorSource(functools.partial(pairs, modulus, train_fraction, seed), corpora.SPLITS),
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
        output_features={feature: seqio.Feature(BYTES, add_eos=False) for feature in ("inputs", "targets")},
        metric_fns=[],
    )
