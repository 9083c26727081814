"""Metrics of log-probabilities, in nats: perplexity, bits per byte, choices ranked by their likelihood."""

import math
from collections.abc import Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, to_float64


def perplexity(targets: Sequence[Sequence[int]], scores: Sequence[float]) -> dict[str, float]:
    """exp(-log-probability per token), all examples together; targets are token ids, scores their summed log-probs."""
    if any(isinstance(target, str) for target in targets):
        raise ValueError("targets are texts, which have no count of tokens; give ids, or take word_perplexity")
    return {"perplexity": exp(nats_per_unit(targets, scores, [len(target) for target in targets], "token"))}


def word_perplexity(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """exp(-log-probability per word between spaces): compares models whatever their tokenizers."""
    counts = [len(target.split()) for target in targets]
    return {"word_perplexity": exp(nats_per_unit(targets, scores, counts, "word"))}


def bits_per_byte(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """-log2 probability per UTF-8 byte: compares models whatever their tokenizers (The Pile, Gao et al. 2020)."""
    counts = [len(target if isinstance(target, bytes) else target.encode()) for target in targets]
    return {"bits_per_byte": nats_per_unit(targets, scores, counts, "byte") / math.log(2)}


def nats_per_unit(targets: Sequence, scores: Sequence[float], counts: list[int], unit: str) -> float:
    """Nats per token, word or byte: a sum over a sum, so long texts weigh more."""
    targets, scores = check_pairs(targets, scores, "scores")
    scores_N = to_float64(scores, "scores")
    if not sum(counts):
        raise ValueError(f"the {len(targets)} targets hold no {unit}; give texts that are not empty")
    if (scores_N > 1e-3).any():
        raise ValueError(
            f"scores[{int(scores_N.argmax())}]={scores_N.max():g} is above 0: give log-probabilities (nats)"
        )
    return float(-scores_N.sum() / sum(counts))


def exp(nats: float) -> float:
    """e^nats, infinite where it is too large for a float."""
    return math.exp(nats) if nats < 709 else math.inf


def rank_classification(targets: Sequence[tuple], scores: Sequence[float]) -> dict[str, float]:
    """Percent of examples whose likeliest choice is a right one, by log-probability and by that over its length.

    A target is one choice, ((example, choice), is_correct) or with (.., weight, length) behind, as T5's rank_classification
    has them; examples are weighted. `accuracy_normalised` is there where all have lengths: tokens as T5, bytes as lm-eval.

    Raises:
      ValueError: an example without a right choice, or a length below 1.
    """
    targets, scores = check_pairs(targets, scores, "scores")
    scores_N = to_float64(scores, "scores")
    weights = example_weights(targets)
    made = {"accuracy": 100 * float(np.average(rank_choices(targets, scores_N), weights=weights))}
    if all(len(target) > 3 for target in targets):
        lengths_N = np.array([target[3] for target in targets])
        if (lengths_N < 1).any():
            raise ValueError(f"targets[{int(lengths_N.argmin())}] has length {lengths_N.min()}; a choice has 1 or more")
        normalised = rank_choices(targets, scores_N / lengths_N)
        made["accuracy_normalised"] = 100 * float(np.average(normalised, weights=weights))
    return made


def rank_choices(targets: Sequence[tuple], scores_N: np.ndarray) -> np.ndarray:
    """Whether the highest score is that of a right choice (the first of equals), per example in order of appearance."""
    best: dict = {}
    answerable: dict = {}
    for ((example, *_), right, *_), score in zip(targets, scores_N, strict=True):
        answerable[example] = answerable.get(example, False) or bool(right)
        if example not in best or score > best[example][0]:
            best[example] = (score, bool(right))
    without = [example for example, found in answerable.items() if not found]
    if without:
        raise ValueError(f"example {without[0]} has no right choice among its targets; mark one with is_correct")
    return np.array([right for _, right in best.values()])


def example_weights(targets: Sequence[tuple]) -> list[float]:
    """The weight of each example, 1 where none is given; that of its first choice."""
    made: dict = {}
    for (example, *_), _, *more in targets:
        made.setdefault(example, float(more[0]) if more else 1.0)
    if sum(made.values()) <= 0:
        raise ValueError(f"the weights of {len(made)} examples add up to {sum(made.values()):g}; give one above 0")
    return list(made.values())
