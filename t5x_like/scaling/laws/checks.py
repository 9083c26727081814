"""Prepares a table for a law: derives columns, drops unusable rows by named rules, and rejects what no rule can repair."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.table import Table, is_present

AnyTable = TypeVar("AnyTable", bound=Table)
DECAYED = 0.1  # the learning rate has not finished decaying if it is above this share of its peak
FLOPS_TOLERANCE = 0.01  # largest relative difference of flops_6nd from 6 n_params tokens
CONFIGURATION = ("n_params", "tokens", "unique_tokens", "seed")  # equal in runs that differ only in tuning
TUNING = ("lr", "batch_tokens", "warmup_steps")


def prepare(table: AnyTable, law: Law) -> AnyTable:
    """Returns the rows a law is fitted to; `steps` lists what was derived and dropped.

    Raises:
      ValueError: two results for one run, two FLOP counts in one column, losses under different tokenizers, or too few rows.
    """
    table = keep_last_rows(select_usable(derive_columns(table), law))
    table = keep_best_tuned(table, law.target) if law.log_target else table
    reject_mixed_flops(table)
    reject_mixed_tokenizers(table, law)
    if len(table) < law.min_rows:
        steps = "; ".join(map(str, table.steps)) or "nothing was dropped"
        raise ValueError(
            f"{law.name} has {len(law.parameters)} parameters and {len(table)} usable rows ({steps}); it needs at least "
            f"{law.min_rows}: train more runs, or fit a law with fewer parameters"
        )
    return table


def derive_columns(table: AnyTable) -> AnyTable:
    """Fills absent n_params, tokens and flops_6nd from each other, and absent bits_per_byte from loss."""
    n, d, c = ("n_params", "tokens", "flops_6nd")
    table = fill_column(table, d, (c, n), lambda c, n: c / (6 * n), "flops_6nd / (6 n_params)")
    table = fill_column(table, n, (c, d), lambda c, d: c / (6 * d), "flops_6nd / (6 tokens)")
    table = fill_column(table, c, (n, d), lambda n, d: 6 * n * d, "6 n_params tokens")
    return fill_column(
        table,
        "bits_per_byte",
        ("loss", "tokens_per_byte"),
        lambda x, t: x * t / math.log(2),
        "loss tokens_per_byte / ln 2",
    )


def fill_column(
    table: AnyTable,
    name: str,
    sources: tuple[str, str],
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
    text: str,
) -> AnyTable:
    """Computes a column in the rows that lack it and have its sources; `text` writes the formula in the step."""
    if not all(source in table for source in sources):
        return table
    old = table[name] if name in table.columns else np.full(len(table), np.nan)
    first, second = sources
    new = np.where(np.isnan(old), formula(table[first], table[second]), old)
    count = int(np.sum(np.isnan(old) & ~np.isnan(new)))
    return table.with_column(name, new, f"{name} = {text}", f"absent in {count} rows") if count else table


def select_usable(table: AnyTable, law: Law) -> AnyTable:
    """Drops failed, unfinished, repeated and incomplete rows; the law's columns become numbers.

    Raises:
      ValueError: one of the law's columns holds a cell that is not a number, or a run has two results.
    """
    if "status" in table:
        status = table["status"]
        mask = (status != "") & (status != "finished")
        table = drop_rows(
            table, "failed or running", mask, f"status is {' or '.join(sorted(set(status[mask])))}, not finished"
        )
    table = table.with_numbers(law.target)
    target = table[law.target]
    mask = ~np.isfinite(target) | ((target <= 0) if law.log_target else False)
    table = drop_rows(
        table,
        "no loss" if law.target == "loss" else f"no {law.target}",
        mask,
        f"{law.target} is not a finite {'positive ' if law.log_target else ''}number",
    )
    if "decay" in table:
        unfinished = np.nan_to_num(table["decay"]) > DECAYED
        table = drop_rows(table, "unfinished decay", unfinished, f"last learning rate above {DECAYED} of its peak")
    for name in law.inputs:
        table = table.with_numbers(name)
        values = table[name]
        if name.startswith("flops"):
            reject_partial_flops(table, name)
        mask = ~(np.isfinite(values) & (values > 0))
        table = drop_rows(table, f"no {name}", mask, f"{name} is not a finite positive number")
    return drop_duplicates(table, law)


def drop_rows(table: AnyTable, rule: str, mask: np.ndarray, why: str) -> AnyTable:
    """Drops the rows of a mask and names them in the step; an empty mask records no step."""
    return table.drop(rule, mask, f"{why}: {table.labels(np.flatnonzero(mask))}") if mask.any() else table


def drop_duplicates(table: AnyTable, law: Law) -> AnyTable:
    """Drops repeated rows.

    Raises:
      ValueError: a run has two results.
    """
    first: dict[tuple, int] = {}
    repeated = np.zeros(len(table), bool)
    cells = list(zip(*(x.tolist() for x in table.columns.values()), strict=True))
    for i, row in enumerate(cells):
        key = run_key(table, i) or tuple(map(str, row))
        j = first.setdefault(key, i)
        if j != i and table[law.target][i] != table[law.target][j]:
            raise ValueError(
                f"run {table.labels([i])} is in the table twice, with {law.target} {table[law.target][j]:g} and "
                f"{table[law.target][i]:g}; keep one of them"
            )
        repeated[i] = j != i
    return drop_rows(table, "duplicates", repeated, "the same run again")


def keep_last_rows(table: AnyTable) -> AnyTable:
    """Keeps the last row of each run (of a training curve): at earlier rows the learning rate has not decayed."""
    if not ("run_id" in table and "tokens" in table):
        return table
    last: dict[str, int] = {}
    for i in np.argsort(table["tokens"], kind="stable"):
        last[str(table["run_id"][i]) or f"row {i}"] = i
    early = np.ones(len(table), bool)
    early[list(last.values())] = False
    return drop_rows(
        table, "unfinished runs", early, "not the last row of its run (to fit checkpoints, give each its run_id)"
    )


def keep_best_tuned(table: AnyTable, target: str, same: tuple[str, ...] = CONFIGURATION) -> AnyTable:
    """Keeps, of runs that differ only in TUNING, the one with the lowest target: laws describe tuned runs."""
    tuning = [name for name in TUNING if name in table and name not in same]
    groups = [tuple(str(table[name][i]) for name in same if name in table) for i in range(len(table))]
    best: dict[tuple, int] = {}
    for i in np.argsort(-table[target], kind="stable"):
        best[groups[i]] = i
    settings = [[str(table[name][i]) for name in tuning] for i in range(len(table))]
    worse = np.array([settings[i] != settings[best[group]] for i, group in enumerate(groups)], bool)
    return drop_rows(table, "worse tuned", worse, f"another {' or '.join(tuning)} gave the same run a lower {target}")


def run_key(table: Table, i: int) -> tuple | None:
    """Returns what must be unique: the run, and its number of tokens for training curves; None without a run_id."""
    run = table.columns["run_id"][i] if "run_id" in table else ""
    return (str(run), float(table["tokens"][i]) if "tokens" in table else 0.0) if run else None


def reject_partial_flops(table: Table, name: str) -> None:
    """Rejects a FLOP column with gaps where another FLOP column has values: the two counts differ.

    Raises:
      ValueError: some rows have another count but not this one.
    """
    absent = ~is_present(table[name])
    others = [x for x in ("flops_6nd", "flops_with_embeddings", "flops_exact") if x != name and x in table]
    for other in others:
        if (both := absent & is_present(table[other])).any() and not absent.all():
            raise ValueError(
                f"mixed FLOP counts: {table.labels(np.flatnonzero(both))} have {other} but no {name}, other rows {name}; "
                "fit one count, recomputed for every row"
            )


def reject_mixed_flops(table: Table) -> None:
    """Rejects a flops_6nd other than 6 n_params tokens: laws of C and of N and D would describe different counts.

    Raises:
      ValueError: some rows differ by more than FLOPS_TOLERANCE.
    """
    if not all(name in table for name in ("flops_6nd", "n_params", "tokens")):
        return
    ratio = table["flops_6nd"] / (6 * table["n_params"] * table["tokens"])
    wrong = np.abs(ratio - 1) > FLOPS_TOLERANCE
    if wrong.any():
        raise ValueError(
            f"mixed FLOP counts: flops_6nd is {np.nanmin(ratio[wrong]):.3g} to {np.nanmax(ratio[wrong]):.3g} times 6 n_params "
            f"tokens in {int(wrong.sum())} rows ({table.labels(np.flatnonzero(wrong))}); map that column as "
            "flops_with_embeddings or flops_exact, and leave flops_6nd out to have it computed"
        )


def reject_mixed_tokenizers(table: Table, law: Law) -> None:
    """Rejects losses under different tokenizers: nats per token are then different units.

    Raises:
      ValueError: tokenizer, vocab or tokens_per_byte differ between rows.
    """
    if not any(name == "loss" or name.startswith("loss/") for name in (law.target, *law.inputs)):
        return
    for name in ("tokenizer", "vocab", "tokens_per_byte"):
        if name not in table:
            continue
        present = table[name][is_present(table[name])]
        values = np.unique(present)
        same = len(values) < 2 or (name == "tokens_per_byte" and np.ptp(present) <= 0.02 * np.min(present))
        if not same:
            raise ValueError(
                f"the losses are nats under different tokenizers ({name}: {', '.join(map(str, values[:4]))}); fit "
                "bits_per_byte instead (--target bits_per_byte, from loss and tokens_per_byte), or one tokenizer's rows"
            )
