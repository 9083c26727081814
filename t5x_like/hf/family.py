"""What a family is: how its config.json becomes a model, how a model becomes its config.json, and its tensors' names."""

import dataclasses
from collections.abc import Callable

from flax import linen as nn

from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import Describe
from t5x_like.hf.table import Table


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`. An export is right where `build` of what `describe` says is the model again; that is checked."""

    model_type: str
    build: Callable[[Fields], nn.Module]
    describe: Describe
    table: Callable[[nn.Module], Table]
