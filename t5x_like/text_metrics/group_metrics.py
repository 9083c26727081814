"""Metrics of groups of examples: a target is {"group", "value"}."""

from collections.abc import Mapping, Sequence

from t5x_like.text_metrics.labels import f1
from t5x_like.text_metrics.pairs import check_pairs, percent


def group_exact_match(targets: Sequence[Mapping], predictions: Sequence) -> dict[str, float]:
    """Percent of groups with only right examples (MultiRC's exact match, Khashabi et al. 2018)."""
    right: dict = {}
    for target, prediction in zip(*check_pairs(targets, predictions), strict=True):
        right[target["group"]] = right.get(target["group"], True) and target["value"] == prediction
    return {"em": percent(list(right.values()))}


def group_f1(
    targets: Sequence[Mapping], predictions: Sequence, positive: str = "yes", negative: str = "no"
) -> dict[str, float]:
    """Percent F1 of the value `positive` over the examples of all groups (MultiRC's F1a); other answers as in `labels.f1`."""
    return {"f1a": f1([target["value"] for target in targets], predictions, positive, negative)["f1"]}
