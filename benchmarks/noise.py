"""Whether a ratio of times differs from 1 by more than noise."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

MARGIN = 1.5  # of the largest ratio of identical versions


def sum_pairs(values: Sequence[float]) -> list[float]:
    """The sums of values 0 and 1, 2 and 3, ..."""
    return [a + b for a, b in zip(values[::2], values[1::2], strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest two order statistics that cover the median with 95% (the sign test's interval), else the extremes."""
    ordered, count = sorted(values), len(values)
    cut, below = 0, 0.5**count  # the probability that at most `cut` values lie below the median
    while (below := below + math.comb(count, cut + 1) * 0.5**count) <= 0.025:
        cut += 1
    return ordered[cut], ordered[-1 - cut]


def band(ratios: Sequence[float], floor: float) -> float:
    """The noise band as a factor: MARGIN times the largest log ratio of identical versions, and at least 1 + `floor`."""
    return math.exp(max([math.log1p(floor), *(MARGIN * abs(math.log(ratio)) for ratio in ratios)]))


def judge(ratios: Sequence[float], factor: float) -> dict[str, Any]:
    """A row of a table: the median ratio, its interval, the band and the verdict.

    The verdict is "slower" or "faster" if the ratio is outside the band and the interval excludes 1, otherwise "". Fewer than
    six ratios have no interval of 95%, and so no verdict.
    """
    ratio, (low, high) = statistics.median(ratios), interval(ratios)
    sure = len(ratios) >= 6 and not low <= 1 <= high
    verdict = "slower" if sure and ratio > factor else "faster" if sure and ratio < 1 / factor else ""
    return {"ratio": ratio, "interval": f"{low:.3f}-{high:.3f}", "band": f"{1 / factor:.2f}-{factor:.2f}", "": verdict}
