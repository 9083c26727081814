"""Modular addition, a + b = c modulo p, configured in gin: a share of all pairs is for training, the rest for validation.

A number n is the character chr(n), so it is one id. The task of grokking (Power et al. 2022, arXiv:2201.02177).
"""

import functools
from collections.abc import Iterator

import numpy as np
import seqio

from t5x_like.tasks import corpora
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.vocabularies import BYTES

MAX_MODULUS = 128  # characters below it are one byte in UTF-8


def pairs(modulus: int, train_fraction: float, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yields {"inputs": a b, "targets": a + b mod p} of the pairs of a split; (a, b) and (b, a) are two pairs."""
    order = np.random.default_rng(seed).permutation(modulus**2)
    training = round(train_fraction * modulus**2)
    for pair in order[:training] if split == "train" else order[training:]:
        a, b = divmod(int(pair), modulus)
        yield {"inputs": chr(a) + chr(b), "targets": chr((a + b) % modulus)}


def define(name: str, modulus: int, train_fraction: float, seed: int = 0) -> None:
    """Registers addition modulo `modulus`; targets have no EOS, so the loss is on the sum only.

    Args:
      name: the task's name.
      modulus: 2 to MAX_MODULUS.
      train_fraction: the share of pairs for training, in (0, 1).
      seed: seed of the random split.

    Raises:
      ValueError: `modulus` is out of range, or a split is empty.
    """
    if not 2 <= modulus <= MAX_MODULUS:
        raise ValueError(f"modulus={modulus}: a number is a byte below {MAX_MODULUS}; give 2 to {MAX_MODULUS}")
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
