"""Logit processors: pure functions `processor(logits_BV, history) -> logits_BV` that change logits before the sampler.

`loop.generate` applies them in the given order: what must hold in any case, such as `ForcedTokens`, comes last. A logit of -inf
is a token that is never chosen. A row's result depends on its own tokens alone. An id outside the vocabulary is a ValueError
when the function is traced.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t5x_like.decoding.sampling import Number, check_all, per_row


@struct.dataclass
class History:
    """The decoder's tokens so far: the prompt without padding, followed by the generated tokens. Padding is at the end.

    An encoder-decoder's prompt is the start token; the encoder's inputs are no part of the history.

    Attributes:
      tokens_BT: token ids, int32; T is the length of the padded prompts plus the number of new tokens.
      length_B: number of tokens per row.
      generated_B: how many of them were generated.
      stop_ids: ids that end a row.
    """

    tokens_BT: jax.Array
    length_B: jax.Array
    generated_B: jax.Array
    stop_ids: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))

    def take(self, index_A: jax.Array) -> "History":
        """The history of rows `index_A`."""
        return jax.tree.map(lambda x: x[index_A], self)

    def append(self, token_B: jax.Array, ended_B: jax.Array) -> "History":
        """The history with one more generated token in every row that has not ended."""
        return self.extend(token_B[:, None], (~ended_B).astype(jnp.int32))

    def extend(self, tokens_BL: jax.Array, count_B: jax.Array) -> "History":
        """The history with the first `count_B` of `tokens_BL` as generated tokens behind it."""
        tokens_BT = write(self.tokens_BT, self.length_B, tokens_BL, count_B)
        return History(tokens_BT, self.length_B + count_B, self.generated_B + count_B, self.stop_ids)


class Processor(Protocol):
    """Changes the logits of the next tokens."""

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array: ...


def write(x_BT: jax.Array, start_B: jax.Array, new_BL: jax.Array, count_B: jax.Array) -> jax.Array:
    """x_BT with the first `count_B` of `new_BL` written from `start_B` on; what is behind the end is left out."""
    index_L = jnp.arange(new_BL.shape[1])
    index_BL = jnp.where(index_L < count_B[:, None], start_B[:, None] + index_L, x_BT.shape[1])
    return jax.vmap(lambda x_T, index_L, new_L: x_T.at[index_L].set(new_L, mode="drop"))(x_BT, index_BL, new_BL)


def from_prompts(batch: Mapping[str, jax.Array], max_new_tokens: int, stop_ids: tuple[int, ...]) -> History:
    """The history before the first new token; `batch` as in `loop.generate`."""
    real_BP = batch["decoder_segment_ids"] > 0
    tokens_BP = jnp.where(real_BP, batch["decoder_input_tokens"], 0).astype(jnp.int32)
    length_B = jnp.sum(real_BP, axis=1, dtype=jnp.int32)
    return History(jnp.pad(tokens_BP, ((0, 0), (0, max_new_tokens))), length_B, jnp.zeros_like(length_B), stop_ids)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive logits of tokens in the history by `penalty`, multiplies negative ones (CTRL, Keskar et al. 2019).

    The penalty is a number, or one per row [B].
    """

    penalty: Number

    def __post_init__(self) -> None:
        need = "must be positive and finite; 1 changes nothing"
        check_all("RepetitionPenalty.penalty", self.penalty, lambda x: (x > 0) & np.isfinite(x), need)

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        index_T = jnp.arange(history.tokens_BT.shape[1])
        counts_BV = count(history.tokens_BT, index_T < history.length_B[:, None], logits_BV.shape[1])
        penalty = per_row(self.penalty, logits_BV.shape[0], "RepetitionPenalty.penalty")
        penalized_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
        return jnp.where(counts_BV > 0, penalized_BV, logits_BV)


@dataclasses.dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts `penalty` from a token's logit for each time it was generated, as OpenAI's frequency_penalty does.

    The penalty is a number, or one per row [B]. A negative one makes repetitions likelier.
    """

    penalty: Number

    def __post_init__(self) -> None:
        check_all("FrequencyPenalty.penalty", self.penalty, np.isfinite, "must be finite; 0 changes nothing")

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        penalty = per_row(self.penalty, logits_BV.shape[0], "FrequencyPenalty.penalty")
        return logits_BV - penalty * count_generated(history, logits_BV.shape[1])


@dataclasses.dataclass(frozen=True)
class PresencePenalty:
    """Subtracts `penalty` from the logits of the tokens that were generated, as OpenAI's presence_penalty does.

    The penalty is a number, or one per row [B]. A negative one makes repetitions likelier.
    """

    penalty: Number

    def __post_init__(self) -> None:
        check_all("PresencePenalty.penalty", self.penalty, np.isfinite, "must be finite; 0 changes nothing")

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        penalty = per_row(self.penalty, logits_BV.shape[0], "PresencePenalty.penalty")
        return logits_BV - penalty * (count_generated(history, logits_BV.shape[1]) > 0)


@dataclasses.dataclass(frozen=True)
class NoRepeatNGram:
    """Excludes tokens that would repeat a sequence of `size` tokens of the history."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(
                f"NoRepeatNGram.size={self.size} must be at least 1; leave the processor out to allow repeats"
            )

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        windows = history.tokens_BT.shape[1] - self.size + 1
        if windows < 1:
            return logits_BV
        repeated_BW = jnp.arange(windows) + self.size <= history.length_B[:, None]
        last_BK = last_tokens(history, self.size - 1)
        for k in range(self.size - 1):
            repeated_BW &= history.tokens_BT[:, k : k + windows] == last_BK[:, k : k + 1]
        counts_BV = count(history.tokens_BT[:, self.size - 1 :], repeated_BW, logits_BV.shape[1])
        return jnp.where(counts_BV > 0, -jnp.inf, logits_BV)


@dataclasses.dataclass(frozen=True, eq=False)  # hashable for jit with a list or dict too
class BadWords:
    """Excludes the last token of each of `words`, sequences of ids, where the history ends with the ids before it."""

    words: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        if not self.words or not all(self.words):
            raise ValueError(f"BadWords.words={self.words} has an empty word or none; give sequences of one id or more")
        check_ids("BadWords.words", [id for word in self.words for id in word])

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        check_ids("BadWords.words", [id for word in self.words for id in word], logits_BV.shape[1])
        longest = max(len(word) for word in self.words)
        words_WK = np.array([[-2] * (longest - len(word)) + list(word) for word in self.words])  # -2 matches all
        last_BK = last_tokens(history, longest - 1)
        begun_BW = jnp.all((last_BK[:, None] == words_WK[:, :-1]) | (words_WK[:, :-1] == -2), axis=-1)
        counts_BV = count(jnp.broadcast_to(words_WK[:, -1], begun_BW.shape), begun_BW, logits_BV.shape[1])
        return jnp.where(counts_BV > 0, -jnp.inf, logits_BV)


@dataclasses.dataclass(frozen=True, eq=False)  # hashable for jit with a list or dict too
class ForcedTokens:
    """Makes `ids` the first new tokens, as `forced_bos_token_id` of Hugging Face does for one id."""

    ids: Sequence[int]

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(f"ForcedTokens.ids={self.ids} is empty; give one id or more")
        check_ids("ForcedTokens.ids", self.ids)

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        check_ids("ForcedTokens.ids", self.ids, logits_BV.shape[1])
        forced_B = jnp.array(self.ids)[jnp.minimum(history.generated_B, len(self.ids) - 1)]
        forced_BV = jnp.where(jnp.arange(logits_BV.shape[1]) == forced_B[:, None], 0.0, -jnp.inf)
        return jnp.where((history.generated_B < len(self.ids))[:, None], forced_BV, logits_BV)


@dataclasses.dataclass(frozen=True)
class ForcedLastToken:
    """Makes `id` the new token number `count`: with the most new tokens as count, Hugging Face's `forced_eos_token_id`."""

    id: int
    count: int

    def __post_init__(self) -> None:
        check_ids("ForcedLastToken.id", [self.id])
        if self.count < 1:
            raise ValueError(f"ForcedLastToken.count={self.count} must be at least 1: the number of new tokens")

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        check_ids("ForcedLastToken.id", [self.id], logits_BV.shape[1])
        forced_V = jnp.where(jnp.arange(logits_BV.shape[1]) == self.id, 0.0, -jnp.inf)
        return jnp.where((history.generated_B == self.count - 1)[:, None], forced_V, logits_BV)


@dataclasses.dataclass(frozen=True)
class MinNewTokens:
    """Excludes the stop ids from the first `count` new tokens; the count is a number, or one per row [B]."""

    count: int | jax.Array

    def __post_init__(self) -> None:
        check_all("MinNewTokens.count", self.count, lambda x: x >= 0, "must be 0 or more")

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        check_ids("stop_ids", history.stop_ids, logits_BV.shape[1])
        stops_V = jnp.isin(jnp.arange(logits_BV.shape[1]), jnp.array(history.stop_ids, jnp.int32))
        return jnp.where(stops_V & (history.generated_B < self.count)[:, None], -jnp.inf, logits_BV)


@dataclasses.dataclass(frozen=True, eq=False)  # hashable for jit with a list or dict too
class LogitBias:
    """Adds a number to the logits of some tokens: {id: number}. -inf excludes a token."""

    bias: Mapping[int, float]

    def __post_init__(self) -> None:
        check_ids("LogitBias.bias", list(self.bias))
        if wrong := {id: value for id, value in self.bias.items() if not value < math.inf}:
            raise ValueError(
                f"LogitBias.bias={wrong} must be numbers below infinity; use ForcedTokens to force a token"
            )

    def __call__(self, logits_BV: jax.Array, history: History) -> jax.Array:
        check_ids("LogitBias.bias", list(self.bias), logits_BV.shape[1])
        bias_V = np.zeros(logits_BV.shape[1], np.float32)
        bias_V[list(self.bias)] = list(self.bias.values())
        return logits_BV + bias_V


def apply_mask(logits_BV: jax.Array, mask_BW: jax.Array) -> jax.Array:
    """Excludes the ids whose bit is 0 in a mask of uint32 words: bit b of word w is id 32 w + b (see `grammars.Matcher`)."""
    ids_V = jnp.arange(logits_BV.shape[1])
    bits_BV = mask_BW[:, ids_V // 32] >> (ids_V % 32).astype(jnp.uint32) & 1
    return jnp.where(bits_BV == 1, logits_BV, -jnp.inf)


def check_ids(name: str, ids: Sequence[int], vocab_size: int | None = None) -> None:
    """Raises ValueError if an id is negative, or outside a vocabulary."""
    if wrong := sorted({id for id in ids if id < 0 or (vocab_size is not None and id >= vocab_size)}):
        limit = "0 or more" if vocab_size is None else f"0 .. {vocab_size - 1}, the ids of the vocabulary"
        raise ValueError(f"{name} has the ids {wrong}; they must be in {limit}")


def count(tokens_BT: jax.Array, counted_BT: jax.Array, vocab_size: int) -> jax.Array:
    """How often each id occurs where `counted_BT`: int32 [B, V]. Ids outside the vocabulary are left out."""
    return jax.vmap(lambda t, w: jnp.zeros(vocab_size, jnp.int32).at[t].add(w.astype(jnp.int32), mode="drop"))(
        tokens_BT, counted_BT
    )


def count_generated(history: History, vocab_size: int) -> jax.Array:
    """How often each id was generated: int32 [B, V]."""
    index_T = jnp.arange(history.tokens_BT.shape[1])
    end_B1 = history.length_B[:, None]
    generated_BT = (end_B1 - history.generated_B[:, None] <= index_T) & (index_T < end_B1)
    return count(history.tokens_BT, generated_BT, vocab_size)


def last_tokens(history: History, number: int) -> jax.Array:
    """The last `number` (K) tokens of each row, int32 [B, K]; -1 before the first one."""
    index_BK = history.length_B[:, None] - number + jnp.arange(number)
    tokens_BK = jnp.take_along_axis(history.tokens_BT, jnp.maximum(index_BK, 0), axis=1)
    return jnp.where(index_BK < 0, -1, tokens_BK)
