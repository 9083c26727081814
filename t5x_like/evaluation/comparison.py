"""Two records of the same examples compared: the difference of every metric, with a confidence interval (paired bootstrap)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.evaluation.task_metrics import Metric, labelled
from t5x_like.text_metrics.bootstrap import difference_interval

SAMPLES = 1000  # of metrics that are no means, which are worked out anew for each
Record = Mapping[str, Any]


def compared(record: Record, other: Record) -> dict[str, dict[str, float]]:
    """{metric: {"value", "against", "difference", "low", "high"}}: of a record, of the other, and what lies between.

    Raises:
      ValueError: records of different examples.
    """
    check_same(record, other)
    made: dict[str, dict[str, float]] = {}
    drawn = resampled(record, other)
    for label, value in record["metrics"].items():
        if label in drawn:
            low, high = np.nanquantile(drawn[label], [0.025, 0.975]).tolist()
        else:
            low, high = difference_interval(*([e["values"][label] for e in r["examples"]] for r in (record, other)))
        against = other["metrics"][label]
        made[label] = {"value": value, "against": against, "difference": value - against, "low": low, "high": high}
    return made


def check_same(record: Record, other: Record) -> None:
    """Refuses records of different tasks, metrics or examples."""
    asked = [[(e["number"], e["inputs"], e["target"]["text"]) for e in r["examples"]] for r in (record, other)]
    same = record["task"] == other["task"] and record["functions"] == other["functions"] and asked[0] == asked[1]
    if not same:
        raise ValueError(
            f"the {record['count']} examples of task {record['task']!r} at step {record['step']} are not the {other['count']} of "
            f"task {other['task']!r} at step {other['step']}, or judged otherwise; evaluate both with the same --tasks, "
            "--split and --examples"
        )


def resampled(record: Record, other: Record) -> dict[str, Sequence[float]]:
    """Differences on examples drawn with replacement, of every metric that is not the mean of its examples' values."""
    means = set.intersection(*(set(e["values"]) for r in (record, other) for e in r["examples"]))
    metrics = [Metric.of(named) for named in record["functions"]]
    rng, taken, drawn = np.random.default_rng(0), dict[str, float](), dict[str, list[float]]()
    for metric in metrics:
        labels = labelled(metric, record["examples"], taken)
        taken |= {label: value for label, (_, value) in labels.items()}
        wanted = {label: name for label, (name, _) in labels.items() if label not in means}
        for _ in range(SAMPLES if wanted else 0):
            index_N = rng.integers(record["count"], size=record["count"])
            ours, theirs = (metric([r["examples"][i] for i in index_N]) for r in (record, other))
            for label, name in wanted.items():
                drawn.setdefault(label, []).append(ours[name] - theirs[name])
    return drawn
