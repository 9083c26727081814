"""Contrastive decoding (Li et al. 2023): the tokens that a large model, the expert, prefers to a small one, the amateur.

log p_expert - log p_amateur is high for any token that the amateur finds very unlikely, so it is compared only among tokens that
are plausible to the expert: p_expert >= alpha max p_expert.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.types import Model

SHARED = ("lengths", "segments")  # of the caches: both models read the same tokens


def contrast(expert_BLV: jax.Array, amateur_BLV: jax.Array, alpha: float, temperature: float = 1.0) -> jax.Array:
    """log p_expert - log p_amateur of tokens with p_expert >= alpha max p_expert, -inf for others, from logits.

    `temperature` divides the amateur's logits: a low one makes it surer of what it prefers.
    """
    expert_BLV = jax.nn.log_softmax(expert_BLV.astype(jnp.float32))
    amateur_BLV = jax.nn.log_softmax(amateur_BLV.astype(jnp.float32) / temperature)
    plausible_BLV = expert_BLV >= jnp.log(alpha) + jnp.max(expert_BLV, axis=-1, keepdims=True)
    return jnp.where(plausible_BLV, expert_BLV - amateur_BLV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Two models as one, whose logits are `contrast` of theirs: for `generate`, beam search and all else that decodes.

    Its parameters are {"expert": params, "amateur": params}.

    Raises:
      ValueError: the models differ in their ids or sides, or a number is out of range.
    """

    expert: Model
    amateur: Model
    alpha: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "encoder_decoder", "sides"):
            ours, theirs = getattr(self.expert, name), getattr(self.amateur, name)
            if ours != theirs:
                raise ValueError(f"the expert has {name}={ours}, the amateur {theirs}; both must read the same batches")
        if not 0 < self.alpha <= 1:
            raise ValueError(
                f"Contrast.alpha={self.alpha} is not in (0, 1]; 1 leaves only the expert's most likely token"
            )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"Contrast.temperature={self.temperature} must be positive and finite")

    encoder_decoder = property(lambda self: self.expert.encoder_decoder)
    vocab_size = property(lambda self: self.expert.vocab_size)
    sides = property(lambda self: self.expert.sides)
    extra_features = property(lambda self: self.expert.extra_features)
    outputs = property(lambda self: self.expert.outputs)

    @property
    def models(self) -> dict[str, Model]:
        """The two models by name."""
        return {"expert": self.expert, "amateur": self.amateur}

    def init(self, rngs: Any, batch: Any) -> Any:
        """The variables of both models."""
        return {"params": {name: model.init(rngs, batch)["params"] for name, model in self.models.items()}}

    def apply(
        self,
        variables: Mapping[str, Any],
        inputs: Any,
        train: bool = False,
        decode_length: int | None = None,
        mutable: Sequence[str] = (),
        method: str | None = None,
    ) -> Any:
        """As `types.Model.apply`; a hidden state is {"expert": x [B, L, D], "amateur": x [B, L, D']}."""
        if method == "logits":
            return self.logits(variables["params"], inputs)
        hidden, cache = self.hidden(variables, inputs, train, decode_length)
        result = hidden if method == "hidden" else self.logits(variables["params"], hidden)
        return (result, {"cache": cache}) if mutable else result

    def hidden(
        self, variables: Mapping[str, Any], batch: Any, train: bool, decode_length: int | None
    ) -> tuple[dict[str, jax.Array], Any]:
        """The hidden states, and the cache."""
        states: dict[str, jax.Array] = {}
        cache: dict[str, Any] = {}
        for name, model in self.models.items():
            own = {"params": variables["params"][name]}
            if "cache" in variables:
                own["cache"] = variables["cache"][name] | {key: variables["cache"][key] for key in SHARED}
            if decode_length is None:
                states[name] = model.apply(own, batch, train, method="hidden")
                continue
            options = {"decode_length": decode_length, "mutable": ["cache"], "method": "hidden"}
            states[name], updated = model.apply(own, batch, **options)
            cache |= {key: updated["cache"][key] for key in SHARED}
            cache[name] = {key: x for key, x in updated["cache"].items() if key not in SHARED}
        return states, cache

    def logits(self, params: Mapping[str, Any], hidden: Mapping[str, jax.Array]) -> jax.Array:
        """The contrast of the two models' logits."""
        expert, amateur = (
            model.apply({"params": params[name]}, hidden[name], method="logits") for name, model in self.models.items()
        )
        return contrast(expert, amateur, self.alpha, self.temperature)
