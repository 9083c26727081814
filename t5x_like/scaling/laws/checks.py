"""What makes a table fit for a law: columns derived, unusable rows dropped by named rules, and what no rule can mend refused."""

import math

import numpy as np

from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.table import Table, present

DECAYED = 0.1  # a learning rate above this share of its peak has not finished decaying
SAME_COUNT = 0.01  # how far flops_6nd may be from 6 n_params tokens
CONFIGURATION = ("n_params", "tokens", "unique_tokens", "seed")  # what runs that differ in tuning alone have in common
TUNING = ("lr", "batch_tokens", "warmup_steps")


def prepared(table: Table, law: Law) -> Table:
    """The rows a law is fitted to; the steps say what was derived and dropped.

    Raises:
      ValueError: two results for one run, two FLOP counts in one column, losses under different tokenizers, or too few rows.
    """
    table = last_rows(usable(derived(table), law))
    table = best_tuned(table, law.target) if law.log_target else table
    refuse_mixed_flops(table)
    refuse_mixed_tokenizers(table, law)
    if len(table) < law.least_rows:
        steps = "; ".join(map(str, table.steps)) or "nothing was dropped"
        raise ValueError(
            f"{law.name} has {len(law.parameters)} parameters and {len(table)} usable rows ({steps}); it needs at least "
            f"{law.least_rows}: train more runs, or fit a law with fewer parameters"
        )
    return table


def derived(table: Table) -> Table:
    """The table with n_params, tokens and flops_6nd filled in from each other, and bits_per_byte from loss, where absent."""
    n, d, c = ("n_params", "tokens", "flops_6nd")
    table = filled(table, d, (c, n), lambda c, n: c / (6 * n), "flops_6nd / (6 n_params)")
    table = filled(table, n, (c, d), lambda c, d: c / (6 * d), "flops_6nd / (6 tokens)")
    table = filled(table, c, (n, d), lambda n, d: 6 * n * d, "6 n_params tokens")
    return filled(
        table,
        "bits_per_byte",
        ("loss", "tokens_per_byte"),
        lambda x, t: x * t / math.log(2),
        "loss tokens_per_byte / ln 2",
    )


def filled(table: Table, name: str, sources: tuple[str, str], formula, text: str) -> Table:
    """A column computed in the rows that lack it and have its sources."""
    if not all(source in table for source in sources):
        return table
    old = table[name] if name in table.columns else np.full(len(table), np.nan)
    new = np.where(np.isnan(old), formula(*(table[source] for source in sources)), old)
    count = int(np.sum(np.isnan(old) & ~np.isnan(new)))
    return table.with_column(name, new, f"{name} = {text}", f"absent in {count} rows") if count else table


def usable(table: Table, law: Law) -> Table:
    """The table less failed, unfinished, repeated and incomplete rows; the law's columns are numbers.

    Raises:
      ValueError: a word in one of the law's columns, or two results for one run.
    """
    if "status" in table:
        status = table["status"]
        bad = (status != "") & (status != "finished")
        table = drop(
            table, "failed or running", bad, f"status is {' or '.join(sorted(set(status[bad])))}, not finished"
        )
    table = table.with_numbers(law.target)
    target = table[law.target]
    bad = ~np.isfinite(target) | ((target <= 0) if law.log_target else False)
    table = drop(
        table,
        "no loss" if law.target == "loss" else f"no {law.target}",
        bad,
        f"{law.target} is no finite {'positive ' if law.log_target else ''}number",
    )
    if "decay" in table:
        unfinished = np.nan_to_num(table["decay"]) > DECAYED
        table = drop(table, "unfinished decay", unfinished, f"last learning rate above {DECAYED} of its peak")
    for name in law.inputs:
        table = table.with_numbers(name)
        values = table[name]
        if name.startswith("flops"):
            refuse_other_count(table, name)
        table = drop(table, f"no {name}", ~(np.isfinite(values) & (values > 0)), f"{name} is no finite positive number")
    return without_repeats(table, law)


def drop(table: Table, rule: str, bad: np.ndarray, why: str) -> Table:
    return table.without(rule, bad, f"{why}: {table.labels(np.flatnonzero(bad))}") if bad.any() else table


def without_repeats(table: Table, law: Law) -> Table:
    """Rows that say the same twice are dropped; two results for one run are refused."""
    first: dict[tuple, int] = {}
    repeated, content = (
        np.zeros(len(table), bool),
        list(zip(*(x.tolist() for x in table.columns.values()), strict=True)),
    )
    for i, row in enumerate(content):
        key = identity(table, i) or tuple(map(str, row))
        j = first.setdefault(key, i)
        if j != i and table[law.target][i] != table[law.target][j]:
            raise ValueError(
                f"run {table.labels([i])} stands in the table twice, with {law.target} {table[law.target][j]:g} and "
                f"{table[law.target][i]:g}; keep one of them"
            )
        repeated[i] = j != i
    return drop(table, "duplicates", repeated, "the same run again")


def last_rows(table: Table) -> Table:
    """Of a run with several rows (a training curve) the last: before it, the learning rate was still to decay."""
    if not ("run_id" in table and "tokens" in table):
        return table
    last: dict[str, int] = {}
    for i in np.argsort(table["tokens"], kind="stable"):
        last[str(table["run_id"][i]) or f"row {i}"] = i
    early = np.ones(len(table), bool)
    early[list(last.values())] = False
    return drop(
        table, "unfinished runs", early, "not the last row of its run (to fit checkpoints, give each its run_id)"
    )


def best_tuned(table: Table, target: str, same: tuple[str, ...] = CONFIGURATION) -> Table:
    """Of runs that differ in TUNING alone the one with the lowest target: laws are of tuned runs."""
    tuning = [name for name in TUNING if name in table and name not in same]
    groups = [tuple(str(table[name][i]) for name in same if name in table) for i in range(len(table))]
    best: dict[tuple, int] = {}
    for i in np.argsort(-table[target], kind="stable"):
        best[groups[i]] = i
    settings = [[str(table[name][i]) for name in tuning] for i in range(len(table))]
    worse = np.array([settings[i] != settings[best[group]] for i, group in enumerate(groups)], bool)
    return drop(table, "worse tuned", worse, f"another {' or '.join(tuning)} gave the same run a lower {target}")


def identity(table: Table, i: int) -> tuple | None:
    """What may occur once: a run, at a number of tokens where the table holds training curves."""
    run = table.columns["run_id"][i] if "run_id" in table else ""
    return (str(run), float(table["tokens"][i]) if "tokens" in table else 0.0) if run else None


def refuse_other_count(table: Table, name: str) -> None:
    """A column of FLOPs must not be patched up from another one."""
    missing = ~present(table[name])
    others = [x for x in ("flops_6nd", "flops_with_embeddings", "flops_exact") if x != name and x in table]
    for other in others:
        if (both := missing & present(table[other])).any() and not missing.all():
            raise ValueError(
                f"mixed FLOP counts: {table.labels(np.flatnonzero(both))} have {other} but no {name}, other rows {name}; "
                "fit one count, recomputed for every row"
            )


def refuse_mixed_flops(table: Table) -> None:
    """flops_6nd has to be 6 n_params tokens, or a law of C and one of N and D would be fitted to different things."""
    if not all(name in table for name in ("flops_6nd", "n_params", "tokens")):
        return
    ratio = table["flops_6nd"] / (6 * table["n_params"] * table["tokens"])
    wrong = np.abs(ratio - 1) > SAME_COUNT
    if wrong.any():
        raise ValueError(
            f"mixed FLOP counts: flops_6nd is {np.nanmin(ratio[wrong]):.3g} to {np.nanmax(ratio[wrong]):.3g} times 6 n_params "
            f"tokens in {int(wrong.sum())} rows ({table.labels(np.flatnonzero(wrong))}); map that column as "
            "flops_with_embeddings or flops_exact, and leave flops_6nd out to have it computed"
        )


def refuse_mixed_tokenizers(table: Table, law: Law) -> None:
    """Nats per token under different tokenizers are different units."""
    if not any(name == "loss" or name.startswith("loss/") for name in (law.target, *law.inputs)):
        return
    for name in ("tokenizer", "vocab", "tokens_per_byte"):
        if name not in table:
            continue
        found = table[name][present(table[name])]
        values = np.unique(found)
        same = len(values) < 2 or (name == "tokens_per_byte" and np.ptp(found) <= 0.02 * np.min(found))
        if not same:
            raise ValueError(
                f"the losses are nats under different tokenizers ({name}: {', '.join(map(str, values[:4]))}); fit "
                "bits_per_byte instead (--target bits_per_byte, from loss and tokens_per_byte), or one tokenizer's rows"
            )
