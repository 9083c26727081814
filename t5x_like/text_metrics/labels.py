"""Metrics of classes and sequences: accuracy, F1, Matthews correlation, Brier score.

A label is any hashable value. A prediction that is no label counts as wrong, as in T5 (t5/evaluation/metrics.py, Raffel et al.
2020): where this needs the set of labels, it is an option.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, percent


def accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Percent of equal labels."""
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    return {"accuracy": percent([t == p for t, p in zip(targets, predictions, strict=True)])}


def sequence_accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    """Percent of equal sequences (texts, token ids)."""
    targets, predictions = check_pairs(targets, predictions)
    equal = [np.array_equal(np.asarray(t), np.asarray(p)) for t, p in zip(targets, predictions, strict=True)]
    return {"sequence_accuracy": percent(equal)}


def f1(targets: Sequence, predictions: Sequence, positive: Hashable = 1, negative: Hashable = 0) -> dict[str, float]:
    """Percent F1 of the class `positive`; 0 if it is neither a target nor predicted (T5's `f1_score_with_invalid`).

    A prediction that is neither `positive` nor `negative` counts as the class that the target is not.

    Raises:
      ValueError: a target is neither `positive` nor `negative`.
    """
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    other = {positive: negative, negative: positive}
    if unknown := [target for target in targets if target not in other]:
        raise ValueError(
            f"targets have {unknown[0]!r}, but positive={positive!r} and negative={negative!r}; give the names of the two "
            "classes, or use macro_f1"
        )
    predictions = [p if p in other else other[t] for t, p in zip(targets, predictions, strict=True)]
    return {"f1": 100 * class_f1(targets, predictions, positive)}


def macro_f1(targets: Sequence, predictions: Sequence, classes: Sequence | None = None) -> dict[str, float]:
    """Mean percent F1 over `classes` (T5's `mean_multiclass_f1`), or over all that are targets or predicted (scikit-learn)."""
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    return {"macro_f1": mean_f1(targets, predictions, {*targets, *predictions} if classes is None else classes)}


def mean_multiclass_f1(num_classes: int) -> Callable[[Sequence, Sequence], dict[str, float]]:
    """Returns a metric: mean percent F1 over classes 0 to `num_classes` - 1; classes that never occur count 0 (as T5).

    Raises:
      ValueError: num_classes is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1; give the number of classes")

    def metric(targets: Sequence, predictions: Sequence) -> dict[str, float]:
        pair = check_pairs(to_python(targets), to_python(predictions))
        return {"mean_multiclass_f1": mean_f1(*pair, range(num_classes))}

    return metric


def mean_f1(targets: list, predictions: list, classes: Iterable) -> float:
    """Mean percent F1 over classes."""
    return percent([class_f1(targets, predictions, one) for one in classes])


def class_f1(targets: list, predictions: list, positive: Hashable) -> float:
    """2 TP / (2 TP + FP + FN), 0-1."""
    both = sum(t == positive == p for t, p in zip(targets, predictions, strict=True))
    either = targets.count(positive) + predictions.count(positive)
    return 2 * both / either if either else 0.0


def matthews_correlation(targets: Sequence, predictions: Sequence, classes: Sequence | None = None) -> dict[str, float]:
    """Matthews correlation, -100 to 100, for two classes or more (R_K, Gorodkin 2004); 0 if either side has one class.

    All predictions outside `classes` are one further class, as T5's class -1; without `classes`, each is one of its own.
    """
    targets, predictions = check_pairs(to_python(targets), to_python(predictions))
    if classes is not None:
        predictions = [one if one in classes else None for one in predictions]
    total, right = len(targets), sum(t == p for t, p in zip(targets, predictions, strict=True))
    expected, predicted = Counter(targets), Counter(predictions)
    covariance = right * total - sum(expected[label] * predicted[label] for label in expected)
    spread = (total**2 - sum(n**2 for n in expected.values())) * (total**2 - sum(n**2 for n in predicted.values()))
    return {"matthews_correlation": 100 * covariance / spread**0.5 if spread else 0.0}


def brier(targets: Sequence[int], scores: Sequence) -> dict[str, float]:
    """Mean squared error of probabilities (Brier 1950): of class 1 (0-1), or summed over all classes of a row (0-2).

    `scores` are probabilities of class 1, [N], or of all classes, [N, classes]; targets are class numbers.

    Raises:
      ValueError: scores are not probabilities, or a target is not a class.
    """
    targets, scores = check_pairs(targets, scores, "scores")
    p_NC = np.asarray(scores, np.float64)
    if p_NC.ndim not in (1, 2) or not ((p_NC >= 0) & (p_NC <= 1)).all():
        raise ValueError(f"scores of shape {p_NC.shape} must be probabilities between 0 and 1, [N] or [N, classes]")
    if p_NC.ndim == 2 and not np.allclose(p_NC.sum(axis=1), 1, atol=1e-3):
        raise ValueError("the rows of scores do not add up to 1; give probabilities of all classes (softmax)")
    classes = 2 if p_NC.ndim == 1 else p_NC.shape[1]
    targets_N = np.asarray(targets)
    if not np.isin(targets_N, np.arange(classes)).all():
        raise ValueError(f"targets must be classes 0 to {classes - 1}, got {sorted(set(targets_N.tolist()))[:8]}")
    if p_NC.ndim == 1:
        return {"brier": float(np.mean((p_NC - targets_N) ** 2))}
    truth_NC = np.eye(classes)[targets_N.astype(np.int64)]
    return {"brier": float(np.mean(((p_NC - truth_NC) ** 2).sum(axis=1)))}


def to_python(labels: Sequence) -> list:
    """The labels as Python values; NumPy scalars and arrays are converted."""
    return [label.item() if isinstance(label, np.generic | np.ndarray) else label for label in labels]
