"""The rows of a sweep's table (table.py), read from its run directories.

Beside the known columns a row has those of the last evaluation, `accuracy` (share of tokens) and `loss/TASK`, `loss_se/TASK`
and `accuracy/TASK` of a mixture's tasks, and METRIC/TASK of the tasks that were asked (EVAL_TASKS):

    fit runs.csv --law=sigmoid --target=exact_match/gsm8k --inputs=loss/gsm8k
    emergence.by_size(table, ("exact_match/gsm8k", "loss/gsm8k"))
"""

import math
from collections.abc import Iterable
from typing import Any

from t5x_like import writers
from t5x_like.run_dir import RunDir
from t5x_like.scaling.laws import table
from t5x_like.scaling.sweeps import trials
from t5x_like.scaling.sweeps.trials import Cell

# The table knows three: a run that no process trains any more is not finished.
STATUS = {trials.FINISHED: "finished", trials.RUNNING: "running", trials.STOPPED: "failed", trials.FAILED: "failed"}

# Metrics that are percent of right answers in a log, as are all pass@k, and shares (0-1) in a table.
OF_ANSWERS = ("accuracy", "accuracy_normalised", "sequence_accuracy", "exact_match", "em", "answered", "verified")


def collected(every: Iterable[Cell]) -> table.Table:
    """One row for every cell that was ever taken up."""
    return table.from_rows(row(cell) for cell in every if trials.attempts(cell.run_dir))


def row(cell: Cell) -> dict[str, Any]:
    """What is known of a run: its columns, losses and scores on every evaluation set, time, device and revision."""
    records = writers.read_records(RunDir(cell.run_dir).metrics)
    tried = trials.attempts(cell.run_dir)
    taken_up = [line for line in tried if "started" in line]
    facts = {name: value for name, value in cell.columns.items() if name != "steps"}
    if taken_up:
        facts |= {name: taken_up[-1][name] for name in ("device", "revision", "unique_tokens", "tokenizer")}
        facts["started"] = taken_up[0]["started"]
    facts |= {"run_id": cell.run_id, "wall_seconds": seconds(tried)}
    return facts | {"status": STATUS[trials.progress(cell).state]} | losses(records) | scores(records)


def seconds(tried: list[dict]) -> float:
    """Of all attempts that ended by themselves."""
    return sum(line.get("seconds", 0.0) for line in tried)


def losses(records: list[dict]) -> dict[str, float]:
    """The last evaluation: loss, bits per byte and accuracy (0-1, of tokens) of all sets together, and of each of several."""
    last = next((record for record in reversed(records) if "eval/loss" in record), None)
    if last is None:
        return {}
    found = {"loss": last["eval/loss"]}
    if "eval/bits_per_byte" in last:
        bits = last["eval/bits_per_byte"]
        found |= {"bits_per_byte": bits, "tokens_per_byte": bits * math.log(2) / last["eval/loss"]}
    found |= {name: last[f"eval/{name}"] for name in ("loss_se", "accuracy") if f"eval/{name}" in last}
    for name, value in last.items():
        _, _, rest = name.partition("eval/")
        task, _, metric = rest.rpartition("/")
        if task and metric in ("loss", "loss_se", "accuracy"):
            found[f"{metric}/{task}"] = value
    return found


def scores(records: list[dict]) -> dict[str, float]:
    """The newest METRIC/TASK of every task that was asked.

    Percent of right answers are made shares (0-1), as emergence and the sigmoid want them; other metrics stay as logged. An
    `accuracy` among them takes the place of that of the task's tokens.
    """
    newest = {name: value for record in records for name, value in record.items() if name.startswith("eval_tasks/")}
    found = {}
    for name, value in newest.items():
        _, task, metric = name.split("/", 2)
        found[f"{metric}/{task}"] = value / 100 if of_answers(metric) else value
    return found


def of_answers(metric: str) -> bool:
    """Whether a metric counts right answers; where two metrics have one name, theirs is FUNCTION/NAME."""
    name = metric.rpartition("/")[2]
    return name in OF_ANSWERS or name.startswith("pass@")
