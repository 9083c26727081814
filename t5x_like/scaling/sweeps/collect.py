"""The rows of a sweep's table (scaling/laws/table.py), read from its run directories.

Beside the known columns, a row has those of the last evaluation: `accuracy` (share of tokens), `loss/TASK`, `loss_se/TASK`
and `accuracy/TASK` of each task of a mixture, and METRIC/TASK of each task in EVAL_TASKS:

    fit runs.csv --law=sigmoid --target=exact_match/gsm8k --inputs=loss/gsm8k
    emergence.average_by_size(table, ("exact_match/gsm8k", "loss/gsm8k"))
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from t5x_like import writers
from t5x_like.run_dir import RunDir
from t5x_like.scaling.laws import table
from t5x_like.scaling.sweeps import trials
from t5x_like.scaling.sweeps.trials import Trial

# The table has three statuses. A run that stopped and that no process trains is not finished.
STATUS = {trials.FINISHED: "finished", trials.RUNNING: "running", trials.STOPPED: "failed", trials.FAILED: "failed"}

# Metrics that are a percentage of correct answers in a log and a share (0-1) in a table; so is every pass@k.
ANSWER_METRICS = ("accuracy", "accuracy_normalised", "sequence_accuracy", "exact_match", "em", "answered", "verified")


def collect_rows(all_trials: Iterable[Trial]) -> table.Table:
    """Returns a table with one row for every trial that was ever started."""
    return table.from_rows(build_row(trial) for trial in all_trials if trials.read_attempts(trial.run_dir))


def build_row(trial: Trial) -> dict[str, Any]:
    """The row of a run: known columns, losses and scores on every evaluation set, time, device and revision."""
    records = writers.read_metrics(RunDir(trial.run_dir).metrics)
    attempts = trials.read_attempts(trial.run_dir)
    starts = [line for line in attempts if "started" in line]
    facts = {name: value for name, value in trial.columns.items() if name != "steps"}
    if starts:
        facts |= {name: starts[-1][name] for name in ("device", "revision", "unique_tokens", "tokenizer")}
        facts["started"] = starts[0]["started"]
    facts |= {"run_id": trial.run_id, "wall_seconds": total_seconds(attempts)}
    return facts | {"status": STATUS[trials.read_progress(trial).state]} | last_losses(records) | last_scores(records)


def total_seconds(attempts: Sequence[dict[str, Any]]) -> float:
    """Seconds of all attempts that ended by themselves."""
    return sum(line.get("seconds", 0.0) for line in attempts)


def last_losses(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Loss, bits per byte and token accuracy (0-1) of the last evaluation, over all sets and for each of several sets."""
    last = next((record for record in reversed(records) if "eval/loss" in record), None)
    if last is None:
        return {}
    losses = {"loss": last["eval/loss"]}
    if "eval/bits_per_byte" in last:
        bits = last["eval/bits_per_byte"]
        losses |= {"bits_per_byte": bits, "tokens_per_byte": bits * math.log(2) / last["eval/loss"]}
    losses |= {name: last[f"eval/{name}"] for name in ("loss_se", "accuracy") if f"eval/{name}" in last}
    for name, value in last.items():
        _, _, rest = name.partition("eval/")
        task, _, metric = rest.rpartition("/")
        if task and metric in ("loss", "loss_se", "accuracy"):
            losses[f"{metric}/{task}"] = value
    return losses


def last_scores(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The newest METRIC/TASK of every task in EVAL_TASKS.

    Percentages of correct answers become shares (0-1), as `emergence` and the sigmoid law expect; other metrics stay as
    logged. An answer `accuracy` replaces the token accuracy of its task.
    """
    newest = {name: value for record in records for name, value in record.items() if name.startswith("eval_tasks/")}
    scores = {}
    for name, value in newest.items():
        _, task, metric = name.split("/", 2)
        scores[f"{metric}/{task}"] = value / 100 if is_answer_metric(metric) else value
    return scores


def is_answer_metric(metric: str) -> bool:
    """Whether a metric counts correct answers; metrics of equal name are logged as FUNCTION/NAME."""
    name = metric.rpartition("/")[2]
    return name in ANSWER_METRICS or name.startswith("pass@")
