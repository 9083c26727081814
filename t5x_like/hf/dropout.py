"""The dropout rates of config.json, which have other names and places in every family."""

import dataclasses
from typing import Any

from flax import linen as nn

from t5x_like.hf.fields import Fields
from t5x_like.models import attention, blocks, mlp, stack


@dataclasses.dataclass(frozen=True)
class Rates:
    """The fields with the rates of a family; "" is a place without dropout.

    Attributes:
      embedding: of the embeddings.
      residual: of the output of every sublayer.
      attention: of the attention weights.
      hidden: of the hidden units of an MLP.
      output: of the output of the last layer.
      default: rate of `embedding`, `residual`, `hidden` and `output` if the field is absent.
      default_attention: rate of `attention` if the field is absent.
    """

    embedding: str = ""
    residual: str = ""
    attention: str = "attention_dropout"
    hidden: str = ""
    output: str = ""
    default: float = 0.0
    default_attention: float = 0.0


def apply_rates(rates: Rates, model: nn.Module, f: Fields) -> Any:
    """Returns the model with the dropout rates of a config.json."""

    def read(name: str, default: float) -> float:
        return float(f(name, default, low=0.0, high=0.999)) if name else 0.0

    embedding, residual, hidden, output = (
        read(name, rates.default) for name in (rates.embedding, rates.residual, rates.hidden, rates.output)
    )
    changes: dict[type, dict[str, float]] = {
        stack.Stack: {"dropout": embedding, "output_dropout": output},
        blocks.Block: {"dropout": residual},
        attention.Attention: {"dropout": read(rates.attention, rates.default_attention)},
        mlp.Mlp: {"dropout": hidden},
    }
    return change_modules(model, changes)


def change_modules(x: Any, changes: dict[type, dict[str, float]]) -> Any:
    """Returns a tree of modules with changed fields in the modules of the given classes."""
    if isinstance(x, list | tuple):
        return [change_modules(item, changes) for item in x]
    if not isinstance(x, nn.Module):
        return x
    own = next((fields for kind, fields in changes.items() if isinstance(x, kind)), {})
    parts = {
        field.name: getattr(x, field.name) for field in dataclasses.fields(x) if field.name not in ("parent", "name")
    }
    inner = {name: change_modules(part, changes) for name, part in parts.items() if isinstance(part, nn.Module | list)}
    return x.copy(**(inner | own)) if inner or own else x


def describe_rates(rates: Rates, model: nn.Module) -> dict[str, float]:
    """Returns the fields of config.json with the dropout rates of a model; of several layers, those of the first."""
    tower: Any = getattr(model, "decoder", None) or model.encoder
    block = tower.block
    while not isinstance(block, blocks.Block):
        block = block.blocks[0] if isinstance(block, blocks.Pattern) else block.block
    values = {
        rates.embedding: tower.dropout,
        rates.output: tower.dropout if tower.output_dropout is None else tower.output_dropout,
        rates.hidden: getattr(block.mlp, "dropout", 0.0),
        rates.attention: block.mixer.dropout,
        rates.residual: block.dropout,
    }
    return {name: rate for name, rate in values.items() if name}
