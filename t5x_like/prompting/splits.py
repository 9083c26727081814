"""Splits tasks into training and held-out tasks by whole clusters of similar tasks, as in FLAN."""

import math
from collections.abc import Iterable, Mapping

from t5x_like.prompting.templates import stable_hash

Split = tuple[tuple[str, ...], tuple[str, ...]]


def hold_out_tasks(clusters: Mapping[str, str], names: Iterable[str]) -> Split:
    """Returns (training tasks, held-out tasks): holds out every task in the clusters of the named tasks.

    >>> hold_out_tasks({"add": "sums", "subtract": "sums", "sort": "lists"}, ["add"])
    (('sort',), ('add', 'subtract'))

    Args:
      clusters: {task: cluster}.
      names: tasks whose clusters are held out.

    Raises:
      ValueError: a name is not a task, or one side is empty.
    """
    names = set(names)
    if unknown := sorted(names - set(clusters)):
        raise ValueError(f"names={unknown} are none of the tasks {', '.join(sorted(clusters))}")
    return split_tasks(clusters, {clusters[name] for name in names})


def hold_out_share(clusters: Mapping[str, str], share: float, seed: int = 0) -> Split:
    """Returns (training tasks, held-out tasks): holds out a share of the clusters, selected by hash of (seed, cluster).

    Args:
      clusters: {task: cluster}.
      share: the fraction of clusters to hold out, in (0, 1); at least one cluster is held out.
      seed: seed of the hash.

    Raises:
      ValueError: `share` is outside (0, 1), or one side is empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} is not between 0 and 1; 0.2 holds out 1 in 5 clusters")
    order = sorted(set(clusters.values()), key=lambda cluster: stable_hash("held out", seed, cluster))
    return split_tasks(clusters, set(order[: math.ceil(share * len(order))]))


def split_tasks(clusters: Mapping[str, str], held_out: set[str]) -> Split:
    """Returns the tasks outside and inside the clusters `held_out`, in their order."""
    training = tuple(task for task, cluster in clusters.items() if cluster not in held_out)
    rest = tuple(task for task, cluster in clusters.items() if cluster in held_out)
    if not training or not rest:
        raise ValueError(
            f"{len(rest)} of {len(clusters)} tasks, of the clusters {sorted(held_out)}, would be held out; "
            "both sides need at least one task"
        )
    return training, rest
