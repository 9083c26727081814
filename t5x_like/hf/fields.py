"""config.json read strictly: every field is used, known to change nothing, or refused by name."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from t5x_like.models import mlp

ACTIVATIONS: Mapping[str, Callable] = {
    "gelu": mlp.gelu,
    "gelu_new": mlp.gelu_tanh,
    "gelu_pytorch_tanh": mlp.gelu_tanh,
    "gelu_fast": mlp.gelu_tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}

# Fields of every family that do not change what a model computes: bookkeeping, training, generation.
NO_MATHEMATICS = re.compile(
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
    """The fields of a config.json; `finish` refuses those that nobody asked for.

    `where` names the file in errors. `names` are those of the tensors that come with it: a checkpoint may have heads that
    its configuration does not mention.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json", names: Iterable[str] = ()):
        self.values, self.where, self.names = dict(values), where, tuple(names)
        self.used: set[str] = set()

    def __call__(self, name: str, *default) -> Any:
        """The value of a field; one that is null or absent has the default, or is refused where there is none."""
        self.used.add(name)
        value = self.values.get(name)
        if value is not None:
            self.check(name, value, *default)
            return value
        if default:
            return default[0]
        raise ValueError(f"{self.where} has no {name!r}, which a {self.values.get('model_type')} needs")

    def check(self, name: str, value: Any, *default) -> None:
        """Refuses a value of another kind than the default's; what has no default is a name or a size."""
        like = default[0] if default else "" if name == "model_type" else 1
        if like is None:
            return
        number = type(like) in (int, float)
        kinds = (int, float) if number else type(like)
        fits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(like, bool)
        if not fits or (number and not default and (value < 1 or value != int(value))):
            wanted = "a size" if not default else "a number" if number else f"a {type(like).__name__}"
            raise ValueError(f"{self.where}: {name}={json.dumps(value)} is not {wanted}")

    def defaults(self, **values: Any) -> None:
        """What fields that are absent (null is not) have in this family."""
        self.used |= set(values) - set(self.values)
        self.values = values | self.values

    def either(self, name: str, other: str, *default) -> Any:
        """The value of a field that has two names.

        Raises:
          ValueError: both are there and differ, or none is and there is no default.
        """
        found = [x for x in (self(name, None), self(other, None)) if x is not None]
        if len(set(found)) > 1:
            raise ValueError(f"{self.where}: {name}={found[0]!r} and {other}={found[1]!r} should be the same")
        return found[0] if found else self(name, *default)

    def holds(self, fragment: str) -> bool:
        """Whether a tensor has this in its name."""
        return any(fragment in name for name in self.names)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuses a field that has another value than those allowed; absent is allowed."""
        self.used.add(name)
        value = self.values.get(name)
        if value is not None and value not in allowed:
            shown = " or ".join(json.dumps(x) for x in allowed)
            raise ValueError(f"{self.where}: {name}={json.dumps(value)} is not supported; supported is {shown}")

    def unused(self, *names: str) -> None:
        """Fields that change nothing in this family."""
        self.used |= set(names)

    def activation(self, name: str, *default: str) -> Callable:
        """The activation that a field names."""
        value = self(name, *default)
        if value not in ACTIVATIONS:
            raise ValueError(f"{self.where}: {name}={value!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Refuses fields that may change the mathematics and were not asked for.

        Raises:
          ValueError: by name, with their values.
        """
        left = {
            name: value
            for name, value in self.values.items()
            if not (name in self.used or name in ignore or NO_MATHEMATICS.fullmatch(name) or value in (None, {}, []))
        }
        if left:
            shown = ", ".join(f"{name}={json.dumps(value)}" for name, value in left.items())
            raise ValueError(
                f"{self.where} has fields that are not understood and may change what the model computes: {shown}; "
                "if you know that they do not, ignore them by name"
            )


def without_mathematics(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that say nothing of what the model computes, for another one."""
    public = {name: value for name, value in values.items() if not name.startswith("_")}
    kept = {name: value for name, value in public.items() if NO_MATHEMATICS.fullmatch(name)}
    return kept | {name: public[name] for name in ("max_position_embeddings",) if name in public}


def read(folder) -> dict[str, Any]:
    """The content of folder/config.json.

    Raises:
      FileNotFoundError, ValueError: no such file, or no JSON object with a model_type.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give the folder that a model was saved into")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model's configuration: {error!r}") from error
    return values


def activation_name(activation: Callable) -> str:
    """What a config.json calls an activation.

    Raises:
      ValueError: it has no name there.
    """
    wanted = getattr(activation, "__name__", None)
    for name, known in ACTIVATIONS.items():
        if known.__name__ == wanted:
            return name
    raise ValueError(f"the activation {activation} has no name in config.json")
