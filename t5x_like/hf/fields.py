"""Strict reading of config.json: every field is used, known not to matter, or rejected by name."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from t5x_like.models import mlp
from t5x_like.types import PathLike

ACTIVATIONS: Mapping[str, Callable] = {
    "gelu": mlp.gelu,
    "gelu_new": mlp.gelu_tanh,
    "gelu_pytorch_tanh": mlp.gelu_tanh,
    "gelu_fast": mlp.gelu_tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}

# Fields that do not change what a model of any family computes: metadata, training, generation.
METADATA = re.compile(
    r"_.*|architectures|torch_dtype|dtype|transformers_version|model_type|auto_map|use_cache|cache_implementation"
    r"|initializer_(range|factor)|init_std|.*dropout(_rate|_prob)?|.*pdrop|layerdrop|.*layerdrop|router_jitter_noise"
    r"|router_aux_loss_coef|router_z_loss_coef|output_(attentions|hidden_states|router_logits|past)|return_dict\w*"
    r"|use_return_dict|(bos|eos|pad|sep|cls|mask|decoder_start|forced_(bos|eos)|begin_suppress)_token_ids?"
    r"|id2label|label2id|num_labels|problem_type|task_specific_params|finetuning_task|prefix|tokenizer_class"
    r"|is_encoder_decoder|gradient_checkpointing|attn_implementation|torchscript|use_bfloat16|tf_legacy_loss"
    r"|pretraining_tp|summary_.*|classif.*|gguf|unsloth.*|max_length|min_length|do_sample|early_stopping|num_beams"
    r"|num_beam_groups|diversity_penalty|temperature|top_k|top_p|typical_p|repetition_penalty|length_penalty"
    r"|no_repeat_ngram_size|encoder_no_repeat_ngram_size|bad_words_ids|num_return_sequences|output_scores"
    r"|return_dict_in_generate|remove_invalid_values|exponential_decay_length_penalty|suppress_tokens"
)


class Fields:
    """The fields of a config.json; `check_unread` rejects those that were never read.

    `where` names the file in errors. `names` are the names of the tensors in the checkpoint, which may have heads that the
    configuration does not mention.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json", names: Iterable[str] = ()):
        self.values, self.where, self.names = dict(values), where, tuple(names)
        self.used: set[str] = set()

    def __call__(self, name: str, *default: Any) -> Any:
        """Returns the value of a field, or the default if it is null or absent.

        Raises:
          ValueError: the value has the wrong type, or there is neither a value nor a default.
        """
        self.used.add(name)
        value = self.values.get(name)
        if value is not None:
            self.check_type(name, value, *default)
            return value
        if default:
            return default[0]
        raise ValueError(f"{self.where} has no {name!r}, which model_type {self.values.get('model_type')!r} requires")

    def check_type(self, name: str, value: Any, *default: Any) -> None:
        """Raises ValueError if a value has another type than the default; fields without a default are names or sizes."""
        like = default[0] if default else "" if name == "model_type" else 1
        if like is None:
            return
        number = type(like) in (int, float)
        kinds = (int, float) if number else type(like)
        fits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(like, bool)
        if not fits or (number and not default and (value < 1 or value != int(value))):
            expected = "a size" if not default else "a number" if number else f"a {type(like).__name__}"
            raise ValueError(f"{self.where}: {name}={json.dumps(value)} is not {expected}")

    def set_defaults(self, **values: Any) -> None:
        """Sets the family's defaults of absent fields; null is not absent."""
        self.used |= set(values) - set(self.values)
        self.values = values | self.values

    def either(self, name: str, other: str, *default: Any) -> Any:
        """Returns the value of a field that has two names.

        Raises:
          ValueError: both are present and differ, or neither is present and there is no default.
        """
        values = [x for x in (self(name, None), self(other, None)) if x is not None]
        if len(set(values)) > 1:
            raise ValueError(f"{self.where}: {name}={values[0]!r} and {other}={values[1]!r} must be equal")
        return values[0] if values else self(name, *default)

    def has_tensor(self, fragment: str) -> bool:
        """Whether the name of some tensor contains `fragment`."""
        return any(fragment in name for name in self.names)

    def expect(self, name: str, *allowed: Any) -> None:
        """Raises ValueError if a field has a value other than those allowed; null and absent are allowed."""
        self.used.add(name)
        value = self.values.get(name)
        if value is not None and value not in allowed:
            supported = " or ".join(json.dumps(x) for x in allowed)
            raise ValueError(f"{self.where}: {name}={json.dumps(value)} is not supported; supported is {supported}")

    def ignore(self, *names: str) -> None:
        """Marks fields that change nothing in this family."""
        self.used |= set(names)

    def activation(self, name: str, *default: str) -> Callable:
        """Returns the activation that a field names."""
        value = self(name, *default)
        if value not in ACTIVATIONS:
            raise ValueError(f"{self.where}: {name}={value!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def check_unread(self, ignore: Iterable[str] = ()) -> None:
        """Checks that every field that may change the mathematics was read.

        Raises:
          ValueError: some were not; the message has their names and values.
        """
        unread = {
            name: value
            for name, value in self.values.items()
            if not (name in self.used or name in ignore or METADATA.fullmatch(name) or value in (None, {}, []))
        }
        if unread:
            values = ", ".join(f"{name}={json.dumps(value)}" for name, value in unread.items())
            raise ValueError(
                f"{self.where} has unknown fields that may change what the model computes: {values}; "
                "if they do not, ignore them by name"
            )


def metadata_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config.json that do not change what the model computes, to copy to another one."""
    public = {name: value for name, value in values.items() if not name.startswith("_")}
    metadata = {name: value for name, value in public.items() if METADATA.fullmatch(name)}
    return metadata | {name: public[name] for name in ("max_position_embeddings",) if name in public}


def read_config(folder: PathLike) -> dict[str, Any]:
    """Reads folder/config.json.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a JSON object with a model_type.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a saved model")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model's configuration: {error!r}") from error
    return values


def activation_name(activation: Callable) -> str:
    """Returns the name of an activation in a config.json.

    Raises:
      ValueError: it has no name there.
    """
    function = getattr(activation, "__name__", None)
    for name, known in ACTIVATIONS.items():
        if known.__name__ == function:
            return name
    raise ValueError(f"the activation {activation} has no name in config.json")
