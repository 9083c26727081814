"""Prompt tuning (Lester et al. 2021): vectors before the input are trained, all else is frozen.

In an encoder they are a part of the row (`models.prompts`). In a causal decoder they are the same before every text, so the model
reads them once, and their keys and values are those of virtual tokens: a batch costs no more tokens, rows may be packed, and the
decoding cache holds the text alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like import parameters
from t5x_like.parameters import ADDED
from t5x_like.peft import targets
from t5x_like.peft.prefix import split_prefix
from t5x_like.types import Model, Params

NAME = "prompt"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Trains a prompt of the vectors that the model has place for; a `parameters.Transform`.

    Attributes:
      model: with `prompt` (encoders, encoder-decoders) or `virtual_tokens` (decoders).
      ids: of the tokens whose vectors the prompt starts with, such as those of a text, repeated or cut to its length; None
        draws different ones.
      sampled: they are drawn from the ids below this, which in most vocabularies are the most frequent.
      parameters: the number of parameters that are trained; another one is an error. None: any.
    """

    model: Model
    ids: Sequence[int] | None = None
    sampled: int = 5000
    parameters: int | None = None

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """See `parameters.Transform`.

        Raises:
          ValueError: the model has no place for a prompt, an id is not in its vocabulary, or another number of parameters.
        """
        if self._is_virtual:
            own, frozen = split_prefix("Prompt", params)
            count = jax.tree.leaves(own)[0].shape[-3]
        else:
            if "prompt" not in params:
                raise ValueError(
                    "Prompt trains a prompt, but the model has none; set its field `prompt` or `virtual_tokens`"
                )
            own, frozen = params["prompt"], {name: x for name, x in params.items() if name != "prompt"}
            count = own["vectors"].value.shape[0]
        vectors_PD = self._start(params, count, rng)
        boxed = nn.LogicallyPartitioned(vectors_PD, ("position", "embed"))
        trained = {f"decoder{ADDED}{NAME}" if self._is_virtual else "prompt": {"vectors": boxed}}
        targets.check_count("Prompt.parameters", trained, self.parameters)
        return trained, frozen

    def merge(self, params: Params, frozen: Params) -> Params:
        """See `parameters.Transform`: a decoder's prompt becomes the keys and values that the model computes from it."""
        if not self._is_virtual:
            return parameters.union(params, frozen)
        vectors_PD = params[f"decoder{ADDED}{NAME}"]["vectors"]
        count = len(vectors_PD)
        batch = {
            "decoder_input_vectors": vectors_PD[None],
            "decoder_positions": jnp.arange(count, dtype=jnp.int32)[None],
            "decoder_segment_ids": jnp.ones((1, count), jnp.int32),
        }
        model = dataclasses.replace(cast(Any, self.model), cache_format=None)
        with nn.logical_axis_rules(()):  # one row is not split over devices
            _, variables = model.apply(
                {"params": frozen}, batch, decode_length=count, method="hidden", mutable=["cache", "losses", "metrics"]
            )
        return parameters.union(to_prefix(variables["cache"]), frozen)

    @property
    def _is_virtual(self) -> bool:
        return self.model.sides == ("decoder",)

    def _start(self, params: Params, count: int, rng: jax.Array) -> jax.Array:
        """The vectors that the prompt starts with."""
        most = min(self.sampled, self.model.vocab_size)
        if self.ids is None and most < count:
            raise ValueError(
                f"Prompt.sampled={self.sampled} ids are fewer than the prompt's {count} vectors; raise it, or give ids"
            )
        if self.ids is not None and (not self.ids or not all(0 <= x < self.model.vocab_size for x in self.ids)):
            raise ValueError(f"Prompt.ids={list(self.ids)[:8]} are not ids of a vocabulary of {self.model.vocab_size}")
        if self.ids is None:
            ids_P = jax.random.choice(rng, most, (count,), replace=False)
        else:
            ids_P = jnp.resize(jnp.asarray(self.ids, jnp.int32), (count,))
        model: Any = self.model
        return model.apply({"params": nn.unbox(params)}, ids_P[None], method=lambda module, ids: module.embed(ids))[0]


def to_prefix(cache: Params) -> Params:
    """The keys and values [*layers, P, G, K] of a cache of one row, at the paths of those of virtual tokens."""
    result = {}
    for name, value in cache.items():
        if isinstance(value, dict):
            if inner := to_prefix(value):
                result[name] = inner
        elif name in ("key_cache", "value_cache"):
            result[f"prefix_{name.removesuffix('_cache')}"] = jnp.swapaxes(value[..., 0, :, :, :], -3, -2)
    return result
