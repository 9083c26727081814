"""Beam search: the K most likely continuations of each prompt, with a length penalty.

At every step the best continuations of a row's K beams compete. Those that end are compared by score, the sum of their
log-probabilities over `penalty(number of tokens)`, with the K best ended so far; the best K of the others go on. As in Hugging
Face, only a step's best K continuations may end; T5X lets its best 2 K.

Groups of beams (diverse beam search, Vijayakumar et al. 2016) search one after the other at every step, each with K / G beams of
its own. A token that n beams of earlier groups chose at this step has `diversity` n subtracted from its log-probability, which
also counts in the score, as in Hugging Face.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t5x_like.decoding.loop import Generated
from t5x_like.decoding.processors import History, Processor, from_prompts
from t5x_like.decoding.state import decode_step, prefill, row_axes, take
from t5x_like.types import Model, Params

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Power:
    """n ** exponent: 0 prefers short texts, 1 is the mean log-probability, as in Hugging Face's `length_penalty`."""

    exponent: float = 1.0

    def __call__(self, tokens: jax.Array | int) -> jax.Array:
        return jnp.asarray(tokens, jnp.float32) ** self.exponent


@dataclasses.dataclass(frozen=True)
class Gnmt:
    """((5 + n) / 6) ** alpha (Wu et al. 2016), as in T5X."""

    alpha: float = 0.6

    def __call__(self, tokens: jax.Array | int) -> jax.Array:
        return ((5 + jnp.asarray(tokens, jnp.float32)) / 6) ** self.alpha


# When a row with K ended beams stops: (best sum of the running beams, worst ended score, tokens so far, most, penalty) -> bool.
Stop = Callable[[jax.Array, jax.Array, jax.Array, int, Callable], jax.Array]


@dataclasses.dataclass(frozen=True)
class WhenFull:
    """A row stops at once when K beams have ended (Hugging Face: early_stopping=True)."""

    def __call__(self, best: jax.Array, worst: jax.Array, tokens: jax.Array, most: int, penalty: Callable) -> jax.Array:
        return jnp.ones_like(best, bool)


@dataclasses.dataclass(frozen=True)
class WhenWorse:
    """A row stops if no running beam would have a better score if it ended now (Hugging Face's default)."""

    def __call__(self, best: jax.Array, worst: jax.Array, tokens: jax.Array, most: int, penalty: Callable) -> jax.Array:
        return best / penalty(tokens) <= worst


@dataclasses.dataclass(frozen=True)
class WhenHopeless:
    """A row stops if no running beam can reach a better score at any length, as in T5X."""

    def __call__(self, best: jax.Array, worst: jax.Array, tokens: jax.Array, most: int, penalty: Callable) -> jax.Array:
        return jnp.maximum(best / penalty(tokens), best / penalty(most)) <= worst


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search with `beams` beams in `groups`; see the module. `returned` of them are in the results of `inference.infer`."""

    beams: int = 4
    penalty: Callable = Power(1.0)
    stop: Stop = WhenWorse()
    returned: int = 1
    groups: int = 1
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.beams, int) or self.beams < 1:
            raise ValueError(f"BeamSearch.beams={self.beams!r} is not a positive whole number; set it to 1 or more")
        if not isinstance(self.returned, int) or not 1 <= self.returned <= self.beams:
            raise ValueError(f"BeamSearch.returned={self.returned!r} is not in 1 .. beams={self.beams}")
        if not isinstance(self.groups, int) or self.groups < 1 or self.beams % self.groups:
            raise ValueError(f"BeamSearch.groups={self.groups!r} does not divide beams={self.beams} into equal groups")
        if not 0 <= self.diversity < math.inf:
            raise ValueError(f"BeamSearch.diversity={self.diversity} must be 0 or more, and finite")
        if bool(self.diversity) != (self.groups > 1):
            raise ValueError(
                f"BeamSearch.diversity={self.diversity} and groups={self.groups} need each other: groups without diversity are "
                "equal, and one group has no other to differ from"
            )


@struct.dataclass
class Beams:
    """Continuations of each row, the best score first. Tokens and log-probabilities after a continuation's end are 0.

    Attributes:
      tokens_BKN: token ids, int32.
      log_probs_BKN: log-probabilities (nats).
      lengths_BK: number of tokens, including the stop id; 0 where a row has fewer than K continuations.
      scores_BK: sum of log-probabilities / penalty(length); -inf where there is no continuation.
    """

    tokens_BKN: jax.Array
    log_probs_BKN: jax.Array
    lengths_BK: jax.Array
    scores_BK: jax.Array

    def best(self) -> Generated:
        """The best continuation of each row."""
        return Generated(self.tokens_BKN[:, 0], self.log_probs_BKN[:, 0], self.lengths_BK[:, 0])


def search(
    model: Model,
    params: Params,
    batch: Mapping[str, jax.Array],
    beam_search: BeamSearch,
    max_new_tokens: int,
    stop_ids: tuple[int, ...] = (1,),
    processors: Sequence[Processor] = (),
) -> Beams:
    """Finds the continuations of up to `max_new_tokens` (N) tokens of a batch of prompts, see `loop.generate`. Call it under jit.

    A continuation ends with any of `stop_ids`, or with its N-th token. `processors` change the
    log-probabilities that are added up.
    """
    rows, prompt = batch["decoder_input_tokens"].shape
    count, most = beam_search.beams, max_new_tokens
    size = count // beam_search.groups
    logits_BV, cache = prefill(model, params, batch, prompt + most)
    axes = row_axes(model, params, batch, prompt + most)
    first_row_B = count * jnp.arange(rows)

    def step(state: State) -> State:
        """Feeds the last tokens of the running beams, and lets their continuations compete."""
        origin_A = (first_row_B[:, None] + state["origin_BK"]).reshape(-1)
        token_A = jnp.take(state["running"]["tokens_BKN"], state["n"] - 1, axis=2).reshape(-1)
        live_A = jnp.repeat(state["live_BG"].reshape(-1), size)
        history = None if state["history"] is None else state["history"].take(origin_A).append(token_A, ~live_A)
        logits_AV, cache = decode_step(model, params, take(axes, state["cache"], origin_A), token_A, live_A)
        return advance(state, logits_AV, history) | {"cache": cache}

    def advance(state: State, logits_AV: jax.Array, history: History | None) -> State:
        """Lets the continuations compete in each group."""
        log_probs_BKV = jax.nn.log_softmax(logits_AV.astype(jnp.float32)).reshape(rows, count, -1)
        groups: list[State] = []
        for g in range(beam_search.groups):
            beams_J = jnp.arange(g * size, (g + 1) * size)
            log_probs_BJV = log_probs_BKV[:, beams_J] - beam_search.diversity * count_chosen(
                state, groups, log_probs_BKV
            )
            if history is not None:
                of_group = history.take((first_row_B[:, None] + beams_J).reshape(-1))
                log_probs_NV = log_probs_BJV.reshape(rows * size, -1)
                for processor in processors:
                    log_probs_NV = processor(log_probs_NV, of_group)
                log_probs_BJV = log_probs_NV.reshape(log_probs_BJV.shape)
            groups.append(compete(take_group(state, g, size), log_probs_BJV, beam_search, stop_ids))
        return join(groups, size) | {"n": state["n"] + 1, "history": history}

    # A counts the B K rows of beams.
    prompt_A = jnp.repeat(jnp.arange(rows), count)
    history = from_prompts(batch, most, stop_ids).take(prompt_A) if processors else None
    first = advance(empty_state(rows, beam_search, most), logits_BV[prompt_A], history)
    first["cache"] = take(axes, cache, prompt_A)
    last = jax.lax.while_loop(lambda s: (s["n"] < most) & jnp.any(s["live_BG"]), step, first)
    best_BK = jax.lax.top_k(last["ended"]["scores_BK"], count)[1]
    ended = {name: choose(x_BK, best_BK) for name, x_BK in last["ended"].items()}
    return Beams(ended["tokens_BKN"], ended["log_probs_BKN"], ended["lengths_BK"], ended["scores_BK"])


def empty_state(rows: int, beam_search: BeamSearch, most: int) -> State:
    """The state before the first step: one running beam per group without tokens, and none that has ended."""
    count, groups = beam_search.beams, beam_search.groups
    tokens_BKN = jnp.zeros((rows, count, most), jnp.int32)
    beams = {"tokens_BKN": tokens_BKN, "log_probs_BKN": jnp.zeros_like(tokens_BKN, jnp.float32)}
    none_BK = jnp.full((rows, count), -jnp.inf)
    return {
        "n": jnp.zeros((), jnp.int32),
        "live_BG": jnp.ones((rows, groups), bool),
        "running": beams | {"sums_BK": none_BK.at[:, :: count // groups].set(0.0)},
        "ended": beams | {"scores_BK": none_BK, "lengths_BK": jnp.zeros((rows, count), jnp.int32)},
    }


def take_group(state: State, g: int, size: int) -> State:
    """The state of one group of beams."""
    beams = {
        name: jax.tree.map(lambda x: x[:, g * size : (g + 1) * size], state[name]) for name in ("running", "ended")
    }
    return beams | {"n": state["n"], "live_B": state["live_BG"][:, g]}


def join(groups: Sequence[State], size: int) -> State:
    """The state of all groups."""
    beams = {
        name: jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *(group[name] for group in groups))
        for name in ("running", "ended")
    }
    origins = [group["origin_BK"] + g * size for g, group in enumerate(groups)]
    live_BG = jnp.stack([group["live_B"] for group in groups], axis=1)
    return beams | {"live_BG": live_BG, "origin_BK": jnp.concatenate(origins, axis=1)}


def count_chosen(state: State, groups: Sequence[State], log_probs_BKV: jax.Array) -> jax.Array:
    """How many beams of the first `groups` chose each token at this step, float32 [B, 1, V]."""
    counts_BV = jnp.zeros_like(log_probs_BKV[:, 0])
    for g, group in enumerate(groups):
        token_BJ = jnp.take(group["running"]["tokens_BKN"], state["n"], axis=2)
        live_B = state["live_BG"][:, g].astype(counts_BV.dtype)
        counts_BV = jax.vmap(lambda counts_V, token_J, live: counts_V.at[token_J].add(live))(
            counts_BV, token_BJ, live_B
        )
    return counts_BV[:, None]


def compete(state: State, log_probs_BKV: jax.Array, beam_search: BeamSearch, stop_ids: tuple[int, ...]) -> State:
    """The state after one more token; `origin_BK` are the beams that the running ones continue."""
    penalty, n = beam_search.penalty, state["n"]
    running, ended = state["running"], state["ended"]
    rows, count, vocabulary = log_probs_BKV.shape
    most = running["tokens_BKN"].shape[2]
    sums_BKV = running["sums_BK"][..., None] + log_probs_BKV
    # Of each beam len(stop_ids) continuations may end, so that K are left in any case.
    candidates = min((1 + max(len(stop_ids), 1)) * count, count * vocabulary)
    sums_BC, index_BC = jax.lax.top_k(sums_BKV.reshape(rows, -1), candidates)
    origin_BC, token_BC = index_BC // vocabulary, index_BC % vocabulary
    log_prob_BC = jnp.take_along_axis(log_probs_BKV.reshape(rows, -1), index_BC, axis=1)
    tokens_BCN = choose(running["tokens_BKN"], origin_BC).at[:, :, n].set(token_BC)
    log_probs_BCN = choose(running["log_probs_BKN"], origin_BC).at[:, :, n].set(log_prob_BC)

    ends_BC = jnp.isin(token_BC, jnp.array(stop_ids, jnp.int32)) | (n + 1 == most)
    # Only the best K may end: the others are there to replace them.
    counts_BC = ends_BC & (jnp.arange(candidates) < count) & state["live_B"][:, None]
    scores_BC = jnp.where(counts_BC, sums_BC / penalty(n + 1), -jnp.inf)
    new = {"tokens_BKN": tokens_BCN, "log_probs_BKN": log_probs_BCN, "scores_BK": scores_BC}
    new["lengths_BK"] = jnp.where(scores_BC > -jnp.inf, n + 1, 0)
    both = {name: jnp.concatenate([ended[name], new[name]], axis=1) for name in ended}
    ended = {name: choose(x, jax.lax.top_k(both["scores_BK"], count)[1]) for name, x in both.items()}

    left_BK = jax.lax.top_k(jnp.where(ends_BC, -jnp.inf, sums_BC), count)[1]
    sums_BK = choose(jnp.where(ends_BC, -jnp.inf, sums_BC), left_BK)
    running = {"tokens_BKN": choose(tokens_BCN, left_BK), "log_probs_BKN": choose(log_probs_BCN, left_BK)}
    worst_B = jnp.min(ended["scores_BK"], axis=1)
    done_B = (worst_B > -jnp.inf) & beam_search.stop(sums_BK[:, 0], worst_B, n + 1, most, penalty)
    return {
        "n": n + 1,
        "live_B": state["live_B"] & ~done_B,
        "running": running | {"sums_BK": sums_BK},
        "ended": ended,
        "origin_BK": choose(origin_BC, left_BK),
    }


def choose(x_BK: jax.Array, index_BJ: jax.Array) -> jax.Array:
    """x[b, index[b, j]], for x with any further dims."""
    return jax.vmap(lambda x, index: x[index])(x_BK, index_BJ)
