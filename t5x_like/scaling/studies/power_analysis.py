"""What an evaluation can resolve: how many items a difference needs, and the smallest difference that N items show.

A test at `alpha`, two-sided unless said otherwise, finds a difference with probability `power`. Shares are 0-1, losses nats.
Two models that answer the same items are paired: only the items on which they differ count, so fewer are needed the more they
agree. The interval of one share is `text_metrics.bootstrap.wilson`.

    items_unpaired(0.50, 0.52)                    # 9,806 items for each of two models
    items_paired(0.50, 0.52, disagreement=0.10)   # 1,960 items that both answer
    smallest_difference_unpaired(1000, 0.50)      # 0.062
    smallest_difference_paired(1000, 0.10)        # 0.028
    items_loss(0.01, deviation(losses - others))  # for a difference of 0.01 nats
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

ALPHA, POWER = 0.05, 0.8


def items_unpaired(share: float, other: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Items of each of two independent samples (Fleiss, Levin & Paik 2003, equation 4.14, without continuity correction).

    n = (z_alpha/2 sqrt(2 m (1 - m)) + z_power sqrt(p (1 - p) + q (1 - q)))^2 / (p - q)^2, m the mean of p and q.
    """
    check_shares(share=share, other=other)
    return rounded_up(unpaired(share, other, alpha, power))


def unpaired(share: float, other: float, alpha: float, power: float) -> float:
    """The formula of `items_unpaired`, before rounding."""
    z_alpha, z_power = quantiles(alpha, power)
    mean = (share + other) / 2
    null = math.sqrt(2 * mean * (1 - mean))
    apart = math.sqrt(share * (1 - share) + other * (1 - other))
    return ((z_alpha * null + z_power * apart) / difference(share, other)) ** 2


def items_paired(
    share: float, other: float, disagreement: float | None = None, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Items that both models answer, for McNemar's test (Connor 1987, Biometrics 43:207-211).

    n = (z_alpha/2 sqrt(d) + z_power sqrt(d - (p - q)^2))^2 / (p - q)^2; `disagreement` d is the share of items that exactly
    one of them answers rightly, by default that of models whose errors are independent, p (1 - q) + q (1 - p).

    Raises:
      ValueError: shares that no disagreement of this size can lie between.
    """
    check_shares(share=share, other=other)
    apart = difference(share, other)
    d = share * (1 - other) + other * (1 - share) if disagreement is None else disagreement
    most = min(share + other, 2 - share - other)
    if not apart - 1e-12 <= d <= most + 1e-12:
        raise ValueError(
            f"disagreement={d} of shares {share} and {other} is not between {apart:.6g} and {most:.6g}; count the items that "
            "exactly one of the models answers rightly"
        )
    z_alpha, z_power = quantiles(alpha, power)
    return rounded_up(((z_alpha * math.sqrt(d) + z_power * math.sqrt(max(d - apart**2, 0))) / apart) ** 2)


def items_loss(apart: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Items for a difference of means: n = ((z_alpha/2 + z_power) s / apart)^2.

    `deviation` s is measured: of the differences of two models on the same items, or sqrt(s_1^2 + s_2^2) of two samples.
    """
    if apart == 0 or not deviation > 0:
        raise ValueError(f"apart={apart} and deviation={deviation}: no number of items shows 0; both must not be 0")
    return rounded_up((sum(quantiles(alpha, power)) * deviation / apart) ** 2)


def smallest_loss_difference(items: int, deviation: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference of mean losses that `items` show: the inverse of `items_loss`."""
    check_items(items)
    return sum(quantiles(alpha, power)) * deviation / math.sqrt(items)


def smallest_difference_unpaired(items: int, share: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest rise above `share` that `items` of each of two samples show: the inverse of `items_unpaired`.

    Raises:
      ValueError: not even a rise to 1 would be seen.
    """
    check_items(items)
    check_shares(share=share)

    def missing(rise: float) -> float:
        return unpaired(share, share + rise, alpha, power) - items

    least, most = 1e-9 * (1 - share), 1 - share
    if most <= 0 or missing(most) > 0:
        raise ValueError(f"items={items} do not show any rise above share={share}; give more items")
    return optimize.brentq(missing, least, most, xtol=1e-15)


def smallest_difference_paired(items: int, disagreement: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference that `items` answered by both models show, given the share on which they disagree.

    The inverse of `items_paired`: sqrt(d) (z_alpha/2 sqrt(n) + z_power sqrt(n + z_power^2 - z_alpha/2^2)) / (n + z_power^2).

    Raises:
      ValueError: disagreements so few that they show nothing even if one model is right in all of them.
    """
    check_items(items)
    check_shares(disagreement=disagreement)
    z_alpha, z_power = quantiles(alpha, power)
    inner = items + z_power**2 - z_alpha**2
    found = math.sqrt(disagreement) * (z_alpha * math.sqrt(items) + z_power * math.sqrt(max(inner, 0)))
    found /= items + z_power**2
    if inner < 0 or found > disagreement:
        raise ValueError(
            f"items={items} with disagreement={disagreement} show no difference, not even {disagreement}; give more items"
        )
    return found


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of one value per item (n - 1 in the denominator).

    Raises:
      ValueError: fewer than two values.
    """
    values_N = np.asarray(values, np.float64)
    if values_N.size < 2:
        raise ValueError(f"{values_N.size} values have no deviation; give at least two items")
    return float(values_N.std(ddof=1))


def above_chance(right: int, items: int, chance: float) -> float:
    """One-sided p-value of `right` of `items` under a share of `chance`: the exact binomial tail.

    Raises:
      ValueError: no such count, or a chance that is no share.
    """
    if not 0 <= right <= items or not items:
        raise ValueError(f"right={right} of items={items} is no count of right answers; give 0 <= right <= items")
    if not 0 <= chance < 1:
        raise ValueError(f"chance={chance} is not between 0 and 1; 1 / choices for a question with choices")
    return float(stats.binomtest(right, items, chance, alternative="greater").pvalue)


def quantiles(alpha: float, power: float) -> tuple[float, float]:
    """(z of 1 - alpha / 2, z of the power)."""
    if not 0 < alpha < 1 or not alpha / 2 < power < 1:
        raise ValueError(f"alpha={alpha} and power={power}: both lie between 0 and 1, 0.05 and 0.8 are usual")
    normal = stats.norm
    return float(normal.ppf(1 - alpha / 2)), float(normal.ppf(power))


def check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is no share of right answers; give 0 to 1, not percent")


def check_items(items: int) -> None:
    if items < 1:
        raise ValueError(f"items={items}: an evaluation has at least 1")


def difference(share: float, other: float) -> float:
    """|p - q|, which must not be 0."""
    if share == other:
        raise ValueError(f"share={share} and other={other} are equal; no number of items shows a difference of 0")
    return abs(share - other)


def rounded_up(items: float) -> int:
    """Whole items; what rounding errors add to a whole number is not one more."""
    return max(1, math.ceil(items - 1e-9 * items))
