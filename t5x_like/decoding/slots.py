"""Rows of a running batch that start and end independently: what a server's continuous batching is made of.

Every row (a slot) is idle, or reads the prompt of a request in chunks (`read`), or is live: `decode` chooses its next tokens from
its logits and appends them to the cache. A row's result depends on its own tokens and settings alone. All functions are pure; the
sizes (rows, tokens per row) are those of the arrays, and `resize` changes them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t5x_like.decoding import state
from t5x_like.decoding.processors import (
    FrequencyPenalty,
    History,
    MinNewTokens,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    apply_mask,
    write,
)
from t5x_like.decoding.sampling import Sample, without_nan
from t5x_like.types import Model, Params, Sampler

Array = Any  # on a device or, of settings, on the host; or the shape of one


class RowSettings(struct.PyTreeNode):
    """How each row is continued; the names are those of `sampling.Sample` and `processors`.

    Attributes:
      keys_B2: random keys, uint32; the token at position i is sampled with fold_in(key, i).
      temperature_B: 0 chooses the most likely token.
      most_B: the number of new tokens after which the row ends.
      stops_B: whether the stop ids end the row.
      bias_ids_BJ, bias_BJ: numbers that are added to the logits of ids; ids outside the vocabulary are left out.
    """

    keys_B2: Array
    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    min_p_B: Array
    typical_p_B: Array
    repetition_B: Array
    frequency_B: Array
    presence_B: Array
    min_new_B: Array
    most_B: Array
    stops_B: Array
    bias_ids_BJ: Array
    bias_BJ: Array


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How all rows choose tokens, in place of what their settings say of it: `processors` in their order, then the sampler."""

    sampler: Sampler
    processors: Sequence[Processor] = ()


class Slots(struct.PyTreeNode):
    """The rows. `logits_BV` are those of the next token, of rows that are `live_B`."""

    cache: state.Cache
    logits_BV: Array
    history: History
    live_B: Array
    settings: RowSettings


class Decoded(struct.PyTreeNode):
    """The tokens that `decode` chose, K at most; those behind `counts_B` are 0.

    Attributes:
      log_probs_BK: log-probabilities under the model.
      processed_BK: log-probabilities after processors and, unless the temperature is 0, the sampler's changes.
      top_ids_BKN, top_BKN: the N most likely tokens and their log-probabilities under the model.
      live_B: the rows that go on.
    """

    tokens_BK: Array
    log_probs_BK: Array
    processed_BK: Array
    top_ids_BKN: Array
    top_BKN: Array
    counts_B: Array
    live_B: Array


def shapes(
    model: Model,
    params: Params,
    rows: int,
    length: int,
    inputs: int,
    prefix: bool,
    stop_ids: Sequence[int],
    biases: int,
) -> Slots:
    """The shapes of `rows` slots of `length` tokens, and `inputs` tokens of an encoder."""
    batch = {f"decoder_{name}": int_shape(rows, 1) for name in ("input_tokens", "positions", "segment_ids")}
    if prefix:
        batch["decoder_prefix"] = int_shape(rows, 1)
    if model.encoder_decoder:
        batch |= {f"encoder_{name}": int_shape(rows, inputs) for name in ("input_tokens", "positions", "segment_ids")}
    logits_BV, cache = jax.eval_shape(lambda p, b: state.prefill(model, p, b, length), params, batch)
    tokens: Any = int_shape(rows, length)
    count: Any = int_shape(rows)
    history = History(tokens, count, count, tuple(stop_ids))
    settings = RowSettings(
        keys_B2=jax.ShapeDtypeStruct((rows, 2), jnp.uint32),
        stops_B=jax.ShapeDtypeStruct((rows,), jnp.bool_),
        bias_ids_BJ=int_shape(rows, biases),
        bias_BJ=jax.ShapeDtypeStruct((rows, biases), jnp.float32),
        **{f"{name}_B": int_shape(rows) for name in ("top_k", "min_new", "most")},
        **{f"{name}_B": jax.ShapeDtypeStruct((rows,), jnp.float32) for name in NUMBERS},
    )
    return Slots(cache, logits_BV, history, jax.ShapeDtypeStruct((rows,), jnp.bool_), settings)


NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition", "frequency", "presence")


def int_shape(*shape: int) -> jax.ShapeDtypeStruct:
    """The shape of an int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def empty(like: Slots) -> Slots:
    """Idle rows of these shapes."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def resize(axes: Slots, slots: Slots, index_A: jax.Array, like: Slots) -> Slots:
    """Rows `index_A` of the slots, cut or padded with zeros to the shapes of `like`, of which there are as many rows."""
    return jax.tree.map(fit, state.take(axes, slots, index_A), like)


def fit(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Cuts an array, or pads it with zeros, to a shape."""
    cut = x[tuple(slice(size) for size in like.shape)]
    return jnp.pad(cut, [(0, new - old) for new, old in zip(like.shape, cut.shape, strict=True)])


def read(
    model: Model,
    params: Params,
    axes: Slots,
    slots: Slots,
    slot_R: jax.Array,
    start_R: jax.Array,
    batch: Mapping[str, jax.Array],
    complete_R: jax.Array,
    settings: RowSettings,
) -> Slots:
    """Reads a chunk of R prompts into rows `slot_R`; slots beyond the end are left out.

    A row goes on from its first `start_R` tokens. `batch` has the chunk's `decoder_input_tokens` and `decoder_segment_ids`
    [R, P], padded on the right. Rows become live when their prompt is `complete_R`.
    """
    rows = state.take(axes, slots, jnp.minimum(slot_R, slots.live_B.shape[0] - 1))
    segments_RP = batch["decoder_segment_ids"]
    batch = {**batch, "decoder_positions": start_R[:, None] + jnp.arange(segments_RP.shape[1], dtype=jnp.int32)}
    cache = state.rollback(rows.cache, start_R)
    logits_RV, cache = state.prefill(model, params, batch, cache["segments"].shape[1], cache)
    history = with_prompt(rows.history, start_R, batch["decoder_input_tokens"], segments_RP)
    return state.insert(axes, slots, slot_R, Slots(cache, logits_RV, history, complete_R, settings))


def read_inputs(
    model: Model,
    params: Params,
    axes: Slots,
    slots: Slots,
    slot_R: jax.Array,
    batch: Mapping[str, jax.Array],
    settings: RowSettings,
) -> Slots:
    """Reads the inputs of R rows of an encoder-decoder and the decoder's start tokens [R, 1]; the rows become live."""
    like = jax.eval_shape(lambda slots: state.take(axes, slots, slot_R), slots)
    logits_RV, cache = state.prefill(model, params, batch, like.history.tokens_BT.shape[1])
    tokens_R1, segments_R1 = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
    history = jax.tree.map(jnp.zeros_like, like.history)
    history = with_prompt(history, jnp.zeros_like(slot_R), tokens_R1, segments_R1)
    rows = Slots(cache, logits_RV, history, jnp.ones_like(slot_R, bool), settings)
    # The encoder may have read fewer tokens than the slots hold.
    return state.insert(axes, slots, slot_R, jax.tree.map(fit, rows, like))


def with_prompt(history: History, start_R: jax.Array, tokens_RP: jax.Array, segments_RP: jax.Array) -> History:
    """The history of prompts: the first `start_R` tokens, and then the tokens whose segment is not 0."""
    count_R = jnp.sum(segments_RP > 0, axis=1, dtype=jnp.int32)
    tokens_RT = write(history.tokens_BT, start_R, tokens_RP, count_R)
    return History(tokens_RT, start_R + count_R, jnp.zeros_like(start_R), history.stop_ids)


def decode(
    model: Model,
    params: Params,
    slots: Slots,
    live_B: jax.Array,
    steps: jax.Array,
    most: int,
    top: int,
    mask_BW: jax.Array | None = None,
    strategy: Strategy | None = None,
) -> tuple[Slots, Decoded]:
    """Chooses up to `steps` (at most `most`, K) tokens of every live row that is also `live_B`; the other rows become idle.

    `top` (N) alternatives are reported per token. `mask_BW` has a bit for each id that may be the next token, so it needs
    steps = 1. Tokens are chosen by the `strategy`; by None as the settings of each row say.
    """
    rows = len(live_B)
    none_BK, none_BKN = jnp.zeros((rows, most)), jnp.zeros((rows, most, top))
    slots = slots.replace(live_B=slots.live_B & live_B)
    decoded = Decoded(
        tokens_BK=none_BK.astype(jnp.int32),
        log_probs_BK=none_BK,
        processed_BK=none_BK,
        top_ids_BKN=none_BKN.astype(jnp.int32),
        top_BKN=none_BKN,
        counts_B=jnp.zeros(rows, jnp.int32),
        live_B=slots.live_B,
    )

    def step(carry: tuple[jax.Array, Slots, Decoded]) -> tuple[jax.Array, Slots, Decoded]:
        k, slots, decoded = carry
        chosen = choose(slots, top, mask_BW, strategy)
        token_B, was_live_B = chosen["tokens_BK"], slots.live_B
        history = slots.history.append(token_B, ~was_live_B)
        stops_B = jnp.isin(token_B, jnp.array(history.stop_ids, jnp.int32)) & slots.settings.stops_B
        live_B = was_live_B & ~stops_B & (history.generated_B < slots.settings.most_B)
        logits_BV, cache = state.decode_step(model, params, slots.cache, token_B, live_B)
        columns = {name: write_column(getattr(decoded, name), k, x, was_live_B) for name, x in chosen.items()}
        decoded = decoded.replace(counts_B=decoded.counts_B + was_live_B, live_B=live_B, **columns)
        return k + 1, Slots(cache, logits_BV, history, live_B, slots.settings), decoded

    def goes_on(carry: tuple[jax.Array, Slots, Decoded]) -> jax.Array:
        return (carry[0] < jnp.minimum(steps, most)) & jnp.any(carry[1].live_B)

    _, slots, decoded = jax.lax.while_loop(goes_on, step, (jnp.zeros((), jnp.int32), slots, decoded))
    return slots, decoded


def write_column(into_BK: jax.Array, k: jax.Array, new_B: jax.Array, live_B: jax.Array) -> jax.Array:
    """Writes column k, 0 for rows that are not live."""
    live_B = live_B.reshape(live_B.shape + (1,) * (new_B.ndim - 1))
    return into_BK.at[:, k].set(jnp.where(live_B, new_B, 0))


def choose(slots: Slots, top: int, mask_BW: jax.Array | None, strategy: Strategy | None) -> dict[str, jax.Array]:
    """The next token of every row, as the fields of `Decoded` without K."""
    logits_BV = processed_BV = slots.logits_BV
    if strategy is None:
        processed_BV = process(logits_BV, slots.history, slots.settings)
    for processor in () if strategy is None else strategy.processors:
        processed_BV = processor(processed_BV, slots.history)
    if mask_BW is not None:
        processed_BV = apply_mask(processed_BV, mask_BW)
    keys_B2 = jax.vmap(jax.random.fold_in)(slots.settings.keys_B2, slots.history.length_B)
    if strategy is None:
        token_B, restricted_BV = sample_by_row(slots, processed_BV, keys_B2)
    else:
        token_B = strategy.sampler(keys_B2, processed_BV)
        sampler = strategy.sampler
        restricted_BV = sampler.restrict(processed_BV) if isinstance(sampler, Sample) else processed_BV
    log_probs_BV = jax.nn.log_softmax(logits_BV)
    top_BN, top_ids_BN = jax.lax.top_k(log_probs_BV, top)
    return {
        "tokens_BK": token_B,
        "log_probs_BK": pick(log_probs_BV, token_B),
        "processed_BK": pick(jax.nn.log_softmax(restricted_BV), token_B),
        "top_ids_BKN": top_ids_BN,
        "top_BKN": top_BN,
    }


def sample_by_row(slots: Slots, processed_BV: jax.Array, keys_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next token of every row as its settings say, and the logits [B, V] that it is chosen by."""
    settings = slots.settings
    most_likely_B = jnp.argmax(without_nan(processed_BV), axis=-1).astype(jnp.int32)
    samples_B = settings.temperature_B > 0

    def sample() -> tuple[jax.Array, jax.Array]:
        temperature_B = jnp.where(samples_B, settings.temperature_B, 1.0)
        sampler = Sample(temperature_B, settings.top_k_B, settings.top_p_B, settings.min_p_B, settings.typical_p_B)
        restricted_BV = jnp.where(samples_B[:, None], sampler.restrict(processed_BV), processed_BV)
        sampled_B = jax.vmap(jax.random.categorical)(keys_B2, restricted_BV).astype(jnp.int32)
        return jnp.where(samples_B, sampled_B, most_likely_B), restricted_BV

    return jax.lax.cond(jnp.any(samples_B & slots.live_B), sample, lambda: (most_likely_B, processed_BV))


def pick(x_BV: jax.Array, index_B: jax.Array) -> jax.Array:
    """x[b, index[b]]."""
    return jnp.take_along_axis(x_BV, index_B[:, None], axis=1)[:, 0]


def process(logits_BV: jax.Array, history: History, settings: RowSettings) -> jax.Array:
    """The logits after the processors; those that change no row's logits cost nothing."""

    def add_bias(x_BV: jax.Array, _: History) -> jax.Array:
        add = jax.vmap(lambda x_V, ids_J, bias_J: x_V.at[ids_J].add(bias_J, mode="drop"))
        return add(x_BV, settings.bias_ids_BJ, settings.bias_BJ)

    def apply_if(active_B: jax.Array, processor: Callable, logits_BV: jax.Array) -> jax.Array:
        return jax.lax.cond(jnp.any(active_B), lambda: processor(logits_BV, history), lambda: logits_BV)

    logits_BV = apply_if(settings.repetition_B != 1, RepetitionPenalty(settings.repetition_B), logits_BV)
    logits_BV = apply_if(settings.frequency_B != 0, FrequencyPenalty(settings.frequency_B), logits_BV)
    logits_BV = apply_if(settings.presence_B != 0, PresencePenalty(settings.presence_B), logits_BV)
    logits_BV = apply_if(settings.bias_BJ != 0, add_bias, logits_BV)
    return apply_if(settings.min_new_B > history.generated_B, MinNewTokens(settings.min_new_B), logits_BV)
