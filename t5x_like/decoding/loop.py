"""Cached generation: one forward pass over the prompts, then one token per step until every row has ended."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t5x_like.decoding.processors import Processor, from_prompts
from t5x_like.decoding.state import decode_step, prefill_samples
from t5x_like.types import Model, Params, Sampler

State = dict[str, Any]  # of the loop, and the cache


@struct.dataclass
class Generated:
    """Generated tokens. A row ends with a stop id; tokens and log-probabilities after it are 0.

    Attributes:
      tokens_BN: token ids, int32.
      log_probs_BN: log-probabilities (nats) under the model, before processors and the sampler change its logits.
      lengths_B: number of tokens per row, including the stop id.
    """

    tokens_BN: jax.Array
    log_probs_BN: jax.Array
    lengths_B: jax.Array


def generate(
    model: Model,
    params: Params,
    batch: Mapping[str, jax.Array],
    keys_B: jax.Array,
    sampler: Sampler,
    max_new_tokens: int,
    stop_ids: tuple[int, ...] = (1,),
    processors: Sequence[Processor] = (),
    samples: int = 1,
) -> Generated:
    """Continues each prompt of a batch by up to `max_new_tokens` (N) tokens. Call it under jit.

    `batch` has `decoder_input_tokens`, `decoder_positions` and `decoder_segment_ids` [B, P]: prompts are left-aligned and
    padding has segment 0. Encoder-decoder models also need the encoder's arrays. The token at position i of row b is sampled
    with the key fold_in(keys_B[b], i), so it does not depend on the rest of the batch. A row ends at any of `stop_ids`.
    `processors` change the logits before the sampler, in their order.

    Each prompt is read once and continued `samples` times, sample s with the key fold_in(keys_B[b], s) instead of keys_B[b]; the
    arrays of the result are then [B, samples, ...].
    """
    prompts, prompt = batch["decoder_input_tokens"].shape
    prompt_A = jnp.repeat(jnp.arange(prompts), samples)
    rows = prompts * samples  # A counts them; those of a prompt are neighbours
    keys_A = keys_B if samples == 1 else fold_in_each(keys_B, samples)
    stops_S = jnp.array(stop_ids, jnp.int32)

    def choose(logits_BV: jax.Array, position_B: jax.Array, state: State) -> tuple[jax.Array, jax.Array]:
        """Samples the next tokens: (ids, log-probabilities), 0 for rows that have ended."""
        ended_B, processed_BV = state["ended_B"], logits_BV
        for processor in processors:
            processed_BV = processor(processed_BV, state["history"])
        token_B = sampler(jax.vmap(jax.random.fold_in)(keys_A, position_B), processed_BV)
        log_prob_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], axis=1)[:, 0]
        return jnp.where(ended_B, 0, token_B), jnp.where(ended_B, 0.0, log_prob_B)

    def write(state: State, token_B: jax.Array, log_prob_B: jax.Array) -> State:
        """Appends a token to every row that has not ended."""
        n, history = state["n"], state["history"]
        return {
            "n": n + 1,
            "token_B": token_B,
            "ended_B": state["ended_B"] | jnp.isin(token_B, stops_S),
            "tokens_BN": jax.lax.dynamic_update_slice(state["tokens_BN"], token_B[:, None], (0, n)),
            "log_probs_BN": jax.lax.dynamic_update_slice(state["log_probs_BN"], log_prob_B[:, None], (0, n)),
            "lengths_B": state["lengths_B"] + ~state["ended_B"],
            "history": None if history is None else history.append(token_B, state["ended_B"]),
        }

    def step(state: State) -> State:
        """Feeds the last tokens and appends the next ones."""
        logits_BV, cache = decode_step(model, params, state["cache"], state["token_B"], ~state["ended_B"])
        position_B = length_B + state["n"]
        return write(state, *choose(logits_BV, position_B, state)) | {"cache": cache}

    length_B = jnp.sum(batch["decoder_segment_ids"] > 0, axis=1)[prompt_A]
    empty = {
        "n": jnp.zeros((), jnp.int32),
        "ended_B": jnp.zeros(rows, bool),
        "tokens_BN": jnp.zeros((rows, max_new_tokens), jnp.int32),
        "log_probs_BN": jnp.zeros((rows, max_new_tokens)),
        "lengths_B": jnp.zeros(rows, jnp.int32),
        "history": from_prompts(batch, max_new_tokens, stop_ids).take(prompt_A) if processors else None,
    }
    logits_BV, cache = prefill_samples(model, params, batch, prompt + max_new_tokens, samples)
    first = write(empty, *choose(logits_BV, length_B, empty)) | {"cache": cache}
    final = jax.lax.while_loop(lambda s: (s["n"] < max_new_tokens) & ~jnp.all(s["ended_B"]), step, first)
    generated = Generated(final["tokens_BN"], final["log_probs_BN"], final["lengths_B"])
    if samples == 1:
        return generated
    return jax.tree.map(lambda x: x.reshape(prompts, samples, *x.shape[1:]), generated)


def fold_in_each(keys_B: jax.Array, count: int) -> jax.Array:
    """Folds 0 .. count - 1 into every key: [B * count]."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(keys_B, jnp.arange(count)).reshape(-1, *keys_B.shape[1:])
