"""Speculative decoding: cheap guesses of the next tokens, which the model verifies in one call; its distribution is unchanged.

A proposer (see `proposers`) guesses G tokens of each row, and the model computes the logits after all of them at once. `accept`
keeps the first ones, and draws the token behind them, so that every token has the distribution that `loop.generate` draws it
from (Leviathan et al. 2023; Chen et al. 2023). With `Greedy` the tokens themselves are the same.

Tokens that are not kept are removed by `state.rollback`, so the models must have a cache of tokens, not the state of a
recurrence.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from t5x_like.decoding.loop import Generated, fold_in_each
from t5x_like.decoding.processors import History, Processor, from_prompts, last_tokens, write
from t5x_like.decoding.sampling import Greedy, Sample, without_nan
from t5x_like.decoding.state import prefill_samples, rollback, verify
from t5x_like.types import Model, Params, Sampler

State = dict[str, Any]  # of the loop, with the cache and the proposer's state
Batch = Mapping[str, jax.Array]


@struct.dataclass
class Proposal:
    """Guesses of the next tokens of each row.

    Attributes:
      tokens_BG: token ids, int32.
      count_B: how many of them are guesses; the others are meaningless.
      probs_BGV: the distributions that the tokens were drawn from; None if they were not drawn at random.
    """

    tokens_BG: jax.Array
    count_B: jax.Array
    probs_BGV: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the next token is chosen: the distribution that processors and sampler make of logits.

    Raises:
      ValueError: the sampler is neither `Greedy` nor `Sample`, so that its distribution is not known.
    """

    sampler: Sampler
    processors: Sequence[Processor]
    vocab_size: int

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, Greedy | Sample):
            raise ValueError(
                f"speculative decoding needs the distribution of sampler={self.sampler!r}; use Greedy or Sample, or no proposer"
            )

    def probabilities(self, logits_BV: jax.Array, history: History) -> jax.Array:
        """The distribution [B, V] of the token behind the history. A draft's logits get as many ids as the model has."""
        missing = max(self.vocab_size - logits_BV.shape[1], 0)
        logits_BV = jnp.pad(logits_BV, ((0, 0), (0, missing)), constant_values=-jnp.inf)[:, : self.vocab_size]
        for processor in self.processors:
            logits_BV = processor(logits_BV, history)
        if isinstance(self.sampler, Sample):
            return jax.nn.softmax(self.sampler.restrict(logits_BV))
        return jax.nn.one_hot(jnp.argmax(without_nan(logits_BV), axis=1), self.vocab_size)

    def draw(self, keys_B: jax.Array, probs_BV: jax.Array) -> jax.Array:
        """Draws token ids, int32 [B]."""
        if isinstance(self.sampler, Greedy):  # one-hot, and random numbers for a whole vocabulary take time
            return jnp.argmax(probs_BV, axis=1).astype(jnp.int32)
        return categorical(keys_B, probs_BV)


class Proposer(Protocol):
    """Proposes the next tokens of each row.

    Attributes:
      tokens: the most guesses at a time (G).
      always: whether there are guesses for every row that can use one.
    """

    @property
    def tokens(self) -> int: ...

    @property
    def always(self) -> bool: ...

    def start(self, batch: Batch, length: int, samples: int) -> Any:
        """The proposer's state for a batch of prompts that are continued up to `length` tokens, `samples` times each."""
        ...

    def propose(
        self, state: Any, history: History, most_B: jax.Array, keys_BG: jax.Array, choice: Choice
    ) -> tuple[Proposal, Any]:
        """(guesses of the tokens behind `history`, the next state).

        Of a row's guesses `most_B` can be used, which is 0 where the row has ended. `keys_BG` are random keys.
        """
        ...


@struct.dataclass
class Speculated:
    """Generated tokens, and how many of each row were guessed; the others are the model's own.

    Attributes:
      generated: see `loop.Generated`.
      proposed_B: the number of guesses.
      accepted_B: the number of guesses that are in the result.
    """

    generated: Generated
    proposed_B: jax.Array
    accepted_B: jax.Array


def speculate(
    model: Model,
    params: Params,
    batch: Batch,
    keys_B: jax.Array,
    sampler: Sampler,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    proposer: Proposer,
    processors: Sequence[Processor] = (),
    samples: int = 1,
) -> Speculated:
    """Continues each prompt of a batch as `loop.generate` does, with several tokens per call of the model. Call it under jit.

    The arguments and the shapes with `samples` are those of `generate`. What a row draws depends on its key and its positions,
    not on the rest of the batch, but it is not what `generate` draws with the same key.

    Raises:
      ValueError: a sampler other than `Greedy` and `Sample`, or a proposer that does not fit the model.
    """
    prompts, prompt = batch["decoder_input_tokens"].shape
    length, rows = prompt + max_new_tokens, prompts * samples
    prompt_A = jnp.repeat(jnp.arange(prompts), samples)  # A counts rows, as in `generate`
    keys_A = keys_B if samples == 1 else fold_in_each(keys_B, samples)
    choice = Choice(sampler, processors, model.vocab_size)

    def step(state: State) -> State:
        """Asks for guesses and verifies them."""
        history, ended_B = state["history"], state["ended_B"]
        most_B = jnp.where(ended_B, 0, jnp.minimum(proposer.tokens, max_new_tokens - 1 - history.generated_B))
        keys_BL3 = position_keys(keys_A, history.length_B, proposer.tokens + 1)
        proposal, proposer_state = proposer.propose(state["proposer"], history, most_B, keys_BL3[:, :-1, 2], choice)
        proposal = dataclasses.replace(proposal, count_B=jnp.minimum(proposal.count_B, most_B))
        state |= {"proposer": proposer_state}
        if proposer.always:
            return verify_guesses(state, proposal, keys_BL3[:, :, :2])
        # Without a guess in any row, one token per row takes less time.
        return jax.lax.cond(
            jnp.any(proposal.count_B > 0),
            lambda: verify_guesses(state, proposal, keys_BL3[:, :, :2]),
            lambda: verify_guesses(state, no_guess, keys_BL3[:, :1, :2]),
        )

    def verify_guesses(state: State, proposal: Proposal, keys_BL2: jax.Array) -> State:
        """Appends the guesses that the model accepts, and the token behind them."""
        tokens_BL = jnp.concatenate([last_tokens(state["history"], 1), proposal.tokens_BG], axis=1)
        count_B = jnp.where(state["ended_B"], 0, 1 + proposal.count_B)
        logits_BLV, cache = verify(model, params, state["cache"], tokens_BL, count_B)
        state = advance(state, proposal, logits_BLV, keys_BL2, choice, max_new_tokens)
        return state | {"cache": rollback(cache, state["history"].length_B - 1)}

    none_B = jnp.zeros(rows, jnp.int32)
    no_guess = Proposal(jnp.zeros((rows, 0), jnp.int32), none_B)
    empty: State = {
        "history": from_prompts(batch, max_new_tokens, stop_ids).take(prompt_A),
        "log_probs_BN": jnp.zeros((rows, max_new_tokens)),
        "ended_B": jnp.zeros(rows, bool),
        "proposed_B": none_B,
        "accepted_B": none_B,
    }
    logits_BV, cache = prefill_samples(model, params, batch, length, samples)
    keys_B13 = position_keys(keys_A, empty["history"].length_B, 1)
    first = advance(empty, no_guess, logits_BV[:, None], keys_B13[:, :, :2], choice, max_new_tokens)
    first |= {"cache": cache, "proposer": proposer.start(batch, length, samples)}
    last = jax.lax.while_loop(lambda state: ~jnp.all(state["ended_B"]), step, first)
    generated = read_generated(last["history"], last["log_probs_BN"])
    result = Speculated(generated, last["proposed_B"], last["accepted_B"])
    return result if samples == 1 else jax.tree.map(lambda x: x.reshape(prompts, samples, *x.shape[1:]), result)


def position_keys(keys_B: jax.Array, start_B: jax.Array, count: int) -> jax.Array:
    """Three random keys for each of `count` positions from `start_B` on: [B, count, 3]."""
    position_BL = start_B[:, None] + jnp.arange(count)
    return jax.vmap(jax.vmap(lambda key, i: jax.random.split(jax.random.fold_in(key, i), 3), (None, 0)))(
        keys_B, position_BL
    )


def advance(
    state: State, proposal: Proposal, logits_BLV: jax.Array, keys_BL2: jax.Array, choice: Choice, most: int
) -> State:
    """The state with the accepted guesses, and the token behind them, appended to every row that has not ended."""
    history = state["history"]
    probs_BLV = verified_probabilities(choice, logits_BLV, history, proposal.tokens_BG)
    accepted_B, next_B = accept(
        keys_BL2, proposal.tokens_BG, proposal.count_B, probs_BLV, proposal.probs_BGV, choice.draw
    )
    index_L, accepted_B1 = jnp.arange(logits_BLV.shape[1]), accepted_B[:, None]
    tokens_BL = jnp.where(index_L == accepted_B1, next_B[:, None], jnp.pad(proposal.tokens_BG, ((0, 0), (0, 1))))
    stops_BL = jnp.isin(tokens_BL, jnp.array(history.stop_ids, jnp.int32)) & (index_L <= accepted_B1)
    stopped_B = jnp.any(stops_BL, axis=1)
    new_B = jnp.where(stopped_B, jnp.argmax(stops_BL, axis=1), accepted_B) + 1
    new_B = jnp.where(state["ended_B"], 0, new_B)
    logit_BL = jnp.take_along_axis(logits_BLV, tokens_BL[:, :, None], axis=2)[:, :, 0]
    log_prob_BL = logit_BL - jax.nn.logsumexp(logits_BLV, axis=2)
    return state | {
        "history": history.extend(tokens_BL, new_B),
        "log_probs_BN": write(state["log_probs_BN"], history.generated_B, log_prob_BL, new_B),
        "ended_B": state["ended_B"] | stopped_B | (history.generated_B + new_B == most),
        "proposed_B": state["proposed_B"] + proposal.count_B,
        "accepted_B": state["accepted_B"] + jnp.minimum(accepted_B, new_B),
    }


def verified_probabilities(choice: Choice, logits_BLV: jax.Array, history: History, guesses_BG: jax.Array) -> jax.Array:
    """The distributions [B, L, V] at the end of the history and behind each of the guesses."""

    def at(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        count, logits_BV = inputs
        return choice.probabilities(logits_BV, history.extend(guesses_BG, jnp.full_like(history.length_B, count)))

    inputs = jnp.arange(logits_BLV.shape[1]), jnp.moveaxis(logits_BLV, 1, 0)
    # One after the other, a processor sees the same shapes as in `generate`.
    probs_LBV = jax.lax.map(at, inputs) if choice.processors else jax.vmap(at)(inputs)
    return jnp.moveaxis(probs_LBV, 0, 1)


def accept(
    keys_BL2: jax.Array,
    draft_BG: jax.Array,
    count_B: jax.Array,
    target_BLV: jax.Array,
    draft_BGV: jax.Array | None = None,
    draw: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Speculative sampling: how many draft tokens are kept, and the token behind them (Leviathan et al. 2023, algorithm 1).

    Draft token x_i was drawn from q_i = draft_BGV[:, i], and the model's distribution there is p_i = target_BLV[:, i]. Tokens are
    kept while u_i < p_i(x_i) / q_i(x_i), for u_i uniform in [0, 1), so with probability sum_v min(p_i(v), q_i(v)). The next one
    is drawn from max(p_i - q_i, 0), normalised, where the first one is not kept, or from p_i behind the last of the `count_B`
    draft tokens. Kept tokens and the next one then have the distribution p.

    None for draft_BGV means that the draft tokens were not drawn at random: q_i(x_i) = 1. If p is one-hot, as in greedy decoding,
    tokens are kept while they are the most likely ones.

    Args:
      keys_BL2: two random keys for each position, L = G + 1.
      draft_BG: token ids.
      count_B: the number of draft tokens; those behind are ignored.
      target_BLV: probabilities.
      draft_BGV: probabilities.
      draw: draws ids [B] from distributions [B, V] that need not add up to 1, with keys [B]; by default at random.

    Returns:
      (the number of draft tokens that are kept, the next token), both int32 [B].
    """
    guesses = draft_BG.shape[1]
    uniform_BG = jax.vmap(jax.vmap(jax.random.uniform))(keys_BL2[:, :guesses, 0])
    p_BG = jnp.take_along_axis(target_BLV[:, :guesses], draft_BG[:, :, None], axis=2)[:, :, 0]
    q_BG = 1.0 if draft_BGV is None else jnp.take_along_axis(draft_BGV, draft_BG[:, :, None], axis=2)[:, :, 0]
    kept_BG = (uniform_BG * q_BG < p_BG) & (jnp.arange(guesses) < count_B[:, None])
    kept_B = jnp.sum(jnp.cumprod(kept_BG, axis=1, dtype=jnp.int32), axis=1)

    def behind_kept(x_BL: jax.Array) -> jax.Array:
        return jax.vmap(lambda x_L, i: x_L[i])(x_BL, kept_B)

    p_BV = behind_kept(target_BLV)
    if draft_BGV is None:
        q_BV = jax.nn.one_hot(behind_kept(jnp.pad(draft_BG, ((0, 0), (0, 1)))), p_BV.shape[1])
    else:
        q_BV = behind_kept(jnp.pad(draft_BGV, ((0, 0), (0, 1), (0, 0))))
    rest_BV = jnp.maximum(p_BV - jnp.where((kept_B < count_B)[:, None], q_BV, 0), 0)
    # A token of which p = q is only rejected by rounding; then nothing is left.
    rest_BV = jnp.where(jnp.any(rest_BV > 0, axis=1, keepdims=True), rest_BV, p_BV)
    return kept_B, (draw or categorical)(behind_kept(keys_BL2[:, :, 1]), rest_BV)


def categorical(keys_B: jax.Array, weights_BV: jax.Array) -> jax.Array:
    """Draws ids with probabilities proportional to `weights_BV`, int32 [B]."""
    return jax.vmap(jax.random.categorical)(keys_B, jnp.log(weights_BV)).astype(jnp.int32)


def read_generated(history: History, log_probs_BN: jax.Array) -> Generated:
    """The generated tokens at the end of a history."""
    index_N = jnp.arange(log_probs_BN.shape[1])
    start_B1 = (history.length_B - history.generated_B)[:, None]
    tokens_BN = jnp.take_along_axis(history.tokens_BT, start_B1 + index_N, axis=1)
    return Generated(jnp.where(index_N < history.generated_B[:, None], tokens_BN, 0), log_probs_BN, history.generated_B)
