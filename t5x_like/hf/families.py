"""All families, and the family of a configuration or of a model."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like import checkpoints
from t5x_like.hf import bart, bert, dropout, falcon, gemma, gpt, llama, opt, t5, table, xlnet
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields
from t5x_like.hf.modules import describe_model, find_differences

# If several families can hold a model, an export uses the first.
ORDER = (llama, gemma, gpt, falcon, opt, t5, bart, bert, xlnet)
FAMILIES: Mapping[str, Family] = {family.model_type: family for module in ORDER for family in module.FAMILIES}


def build_model(
    config: Mapping[str, Any], where: str = "config.json", ignore: Iterable[str] = (), names: Iterable[str] = ()
) -> tuple[Family, nn.Module]:
    """Returns the family and the model of a config.json, given the names of its tensors.

    Raises:
      ValueError: the model_type is unknown, a field is missing, or a field has a value that changes the mathematics in an
        unsupported way; the message names it.
    """
    name = config["model_type"]
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{where}: model_type={name!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    fields = Fields(config, where, names)
    if not fields.is_newer() and {"rope_theta", "rotary_emb_base"} & set(config):
        fields.values.pop("rope_parameters", None)  # transformers 4 keeps this field of 5 without reading it
    family = FAMILIES[name]
    model = dropout.apply_rates(family.rates, family.build(fields), fields)
    for other in ("is_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.expect(other, False)
    fields.check_unread(ignore)
    return family, model


def build_config(model: nn.Module, model_type: str | None = None) -> tuple[Family, dict[str, Any]]:
    """Returns the family of a model and its config.json; the first of several families.

    For example, a LLaMA is also a Mistral without a window. The configuration is read back and must give the same model, up
    to dropout, initializers and kernels.

    Raises:
      ValueError: no family can hold the model; the message lists what the requested or the closest one would change.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    rejected = {}
    for family in FAMILIES.values() if model_type is None else [FAMILIES[model_type]]:
        try:
            config = {"model_type": family.model_type, **describe_model(model, family.description)}
            config |= dropout.describe_rates(family.rates, model)
            names = table.expand_table(family.table(model), model, parameter_shapes(model))
            rebuilt = family.build(Fields(config, names=names))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            rejected[family.model_type] = [str(error)]
            continue
        changes = list(find_differences(model, rebuilt))
        if not changes:
            return family, config
        rejected[family.model_type] = changes
    closest = min(rejected, key=lambda name: len(rejected[name]))
    summary = "; ".join(rejected[closest][:4])
    raise ValueError(f"no Hugging Face family holds this model; as {closest!r} it would differ: {summary}")


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters, by dotted path."""
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in example_batch(model).items()}
    params = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"]))
    return {name: x.shape for name, x in checkpoints.leaves_by_name(params).items()}


def example_batch(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """An abstract batch of one row and one token, to initialise a model's shapes."""
    sides = [side for side in ("encoder", "decoder") if hasattr(model, side)]
    kinds = ("input_tokens", "positions", "segment_ids")
    return {f"{side}_{name}": jax.ShapeDtypeStruct((1, 1), jnp.int32) for side in sides for name in kinds}
