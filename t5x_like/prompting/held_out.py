"""Which tasks are trained on and which are held out to be measured: whole clusters of like tasks, as FLAN does."""

import math
from collections.abc import Iterable, Mapping

from t5x_like.prompting.templates import drawn

Split = tuple[tuple[str, ...], tuple[str, ...]]


def held_out(clusters: Mapping[str, str], names: Iterable[str]) -> Split:
    """(trained on, held out) of {task: cluster}: the clusters of the named tasks are held out, with all of their tasks.

    >>> held_out({"add": "sums", "subtract": "sums", "sort": "lists"}, ["add"])
    (('sort',), ('add', 'subtract'))

    Raises:
      ValueError: a name that is no task, or nothing left on one side.
    """
    names = set(names)
    if unknown := sorted(names - set(clusters)):
        raise ValueError(f"names={unknown} are none of the tasks {', '.join(sorted(clusters))}")
    return divided(clusters, {clusters[name] for name in names})


def held_out_share(clusters: Mapping[str, str], share: float, seed: int = 0) -> Split:
    """As `held_out`, the clusters being a share (0-1) of all, at least one, drawn by hash of (seed, cluster).

    Raises:
      ValueError: a share outside (0, 1), or nothing left on one side.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} is not between 0 and 1; 0.2 holds out every fifth cluster")
    kinds = sorted(set(clusters.values()), key=lambda cluster: drawn("held out", seed, cluster))
    return divided(clusters, set(kinds[: math.ceil(share * len(kinds))]))


def divided(clusters: Mapping[str, str], out: set[str]) -> Split:
    """The tasks outside and inside of the clusters `out`, in their order."""
    split = tuple(
        tuple(task for task, cluster in clusters.items() if (cluster in out) == held) for held in (False, True)
    )
    if not all(split):
        raise ValueError(
            f"{len(split[1])} of {len(clusters)} tasks, of the clusters {sorted(out)}, would be held out; both sides need one"
        )
    return split
