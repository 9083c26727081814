"""Classes and sequences that are right or wrong: accuracy, F1, Matthews correlation, Brier score.

A label is anything hashable; what a model says that is no label counts as wrong.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, percent


def accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Percent of labels that are equal."""
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    return {"accuracy": percent([t == p for t, p in zip(targets, predictions, strict=True)])}


def sequence_accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Percent of sequences (texts, token ids) that are equal from end to end."""
    targets, predictions = check_pairs(targets, predictions)
    equal = [np.array_equal(np.asarray(t), np.asarray(p)) for t, p in zip(targets, predictions, strict=True)]
    return {"sequence_accuracy": percent(equal)}


def f1(targets: Sequence, predictions: Sequence, positive: Hashable = 1) -> dict[str, float]:
    """Percent F1 of the class `positive`; 0 where it is neither there nor predicted."""
    return {"f1": 100 * class_f1(*check_pairs(to_python(targets), to_python(predictions)), positive)}


def macro_f1(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Percent F1, the mean over all classes that are there or predicted."""
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    return {"macro_f1": mean_f1(targets, predictions, {*targets, *predictions})}


def mean_multiclass_f1(num_classes: int) -> Callable[[Sequence, Sequence], dict[str, float]]:
    """A metric: percent F1, the mean over classes 0 to `num_classes` - 1, those that never occur counting 0 (as T5's)."""
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} has no class; give 2 or more")

    def metric(targets: Sequence, predictions: Sequence) -> dict[str, float]:
        pair = check_pairs(to_python(targets), to_python(predictions))
        return {"mean_multiclass_f1": mean_f1(*pair, range(num_classes))}

    return metric


def mean_f1(targets: list, predictions: list, classes: Iterable) -> float:
    return percent([class_f1(targets, predictions, one) for one in classes])


def class_f1(targets: list, predictions: list, positive: Hashable) -> float:
    """2 TP / (2 TP + FP + FN), 0-1."""
    both = sum(t == positive == p for t, p in zip(targets, predictions, strict=True))
    either = targets.count(positive) + predictions.count(positive)
    return 2 * both / either if either else 0.0


def matthews_correlation(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """-100 to 100, two classes or more (R_K, Gorodkin 2004); 0 where either side is one class."""
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    total, right = len(targets), sum(t == p for t, p in zip(targets, predictions, strict=True))
    wanted, given = Counter(targets), Counter(predictions)
    covariance = right * total - sum(wanted[one] * given[one] for one in wanted)
    spread = (total**2 - sum(n**2 for n in wanted.values())) * (total**2 - sum(n**2 for n in given.values()))
    return {"matthews_correlation": 100 * covariance / spread**0.5 if spread else 0.0}


def brier(targets: Sequence[int], scores: Sequence) -> dict[str, float]:
    """Mean squared error of probabilities (Brier 1950): of class 1 (0-1), or summed over all classes of a row (0-2).

    Raises:
      ValueError: scores that are no probabilities, or a target that is none of the classes.
    """
    targets, scores = check_pairs(targets, scores, "scores")
    p_NC = np.asarray(scores, np.float64)
    if p_NC.ndim not in (1, 2) or not ((p_NC >= 0) & (p_NC <= 1)).all():
        raise ValueError(f"scores of shape {p_NC.shape} are to be probabilities between 0 and 1, [N] or [N, classes]")
    if p_NC.ndim == 2 and not np.allclose(p_NC.sum(axis=1), 1, atol=1e-3):
        raise ValueError("the rows of scores do not add up to 1; give probabilities of all classes (softmax)")
    classes = 2 if p_NC.ndim == 1 else p_NC.shape[1]
    targets_N = np.asarray(targets)
    if not np.isin(targets_N, np.arange(classes)).all():
        raise ValueError(f"targets are to be classes 0 to {classes - 1}, got {sorted(set(targets_N.tolist()))[:8]}")
    if p_NC.ndim == 1:
        return {"brier": float(np.mean((p_NC - targets_N) ** 2))}
    truth_NC = np.eye(classes)[targets_N.astype(np.int64)]
    return {"brier": float(np.mean(((p_NC - truth_NC) ** 2).sum(axis=1)))}


def to_python(labels: Sequence) -> list:
    """A list of Python's own values, for numpy's arrays and scalars too."""
    return [label.item() if isinstance(label, np.generic | np.ndarray) else label for label in labels]
