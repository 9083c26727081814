"""Metrics of log-probabilities in nats: perplexity, bits per byte, choices ranked by likelihood."""

import math
from collections.abc import Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, to_float64


def perplexity(targets: Sequence[Sequence[int]], scores: Sequence[float]) -> dict[str, float]:
    """exp(-log-probability per token) over all examples; targets are token ids, scores their summed log-probabilities."""
    if any(isinstance(target, str) for target in targets):
        raise ValueError("targets are texts, which have no count of tokens; give token ids, or use word_perplexity")
    return {"perplexity": exp(nats_per_unit(targets, scores, [len(target) for target in targets], "token"))}


def word_perplexity(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """exp(-log-probability per word) with words separated by spaces: compares models with different tokenizers."""
    counts = [len(target.split()) for target in targets]
    return {"word_perplexity": exp(nats_per_unit(targets, scores, counts, "word"))}


def bits_per_byte(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """-log2 probability per UTF-8 byte: compares models with different tokenizers (The Pile, Gao et al. 2020)."""
    counts = [len(target if isinstance(target, bytes) else target.encode()) for target in targets]
    return {"bits_per_byte": nats_per_unit(targets, scores, counts, "byte") / math.log(2)}


def nats_per_unit(targets: Sequence, scores: Sequence[float], counts: list[int], unit: str) -> float:
    """Nats per token, word or byte: a ratio of sums, so long texts weigh more.

    Raises:
      ValueError: the targets contain no unit, or a score is above 0.
    """
    targets, scores = check_pairs(targets, scores, "scores")
    scores_N = to_float64(scores, "scores")
    if not sum(counts):
        raise ValueError(f"the {len(targets)} targets contain no {unit}; give texts that are not empty")
    if (scores_N > 1e-3).any():
        raise ValueError(
            f"scores[{int(scores_N.argmax())}]={scores_N.max():g} is above 0: give log-probabilities (nats)"
        )
    return float(-scores_N.sum() / sum(counts))


def exp(nats: float) -> float:
    """e^nats, infinite if it is too large for a float."""
    return math.exp(nats) if nats < 709 else math.inf


def rank_classification(targets: Sequence[tuple], scores: Sequence[float]) -> dict[str, float]:
    """Percent of examples whose most likely choice is correct, by log-probability and by log-probability over length.

    A target is one choice, ((example, choice), is_correct) or ((example, choice), is_correct, weight, length) as in T5's
    rank_classification; examples are weighted. `accuracy_normalised` is present if all targets have lengths: tokens in T5,
    bytes in lm-eval.

    Raises:
      ValueError: an example without a correct choice, or a length below 1.
    """
    targets, scores = check_pairs(targets, scores, "scores")
    scores_N = to_float64(scores, "scores")
    weights = example_weights(targets)
    metrics = {"accuracy": 100 * float(np.average(rank_choices(targets, scores_N), weights=weights))}
    if all(len(target) > 3 for target in targets):
        lengths_N = np.array([target[3] for target in targets])
        if (lengths_N < 1).any():
            raise ValueError(f"targets[{int(lengths_N.argmin())}] has length {lengths_N.min()}; a choice has 1 or more")
        normalised = rank_choices(targets, scores_N / lengths_N)
        metrics["accuracy_normalised"] = 100 * float(np.average(normalised, weights=weights))
    return metrics


def rank_choices(targets: Sequence[tuple], scores_N: np.ndarray) -> np.ndarray:
    """Whether the highest score (the first of equals) is a correct choice, bool [examples] in order of appearance."""
    best: dict = {}
    answerable: dict = {}
    for ((example, *_), right, *_), score in zip(targets, scores_N, strict=True):
        answerable[example] = answerable.get(example, False) or bool(right)
        if example not in best or score > best[example][0]:
            best[example] = (score, bool(right))
    without = [example for example, has_answer in answerable.items() if not has_answer]
    if without:
        raise ValueError(f"example {without[0]} has no right choice among its targets; mark one with is_correct")
    return np.array([right for _, right in best.values()])


def example_weights(targets: Sequence[tuple]) -> list[float]:
    """The weight of each example, that of its first choice; 1 if absent."""
    weights: dict = {}
    for (example, *_), _, *more in targets:
        weights.setdefault(example, float(more[0]) if more else 1.0)
    if sum(weights.values()) <= 0:
        raise ValueError(
            f"the weights of {len(weights)} examples add up to {sum(weights.values()):g}; give one above 0"
        )
    return list(weights.values())
