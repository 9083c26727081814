"""Proposers of speculative decoding: prompt lookup, which copies from the row itself, and a smaller model."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like.decoding.processors import History, write
from t5x_like.decoding.speculative import Batch, Choice, Proposal
from t5x_like.decoding.state import Cache, append, lengths, prefill_samples, rollback
from t5x_like.types import Model, Params

Inputs = tuple[jax.Array, jax.Array]  # of an encoder: tokens with room behind them [B, T], number of tokens [B]


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Proposes what followed a row's last tokens where they occurred before (Saxena 2023); see `lookup`.

    The inputs of an encoder are searched too, as if they stood before the decoder's tokens.
    """

    tokens: int = 8
    longest: int = 4
    shortest: int = 2
    always = False

    def __post_init__(self) -> None:
        check_tokens("PromptLookup", self.tokens)
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"PromptLookup.shortest={self.shortest} is not in 1 .. longest={self.longest}, the most tokens that are compared"
            )

    def start(self, batch: Batch, length: int, samples: int) -> Inputs | None:
        """The encoder's inputs, if there are any."""
        if "encoder_input_tokens" not in batch:
            return None
        tokens_BT = jnp.pad(batch["encoder_input_tokens"], ((0, 0), (0, length)))
        length_B = jnp.sum(batch["encoder_segment_ids"] > 0, axis=1, dtype=jnp.int32)
        return jnp.repeat(tokens_BT, samples, axis=0), jnp.repeat(length_B, samples)

    def propose(
        self, state: Inputs | None, history: History, most_B: jax.Array, keys_BG: jax.Array, choice: Choice
    ) -> tuple[Proposal, Inputs | None]:
        """See `speculative.Proposer`."""
        tokens_BT, length_B = history.tokens_BT, history.length_B
        if state is not None:
            tokens_BT, length_B = write(*state, tokens_BT, length_B), state[1] + length_B
        tokens_BG, found_B = lookup(tokens_BT, length_B, self.tokens, self.longest, self.shortest)
        return Proposal(tokens_BG, jnp.where(found_B, self.tokens, 0)), state


def lookup(
    tokens_BT: jax.Array, length_B: jax.Array, count: int, longest: int, shortest: int
) -> tuple[jax.Array, jax.Array]:
    """The `count` (G) tokens that followed a row's last tokens where they occurred before.

    The last `longest` tokens are looked up; if they did not occur, one less, and so on, down to `shortest`. The latest place
    counts. Where the row ends, its continuation goes on with the tokens that are proposed, as if the row repeated itself.

    Args:
      tokens_BT: token ids.
      length_B: the number of tokens of each row.

    Returns:
      (token ids, int32 [B, G], whether there was such a place, bool [B]).
    """
    index_T = jnp.arange(tokens_BT.shape[1])
    # How many tokens, up to each token but the last, equal the last ones.
    equal_BT = index_T < length_B[:, None] - 1
    count_BT = jnp.zeros_like(tokens_BT)
    for k in range(longest):
        last_B1 = jnp.take_along_axis(tokens_BT, jnp.maximum(length_B[:, None] - 1 - k, 0), axis=1)
        equal_BT &= (jnp.roll(tokens_BT, k, axis=1) == last_B1) & (index_T >= k)
        count_BT += equal_BT
    place_BT = jnp.where(count_BT >= shortest, count_BT * len(index_T) + index_T, -1)
    start_B1 = jnp.argmax(place_BT, axis=1)[:, None] + 1
    period_B1 = jnp.maximum(length_B[:, None] - start_B1, 1)
    tokens_BG = jnp.take_along_axis(tokens_BT, start_B1 + jnp.arange(count) % period_B1, axis=1, mode="clip")
    return tokens_BG, jnp.max(place_BT, axis=1) >= 0


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """Proposes tokens of a smaller model with the same vocabulary, drawn as the model's own tokens are.

    The smaller model reads the same batch, so it has an encoder if the model has one. Make the draft inside the jitted function,
    of `params` that are its argument. Its logits are cut, or filled with -inf, to the ids of the model.
    """

    model: Model
    params: Params = dataclasses.field(repr=False)
    tokens: int = 4
    always = True

    def __post_init__(self) -> None:
        check_tokens("Draft", self.tokens)

    def start(self, batch: Batch, length: int, samples: int) -> Cache:
        """The smaller model's cache.

        Raises:
          ValueError: it has an encoder and the model has none, or the other way round.
        """
        if self.model.encoder_decoder != ("encoder_input_tokens" in batch):
            kinds = ("decoder-only", "an encoder-decoder")
            kind, other = kinds[self.model.encoder_decoder], kinds[not self.model.encoder_decoder]
            raise ValueError(f"the draft model is {kind}, and the model {other}; give a draft model of the same kind")
        return prefill_samples(self.model, self.params, batch, length, samples)[1]

    def propose(
        self, state: Cache, history: History, most_B: jax.Array, keys_BG: jax.Array, choice: Choice
    ) -> tuple[Proposal, Cache]:
        """See `speculative.Proposer`."""

        def draw(logits_BV: jax.Array, history: History, keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            probs_BV = choice.probabilities(logits_BV, history)
            return choice.draw(keys_B, probs_BV), probs_BV

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            """Draws a token and appends it, in rows that can use another one."""
            (logits_BV, history, cache), (keys_B, g) = carry, inputs
            token_B, probs_BV = draw(logits_BV, history, keys_B)
            new_B = (g + 1 < most_B).astype(jnp.int32)
            logits_BV, cache = append(self.model, self.params, cache, token_B[:, None], new_B)
            return (logits_BV, history.extend(token_B[:, None], new_B), cache), (token_B, probs_BV)

        # The last guess was not appended, so if it was accepted, two tokens are missing, otherwise one.
        cache = rollback(state, history.length_B - 1)
        missing_B2 = lengths(cache)[:, None] + jnp.arange(2)
        tokens_B2 = jnp.take_along_axis(history.tokens_BT, missing_B2, axis=1, mode="clip")
        count_B = jnp.where(most_B > 0, history.length_B - lengths(cache), 0)
        logits_BV, cache = append(self.model, self.params, cache, tokens_B2, count_B)
        keys_GB = jnp.moveaxis(keys_BG, 1, 0)
        first = logits_BV, history, cache
        (logits_BV, history, cache), drawn = jax.lax.scan(step, first, (keys_GB[:-1], jnp.arange(self.tokens - 1)))
        last = draw(logits_BV, history, keys_GB[-1])
        tokens_BG, probs_BGV = (
            jnp.moveaxis(jnp.concatenate([x, y[None]]), 0, 1) for x, y in zip(drawn, last, strict=True)
        )
        return Proposal(tokens_BG, most_B, probs_BGV), cache


def check_tokens(name: str, tokens: int) -> None:
    """Raises ValueError if a proposer proposes nothing."""
    if tokens < 1:
        raise ValueError(f"{name}.tokens={tokens} must be at least 1, the number of guesses per call of the model")
