"""Filters that drop rows before a fit, written as rules: highest_loss=5, lowest_loss=5, n_params<1e8."""

import operator
import re
from typing import TypeVar

import numpy as np

from t5x_like.scaling.laws.table import STRING_COLUMNS, Table, is_number, is_present

AnyTable = TypeVar("AnyTable", bound=Table)
COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
COMPARISON = re.compile(r"([\w/ ]+?)\s*(<=|>=|==|!=|<|>)\s*(.+)")
EXTREME = re.compile(r"(highest|lowest)_([\w/]+)=(\d+)")


def apply_rule(table: AnyTable, rule: str) -> AnyTable:
    """Drops the rows that `rule` selects and records the step.

    Raises:
      ValueError: the rule has no known form, its column is absent, or it selects no row.
    """
    if match := EXTREME.fullmatch(rule.strip()):
        remaining = drop_extremes(table, match[2], int(match[3]), match[1] == "highest")
    elif match := COMPARISON.fullmatch(rule.strip()):
        remaining = drop_where(table, match[1].strip(), match[2], match[3].strip())
    else:
        raise ValueError(f"the rule {rule!r} must look like highest_loss=5, lowest_loss=5 or n_params<1e8")
    if len(remaining) == len(table):
        raise ValueError(f"the rule {rule!r} drops none of {len(table)} rows; correct or remove it")
    return remaining


def drop_extremes(table: AnyTable, column: str, count: int, highest: bool) -> AnyTable:
    """Drops the `count` rows with the highest or lowest value, and all rows equal to the last of them."""
    values = table.numbers(column)
    ordered = np.sort(values[np.isfinite(values)])
    if not 0 < count < len(ordered):
        raise ValueError(
            f"cannot drop {count} of {len(ordered)} rows by {column}; name a number between 1 and the number of rows"
        )
    side, limit = ("highest", ordered[-count]) if highest else ("lowest", ordered[count - 1])
    mask = (values >= limit) if highest else (values <= limit)
    return table.drop(f"{side}_{column}={count}", mask, f"{column} {'>=' if highest else '<='} {limit:g}")


def drop_where(table: AnyTable, column: str, sign: str, value: str) -> AnyTable:
    """Drops the rows where a comparison holds; rows without a value stay. Numbers are ordered only against numbers."""
    ordered = sign not in ("==", "!=") and column not in STRING_COLUMNS and is_number(value)
    values = table.numbers(column) if ordered else table[column]
    limit: float | str = value
    if values.dtype.kind == "f":
        try:
            limit = float(value)
        except ValueError:
            raise ValueError(f"{column}{sign}{value}: {column} holds numbers; compare it with one") from None
    mask = COMPARISONS[sign](values, limit) & is_present(values)
    return table.drop(f"{column}{sign}{value}", mask, table.labels(np.flatnonzero(mask)))
