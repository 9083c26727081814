"""Training some of a model's own parameters: biases (BitFit, Ben Zaken et al. 2021), norms, the parts added for tuning."""

import dataclasses
import re
from collections.abc import Sequence

import jax

from t5x_like import parameters
from t5x_like.peft import targets
from t5x_like.types import Params


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains the parameters whose path matches one of `patterns` and freezes the others; see `parameters.Freeze`.

    `parameters` is the number of parameters that are trained; another one is an error. None: any.
    """

    patterns: Sequence[str]
    parameters: int | None = None

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `parameters.Transform`.

        Raises:
          ValueError: no pattern, one that matches nothing, or another number of parameters.
        """
        if not self.patterns:
            raise ValueError("Train.patterns=() train nothing; give regular expressions such as 'bias$'")
        parameters.check_patterns(self.patterns, params)

        def is_trained(path: str) -> bool:
            return any(re.search(pattern, path) for pattern in self.patterns)

        trained = parameters.select(params, is_trained)
        targets.check_count("Train.parameters", trained, self.parameters)
        return trained, parameters.select(params, lambda path: not is_trained(path))

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `parameters.Transform`."""
        return parameters.union(params, frozen)
