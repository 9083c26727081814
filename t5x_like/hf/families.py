"""All families: which one a configuration or a model is."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like import checkpoints
from t5x_like.hf import bart, bert, falcon, gemma, gpt, llama, opt, t5, table, xlnet
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import described, differences

# Of the families that could hold a model the first is written.
ORDER = (llama, gemma, gpt, falcon, opt, t5, bart, bert, xlnet)
FAMILIES: Mapping[str, Family] = {family.model_type: family for module in ORDER for family in module.FAMILIES}


def model_of(
    config: Mapping[str, Any], where: str = "config.json", ignore: Iterable[str] = (), names: Iterable[str] = ()
) -> tuple[Family, nn.Module]:
    """The family and the model that a config.json describes, given the names of its tensors.

    Raises:
      ValueError: an unknown model_type, a field that is missing, or one whose value changes the mathematics in a way that
        is not supported, each by name.
    """
    name = config["model_type"]
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{where}: model_type={name!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    fields = Fields(config, where, names)
    model = FAMILIES[name].build(fields)
    for other in ("is_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.only(other, False)
    fields.finish(ignore)
    return FAMILIES[name], model


def config_of(model: nn.Module, model_type: str | None = None) -> tuple[Family, dict[str, Any]]:
    """The family a model belongs to, and its config.json: of several (a LLaMA is also a Mistral without a window) the first.

    What is written is read back and must be the same model, whatever its dropout, initializers and kernels.

    Raises:
      ValueError: no family can hold the model; says what the asked-for or the nearest one would change.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    tried = {}
    for family in FAMILIES.values() if model_type is None else [FAMILIES[model_type]]:
        try:
            config = {"model_type": family.model_type, **described(model, family.describe)}
            names = table.expand(family.table(model), model, shapes(model))
            again = family.build(Fields(config, names=names))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            tried[family.model_type] = [str(error)]
            continue
        changes = list(differences(model, again))
        if not changes:
            return family, config
        tried[family.model_type] = changes
    nearest = min(tried, key=lambda name: len(tried[name]))
    shown = "; ".join(tried[nearest][:4])
    raise ValueError(f"no Hugging Face family holds this model; as {nearest!r} it would differ: {shown}")


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters, by dotted path."""
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in example(model).items()}
    params = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"]))
    return {name: x.shape for name, x in checkpoints.named(params).items()}


def example(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of one row to initialise a model's shapes with."""
    sides = [side for side in ("encoder", "decoder") if hasattr(model, side)]
    kinds = ("input_tokens", "positions", "segment_ids")
    return {f"{side}_{name}": jax.ShapeDtypeStruct((1, 1), jnp.int32) for side in sides for name in kinds}
