"""Compares two records of the same examples: the difference of every metric with a confidence interval (paired bootstrap)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.evaluation.task_metrics import Metric, label_values
from t5x_like.text_metrics.bootstrap import difference_interval

SAMPLES = 1000  # bootstrap samples of metrics that are not means over examples
Record = Mapping[str, Any]


def compare(record: Record, other: Record, module: str) -> dict[str, dict[str, float]]:
    """Returns {metric: {"value", "against", "difference", "low", "high"}}, with a 95% interval of the difference.

    `module` defines the task. Records are files, so they may name only the metrics that a token cache of it may name.

    Raises:
      ValueError: the records have different examples or metrics.
    """
    check_comparable(record, other)
    results: dict[str, dict[str, float]] = {}
    samples = bootstrap_differences(record, other, module)
    for label, value in record["metrics"].items():
        if label in samples:
            low, high = np.nanquantile(samples[label], [0.025, 0.975]).tolist()
        else:
            low, high = difference_interval(*([e["values"][label] for e in r["examples"]] for r in (record, other)))
        against = other["metrics"][label]
        results[label] = {"value": value, "against": against, "difference": value - against, "low": low, "high": high}
    return results


def check_comparable(record: Record, other: Record) -> None:
    """Raises ValueError for records of different tasks, metrics or examples."""
    examples = [[(e["number"], e["inputs"], e["target"]["text"]) for e in r["examples"]] for r in (record, other)]
    same = record["task"] == other["task"] and record["functions"] == other["functions"] and examples[0] == examples[1]
    if not same:
        raise ValueError(
            f"the {record['count']} examples of task {record['task']!r} at step {record['step']} differ from the "
            f"{other['count']} of task {other['task']!r} at step {other['step']}, or their metrics do; evaluate both with the "
            "same --tasks, --split and --examples"
        )


def bootstrap_differences(record: Record, other: Record, module: str) -> dict[str, Sequence[float]]:
    """Differences on resampled examples, for every metric that is not a mean over examples."""
    means = set.intersection(*(set(e["values"]) for r in (record, other) for e in r["examples"]))
    metrics = [Metric.from_manifest(entry, module) for entry in record["functions"]]
    rng = np.random.default_rng(0)
    values: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    for metric in metrics:
        labels = label_values(metric, record["examples"], values)
        values |= {label: value for label, (_, value) in labels.items()}
        names = {label: name for label, (name, _) in labels.items() if label not in means}
        for _ in range(SAMPLES if names else 0):
            index_N = rng.integers(record["count"], size=(record["count"],))
            ours, theirs = (metric([r["examples"][i] for i in index_N]) for r in (record, other))
            for label, name in names.items():
                samples.setdefault(label, []).append(ours[name] - theirs[name])
    return dict(samples)
