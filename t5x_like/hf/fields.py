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

MAX_SIZE, MAX_COUNT = 2**30, 10_000  # of a dimension; of layers and experts
MAX_HEAD = 2**16  # heads, and numbers of a head; position encodings make arrays of these sizes
MIN_FRACTION, MAX_FRACTION = 1e-30, 1e30
TYPE_NAMES = {str: "string", bool: "boolean", list: "list", dict: "JSON object"}

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

    def __call__(
        self, name: str, *default: Any, like: Any = 1, low: float | None = None, high: float | None = None
    ) -> Any:
        """Returns the value of a field, or the default if it is null or absent; `like` is an example of a required value.

        The type and range are those of `check_value`.

        Raises:
          ValueError: the value has the wrong type or is out of range, or there is neither a value nor a default.
        """
        value = self.optional(name, default[0] if default else like, low, high)
        if value is not None:
            return value
        if default:
            return default[0]
        raise ValueError(f"{self.where} has no {name!r}, which model_type {self.values.get('model_type')!r} requires")

    def optional(self, name: str, like: Any, low: float | None = None, high: float | None = None) -> Any:
        """Returns the value of a field, of the type of `like`, or None if it is null or absent."""
        self.used.add(name)
        value = self.values.get(name)
        return None if value is None else check_value(f"{self.where}: {name}", value, like, low, high)

    def epsilon(self, name: str, default: float) -> float:
        """Returns the epsilon of a norm."""
        return self(name, default, low=0.0, high=1.0)

    def rotary_base(self, name: str, default: float) -> float:
        """Returns the base of rotary positions."""
        return float(self(name, float(default), low=1.01))

    def count(self, name: str, *default: Any) -> int:
        """Returns a number of layers or experts, see `check_count`."""
        return self.check_count(name, self(name, *default))

    def check_count(self, name: str, count: int) -> int:
        """Returns a number of layers or experts; raises ValueError if the file has fewer tensors."""
        check_value(f"{self.where}: {name}", count, 1, high=MAX_COUNT)
        if self.names and count > len(self.names):
            raise ValueError(f"{self.where}: {name}={count}, but the file has only {len(self.names)} tensors")
        return count

    def split(self, name: str, width: int, count: str, heads: int) -> int:
        """Returns the width of a head; `name` and `count` are the fields of the model's width and of the number of heads.

        Raises:
          ValueError: the heads do not divide the width, or are too many.
        """
        check_value(f"{self.where}: {count}", heads, 1, high=MAX_HEAD)
        if width % heads:
            raise ValueError(f"{self.where}: {name}={width} is not a multiple of {count}={heads}")
        return width // heads

    def kv_heads(self, heads: int, name: str = "num_key_value_heads") -> int:
        """Returns the number of key/value heads, by default `heads`; raises ValueError if it does not divide `heads`."""
        count = self(name, heads)
        if heads % count:
            raise ValueError(f"{self.where}: {name}={count} does not divide the number of heads, {heads}")
        return count

    def is_newer(self) -> bool:
        """Whether transformers 5 or later wrote the configuration."""
        return re.match(r"[0-4]\.|$", self("transformers_version", "")) is None

    def set_defaults(self, **values: Any) -> None:
        """Sets the family's defaults of absent fields; null is not absent."""
        self.used |= set(values) - set(self.values)
        self.values = values | self.values

    def either(self, name: str, other: str, *default: Any) -> Any:
        """Returns the value of a field that has two names.

        Raises:
          ValueError: both are present and differ, or neither is present and there is no default.
        """
        like = default[0] if default else 1
        values = [x for x in (self.optional(name, like), self.optional(other, like)) if x is not None]
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
            raise ValueError(f"{self.where}: {name}={format_json(value)} is not supported; supported is {supported}")

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
            values = ", ".join(f"{name}={format_json(value)}" for name, value in unread.items())
            raise ValueError(
                f"{self.where} has unknown fields that may change what the model computes: {values}; "
                "if they do not, ignore them by name"
            )


def check_value(what: str, value: Any, like: Any, low: float | None = None, high: float | None = None) -> Any:
    """Returns a value that has the type of `like` and lies in a range; `what` names it in errors.

    Whole numbers lie between 1 and MAX_SIZE, fractions between MIN_FRACTION and MAX_FRACTION, unless `low` or `high` is given.
    A list has elements like the first one of `like`.

    Raises:
      ValueError: another type, or out of range (NaN always is).
    """
    if type(like) not in (int, float):
        if type(value) is not type(like):
            raise ValueError(f"{what}={format_json(value)} is not a {TYPE_NAMES[type(like)]}")
        if isinstance(like, list):
            return [check_value(f"{what}[{i}]", x, like[0], low, high) for i, x in enumerate(value)]
        return value
    whole = type(like) is int
    least, most = (1, MAX_SIZE) if whole else (MIN_FRACTION, MAX_FRACTION)
    low, high = least if low is None else low, most if high is None else high
    if type(value) not in (int, float) or not low <= value <= high or (whole and value != int(value)):
        span = f"whole number from {low} to {high}" if whole else f"number from {low:g} to {high:g}"
        raise ValueError(f"{what}={format_json(value)} is not a {span}")
    return int(value) if whole else value


def format_json(value: Any) -> str:
    """Returns a value as JSON, shortened for a message."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def metadata_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config.json that do not change what the model computes, to copy to another one."""
    public = {name: value for name, value in values.items() if not name.startswith("_")}
    written_anew = ("dtype", "torch_dtype", "transformers_version")
    metadata = {name: x for name, x in public.items() if METADATA.fullmatch(name) and name not in written_anew}
    return metadata | {name: public[name] for name in ("max_position_embeddings",) if name in public}


def read_config(folder: PathLike) -> dict[str, Any]:
    """Reads folder/config.json.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a JSON object with a model_type.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a saved model")
    try:
        values = json.loads(path.read_bytes())
        values["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a model's configuration ({type(error).__name__}: {error})") from error
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
