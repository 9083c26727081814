"""Rows left out of a fit on purpose, by rules that are written as they are read: highest_loss=5, lowest_loss=5, n_params<1e8."""

import operator
import re

import numpy as np

from t5x_like.scaling.laws.table import WORDS, Table, is_number, present

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


def without(table: Table, rule: str) -> Table:
    """The table less the rows that `rule` names, with the step recorded.

    Raises:
      ValueError: a rule of no known form, or on a column that is not there.
    """
    if match := EXTREME.fullmatch(rule.strip()):
        return without_extreme(table, match[2], int(match[3]), match[1] == "highest")
    if match := COMPARISON.fullmatch(rule.strip()):
        return without_where(table, match[1].strip(), match[2], match[3].strip())
    raise ValueError(
        f"the rule {rule!r} is neither like highest_loss=5 or lowest_loss=5 nor like n_params<1e8; write it so"
    )


def without_extreme(table: Table, column: str, count: int, highest: bool) -> Table:
    """Drops the `count` rows of highest or lowest value, and all that equal the last of them."""
    values = table.numbers(column)
    ordered = np.sort(values[np.isfinite(values)])
    if not 0 < count < len(ordered):
        raise ValueError(
            f"{count} of {len(ordered)} rows cannot be left out by {column}; name a number between 1 and the rows"
        )
    side, limit = ("highest", ordered[-count]) if highest else ("lowest", ordered[count - 1])
    bad = (values >= limit) if highest else (values <= limit)
    return table.without(f"{side}_{column}={count}", bad, f"{column} {'>=' if highest else '<='} {limit:g}")


def without_where(table: Table, column: str, sign: str, value: str) -> Table:
    """Drops the rows where a comparison holds; rows without a value stay. Above or below a number are numbers alone."""
    ordered = sign not in ("==", "!=") and column not in WORDS and is_number(value)
    values = table.numbers(column) if ordered else table[column]
    if values.dtype.kind == "f":
        try:
            limit = float(value)
        except ValueError:
            raise ValueError(f"{column}{sign}{value}: {column} holds numbers; compare it with one") from None
    else:
        limit = value
    bad = COMPARISONS[sign](values, limit) & present(values)
    return table.without(f"{column}{sign}{value}", bad, table.labels(np.flatnonzero(bad)))
