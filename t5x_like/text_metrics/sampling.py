"""Metrics of several samples per problem: pass@k."""

import operator
from collections.abc import Callable, Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs


def unbiased_pass_at_k(samples: int, right: int, k: int) -> float:
    """pass@k = 1 - C(n - c, k) / C(n, k): the probability (0-1) that one of k of the n samples, c of them right, is right.

    Computed as a product that cannot overflow (Chen et al. 2021, Codex).

    Raises:
      ValueError: k exceeds the number of samples.
    """
    if not 0 < k <= samples or not 0 <= right <= samples:
        raise ValueError(f"k={k}, {right} right of {samples} samples: needs 1 <= k <= samples; draw more or lower k")
    if samples - right < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - right + 1, samples + 1)))


def pass_at_k(
    targets: Sequence,
    predictions: Sequence[Sequence],
    k: int | Sequence[int] = 1,
    passes: Callable[..., bool] = operator.eq,
) -> dict[str, float]:
    """`pass@k` in percent for each k, mean over problems; a prediction is the list of samples of its problem.

    `passes(target, sample)` decides, for instance by running a target's unit tests in a sandbox.
    """
    targets, predictions = check_pairs(targets, predictions)
    counts = [
        (len(samples), sum(bool(passes(target, sample)) for sample in samples))
        for target, samples in zip(targets, predictions, strict=True)
    ]
    ks = [k] if isinstance(k, int) else list(k)
    return {f"pass@{k}": 100 * float(np.mean([unbiased_pass_at_k(*count, k) for count in counts])) for k in ks}
