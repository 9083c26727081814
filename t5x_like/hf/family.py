"""A family of Hugging Face models: config.json to model, model to config.json, and the names of the tensors."""

import dataclasses
from collections.abc import Callable

from flax import linen as nn

from t5x_like.hf.dropout import Rates
from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import Description
from t5x_like.hf.table import Table

ATTENTION_ONLY = Rates()


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`.

    `build` makes the model of a config.json, `description` gives the fields of a model's config.json, and `table` the mapping
    table; `rates` are the fields with dropout rates. An export is correct if `build` of the described fields is the model
    again, which is checked.
    """

    model_type: str
    build: Callable[[Fields], nn.Module]
    description: Description
    table: Callable[[nn.Module], Table]
    rates: Rates = ATTENTION_ONLY
