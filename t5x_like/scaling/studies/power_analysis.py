"""Power analysis of evaluations: the items that a difference needs, and the smallest difference that N items detect.

A test at `alpha`, two-sided unless stated otherwise, detects a difference with probability `power`. Shares are 0-1, losses
nats. Two models that answer the same items are paired: only the items on which they differ count, so the more they agree, the
fewer items are needed. `text_metrics.bootstrap.wilson` gives the interval of one share.

    items_unpaired(0.50, 0.52)                              # 9,806 items for each of two models
    items_paired(0.50, 0.52, disagreement=0.10)             # 1,960 items that both answer
    detectable_difference_unpaired(1000, 0.50)              # 0.062
    detectable_difference_paired(1000, 0.10)                # 0.028
    items_loss(0.01, standard_deviation(losses - others))   # for a difference of 0.01 nats
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

ALPHA, POWER = 0.05, 0.8


def items_unpaired(share: float, other: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Returns the items of each of two independent samples (Fleiss, Levin & Paik 2003, equation 4.14, no continuity correction).

    n = (z_alpha/2 sqrt(2 m (1 - m)) + z_power sqrt(p (1 - p) + q (1 - q)))^2 / (p - q)^2, m the mean of p and q.

    Raises:
      ValueError: equal shares, or values that are not shares.
    """
    check_shares(share=share, other=other)
    return round_up(unpaired_formula(share, other, alpha, power))


def unpaired_formula(share: float, other: float, alpha: float, power: float) -> float:
    """The formula of `items_unpaired`, before rounding."""
    z_alpha, z_power = normal_quantiles(alpha, power)
    mean = (share + other) / 2
    null = math.sqrt(2 * mean * (1 - mean))
    alternative = math.sqrt(share * (1 - share) + other * (1 - other))
    return ((z_alpha * null + z_power * alternative) / nonzero_difference(share, other)) ** 2


def items_paired(
    share: float, other: float, disagreement: float | None = None, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Returns the items that both models must answer, for McNemar's test (Connor 1987, Biometrics 43:207-211).

    n = (z_alpha/2 sqrt(d) + z_power sqrt(d - (p - q)^2))^2 / (p - q)^2. `disagreement` d is the share of items that exactly
    one of them answers correctly; the default is that of models with independent errors, p (1 - q) + q (1 - p).

    Raises:
      ValueError: the shares are equal, or impossible with this disagreement.
    """
    check_shares(share=share, other=other)
    difference = nonzero_difference(share, other)
    d = share * (1 - other) + other * (1 - share) if disagreement is None else disagreement
    largest = min(share + other, 2 - share - other)
    if not difference - 1e-12 <= d <= largest + 1e-12:
        raise ValueError(
            f"disagreement={d} of shares {share} and {other} is not between {difference:.6g} and {largest:.6g}; count the "
            "items that exactly one of the models answers correctly"
        )
    z_alpha, z_power = normal_quantiles(alpha, power)
    return round_up(((z_alpha * math.sqrt(d) + z_power * math.sqrt(max(d - difference**2, 0))) / difference) ** 2)


def items_loss(difference: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Returns the items for a difference of mean losses: n = ((z_alpha/2 + z_power) s / difference)^2.

    `deviation` s is measured: of the differences of two models on the same items, or sqrt(s_1^2 + s_2^2) of two samples.

    Raises:
      ValueError: a difference of 0, or a deviation that is not positive.
    """
    if difference == 0 or not deviation > 0:
        raise ValueError(
            f"difference={difference} and deviation={deviation}: give a difference other than 0 and a positive deviation"
        )
    return round_up((sum(normal_quantiles(alpha, power)) * deviation / difference) ** 2)


def detectable_loss_difference(items: int, deviation: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Returns the smallest difference of mean losses that `items` detect: the inverse of `items_loss`."""
    check_items(items)
    return sum(normal_quantiles(alpha, power)) * deviation / math.sqrt(items)


def detectable_difference_unpaired(items: int, share: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Returns the smallest rise above `share` that `items` of each of two samples detect: the inverse of `items_unpaired`.

    Raises:
      ValueError: even a rise to 1 would not be detected.
    """
    check_items(items)
    check_shares(share=share)

    def missing_items(rise: float) -> float:
        return unpaired_formula(share, share + rise, alpha, power) - items

    smallest, largest = 1e-9 * (1 - share), 1 - share
    if largest <= 0 or missing_items(largest) > 0:
        raise ValueError(f"items={items} do not detect any rise above share={share}; give more items")
    return optimize.brentq(missing_items, smallest, largest, xtol=1e-15)


def detectable_difference_paired(items: int, disagreement: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Returns the smallest difference that `items` answered by both models detect, given the share on which they disagree.

    The inverse of `items_paired`: sqrt(d) (z_alpha/2 sqrt(n) + z_power sqrt(n + z_power^2 - z_alpha/2^2)) / (n + z_power^2).

    Raises:
      ValueError: even if one model is correct in all disagreements, the difference would not be detected.
    """
    check_items(items)
    check_shares(disagreement=disagreement)
    z_alpha, z_power = normal_quantiles(alpha, power)
    inner = items + z_power**2 - z_alpha**2
    difference = math.sqrt(disagreement) * (z_alpha * math.sqrt(items) + z_power * math.sqrt(max(inner, 0)))
    difference /= items + z_power**2
    if inner < 0 or difference > disagreement:
        raise ValueError(
            f"items={items} with disagreement={disagreement} detect no difference, not even {disagreement}; give more items"
        )
    return difference


def standard_deviation(values: ArrayLike) -> float:
    """Returns the standard deviation of one value per item (n - 1 in the denominator).

    Raises:
      ValueError: fewer than two values.
    """
    values_N = np.asarray(values, np.float64)
    if values_N.size < 2:
        raise ValueError(f"{values_N.size} values have no deviation; give at least two items")
    return float(values_N.std(ddof=1))


def chance_p_value(correct: int, items: int, chance: float) -> float:
    """Returns the one-sided p-value of `correct` of `items` under a share of `chance`: the exact binomial tail.

    Raises:
      ValueError: an impossible count, or a chance that is not a share.
    """
    if not 0 <= correct <= items or not items:
        raise ValueError(f"correct={correct} of items={items} is impossible; give 0 <= correct <= items")
    if not 0 <= chance < 1:
        raise ValueError(f"chance={chance} is not between 0 and 1; use 1 / choices for multiple choice")
    return float(stats.binomtest(correct, items, chance, alternative="greater").pvalue)


def normal_quantiles(alpha: float, power: float) -> tuple[float, float]:
    """Returns (z of 1 - alpha / 2, z of the power).

    Raises:
      ValueError: alpha or power are not between 0 and 1.
    """
    if not 0 < alpha < 1 or not alpha / 2 < power < 1:
        raise ValueError(f"alpha={alpha} and power={power}: both lie between 0 and 1, usually 0.05 and 0.8")
    normal = stats.norm
    return float(normal.ppf(1 - alpha / 2)), float(normal.ppf(power))


def check_shares(**shares: float) -> None:
    """Raises ValueError for values outside 0-1, by argument name."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is not a share of correct answers; give 0 to 1, not percent")


def check_items(items: int) -> None:
    """Raises ValueError for fewer than one item."""
    if items < 1:
        raise ValueError(f"items={items}: an evaluation has at least 1")


def nonzero_difference(share: float, other: float) -> float:
    """Returns |p - q|.

    Raises:
      ValueError: it is 0.
    """
    if share == other:
        raise ValueError(f"share={share} and other={other} are equal; no number of items detects a difference of 0")
    return abs(share - other)


def round_up(items: float) -> int:
    """Rounds up to whole items, ignoring rounding errors above a whole number."""
    return max(1, math.ceil(items - 1e-9 * items))
