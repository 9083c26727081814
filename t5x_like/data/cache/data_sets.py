"""The data sets that a configuration defines, each a task with a name of its own: see gin_configs/tasks/files.gin."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

SHARE = "share"


@dataclasses.dataclass(frozen=True)
class DataSets:
    """Data sets by name: `module.define(name, **arguments(name))` registers the task of one.

    `sets` maps a name to its own arguments, which take precedence over those in `common`. Its entry `share` is not an
    argument: see `tasks`.
    """

    module: str
    sets: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sets or not all(isinstance(x, str) and isinstance(own, Mapping) for x, own in self.sets.items()):
            raise ValueError(f"sets={self.sets!r}: map the name of each data set to its arguments: {{'web': {{...}}}}")
        for name, own in self.sets.items():
            share = own.get(SHARE, 1)
            if not isinstance(share, int | float) or not 0 < share < math.inf:
                raise ValueError(f"sets: the {SHARE}={share!r} of data set {name!r} is not a positive, finite number")

    def arguments(self, name: str) -> dict[str, Any]:
        """The arguments that define a data set."""
        own = {key: value for key, value in self.sets[name].items() if key != SHARE}
        return {**self.common, **own}


def tasks(data_sets: DataSets) -> str | tuple[str, ...] | dict[str, float]:
    """All data sets, as `mixing.mix_tasks` takes them: a name, several names, or {name: share}.

    Raises:
      ValueError: some have a `share`, and others have none.
    """
    names = tuple(data_sets.sets)
    shares = {name: own[SHARE] for name, own in data_sets.sets.items() if SHARE in own}
    if shares and len(shares) < len(names):
        without = ", ".join(name for name in names if name not in shares)
        raise ValueError(
            f"the data sets {without} have no share, {', '.join(shares)} have one; give all a share, or none"
        )
    if len(names) == 1:
        return names[0]
    return shares or names
