"""The rows of a sweep's table (table.py), read from its run directories."""

import math
from collections.abc import Iterable
from typing import Any

from t5x_like import writers
from t5x_like.scaling import cells, table
from t5x_like.scaling.cells import Cell

# The table knows three: a run that no process trains any more is not finished.
STATUS = {cells.FINISHED: "finished", cells.RUNNING: "running", cells.STOPPED: "failed", cells.FAILED: "failed"}


def collected(every: Iterable[Cell]) -> table.Table:
    """One row for every cell that was ever taken up."""
    return table.from_rows(row(cell) for cell in every if cells.attempts(cell.run_dir))


def row(cell: Cell) -> dict[str, Any]:
    """What is known of a run: its columns, losses on every evaluation set, time, device and revision."""
    records = writers.whole_lines(cell.run_dir / "metrics.jsonl")
    tried = cells.attempts(cell.run_dir)
    taken_up = [line for line in tried if "started" in line]
    facts = {name: value for name, value in cell.columns.items() if name != "steps"}
    if taken_up:
        facts |= {name: taken_up[-1][name] for name in ("device", "revision", "unique_tokens", "tokenizer")}
        facts["started"] = taken_up[0]["started"]
    facts |= {"run_id": cell.run_id, "wall_seconds": seconds(tried)}
    return facts | {"status": STATUS[cells.progress(cell).state]} | losses(records)


def seconds(tried: list[dict]) -> float:
    """Of all attempts that ended by themselves."""
    return sum(line.get("seconds", 0.0) for line in tried)


def losses(records: list[dict]) -> dict[str, float]:
    """The last evaluation: loss and bits per byte of all sets together, and of each where there are several."""
    last = next((record for record in reversed(records) if "eval/loss" in record), None)
    if last is None:
        return {}
    found = {"loss": last["eval/loss"]}
    if "eval/bits_per_byte" in last:
        bits = last["eval/bits_per_byte"]
        found |= {"bits_per_byte": bits, "tokens_per_byte": bits * math.log(2) / last["eval/loss"]}
    if "eval/loss_se" in last:
        found["loss_se"] = last["eval/loss_se"]
    for name, value in last.items():
        _, _, rest = name.partition("eval/")
        task, _, metric = rest.rpartition("/")
        if task and metric in ("loss", "loss_se"):
            found[f"{metric}/{task}"] = value
    return found
