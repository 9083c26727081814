"""The programs of an exported run: decoding, scoring and encoding as functions of flat arrays.

A program is `function(params, *inputs) -> {name: array}`, with params as {"decoder/layer_0/mlp/up/kernel": array} and inputs of
int32. Tokens are aligned on the left: row b has `lengths[b]` of them, at least one, and what follows is ignored.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from t5x_like.batching import embedding, generation
from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.processors import Processor
from t5x_like.objectives.tokens import token_logps
from t5x_like.scoring.rows import position_table
from t5x_like.types import Model, Params, Sampler, Vocabulary

BATCH, LENGTH, TARGET_LENGTH = "batch", "length", "target_length"
ROWS = {"tokens": (BATCH, LENGTH), "lengths": (BATCH,)}

PREDICT = (
    "Continues prompts; tokens and log_probs (nats, of the model before processors and the sampler) are 0 after the stop id. "
    "The random numbers of a row depend on the seed and its index alone."
)
PREDICT_BEAMS = (
    "The best continuations of prompts by beam search, the best first. Tokens and log_probs (nats, after the processors) are 0 "
    "after the stop id; a continuation that a row lacks has length 0 and score -inf."
)
SCORE_NEXT = "log p(token | the tokens before it) in nats; 0 for the first token of a row and after its end."
SCORE_PREFIX = (
    "log p(token | the tokens before it) in nats; 0 for the first prefix_lengths tokens of a row, which see each other, for the "
    "first token, and after the end."
)
SCORE_TARGETS = "log p(token | inputs, the tokens before it) in nats; 0 after the end of a row."
SCORE_MASKED = (
    "log p(target | all tokens) in nats; tokens have the mask where one is to be predicted. 0 after the end of a row."
)
ENCODE = "The last hidden states, 0 after the end of a row, and the unit vector of their mean."


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of an exported run; see the module.

    Attributes:
      description: what it computes, in the manifest and the README of an exported run.
      inputs: {name: names of its dims}, in the order of the arguments.
      longest: {dim: its largest size}, for the dims that a position table of the model limits.
    """

    name: str
    description: str
    function: Callable[..., dict[str, jax.Array]]
    inputs: Mapping[str, tuple[str, ...]]
    longest: Mapping[str, int]


def names_of(model: Model) -> tuple[str, ...]:
    """The names of the programs that a model has."""
    if "decoder" in model.sides:
        return ("predict", "score")
    # A permutation language model's logits at a token that it sees say nothing.
    masked = "tokens" in model.outputs and "encoder_order" not in model.extra_features
    return ("score", "encode") if masked else ("encode",)


def predict(
    model: Model,
    vocabulary: Vocabulary,
    sampler: Sampler | BeamSearch,
    max_new_tokens: int,
    processors: Sequence[Processor] = (),
    prefix: bool = False,
) -> Program:
    """The program (tokens, lengths, seed) that continues prompts by up to N tokens, as `inference.infer` does.

    It returns the arrays of `loop.Generated`, or of `beams.Beams`: tokens, log_probs, lengths, and with beams scores. Row b
    samples as prompt b of `infer` with the same seed.

    Raises:
      ValueError: a model without a decoder, or whose position table does not hold a prompt and N tokens.
    """
    generation.check_generates(model)
    tables = position_tables(model)
    room = {side: table - max_new_tokens if side == "decoder" else table for side, table in tables.items()}
    # An encoder-decoder's prompt is one start token.
    if room.get("decoder", 1) < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: the model's position table has {tables['decoder']} "
            f"rows; give at most {tables['decoder'] - 1}"
        )
    decode = generation.make_decode_fn(model, vocabulary, sampler, max_new_tokens, processors)

    def function(params: Params, tokens_BL: jax.Array, length_B: jax.Array, seed: jax.Array) -> dict[str, jax.Array]:
        batch = features(model.sides[0], tokens_BL, length_B)
        if model.encoder_decoder:
            start_B1 = jnp.full((tokens_BL.shape[0], 1), vocabularies.start_id(vocabulary), jnp.int32)
            batch |= features("decoder", start_B1, jnp.ones_like(length_B))
        elif prefix:
            batch["decoder_prefix"] = batch["decoder_segment_ids"]
        rows_B = jnp.arange(tokens_BL.shape[0])
        batch["keys"] = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(seed), rows_B)
        return without_shapes(decode(nested(params), batch))

    description = PREDICT_BEAMS if isinstance(sampler, BeamSearch) else PREDICT
    return Program("predict", description, function, ROWS | {"seed": ()}, by_dim(room, {model.sides[0]: LENGTH}))


def score(model: Model, vocabulary: Vocabulary | None = None, prefix: bool = False) -> Program:
    """The program that gives `log_probs` [B, L] of tokens, as `SCORE_NEXT` and the others say.

    Its inputs are tokens and lengths; before them the inputs and input_lengths of an encoder-decoder, behind them an
    encoder's targets, or with `prefix` the prefix_lengths of a prefix language model.

    Raises:
      ValueError: the model gives no log-probabilities of tokens; an encoder-decoder without a vocabulary.
    """
    if "score" not in names_of(model):
        raise ValueError(
            f"the model ({type(model).__name__}) gives no log-probabilities of tokens; export `encode` instead"
        )
    if model.encoder_decoder:
        return score_targets(model, vocabulary)
    side = model.sides[0]
    longest = by_dim(position_tables(model), {side: LENGTH})

    def of_masked(
        params: Params, tokens_BL: jax.Array, length_B: jax.Array, targets_BL: jax.Array
    ) -> dict[str, jax.Array]:
        batch = features(side, tokens_BL, length_B)
        return {"log_probs": log_probs(model, params, batch, targets_BL, batch[f"{side}_segment_ids"] > 0)}

    def of_next(
        params: Params, tokens_BL: jax.Array, length_B: jax.Array, *prefix_B: jax.Array
    ) -> dict[str, jax.Array]:
        batch = features(side, tokens_BL, length_B)
        index_L = jnp.arange(tokens_BL.shape[1])
        first_B = jnp.maximum(prefix_B[0], 1) if prefix else jnp.ones_like(length_B)
        if prefix:
            batch["decoder_prefix"] = (index_L < prefix_B[0][:, None]).astype(jnp.int32)
        counted_BL = (first_B[:, None] <= index_L) & (index_L < length_B[:, None])
        targets_BL = jnp.roll(tokens_BL, -1, axis=1)
        logps_BL = log_probs(model, params, batch, targets_BL, jnp.roll(counted_BL, -1, axis=1))
        return {"log_probs": jnp.roll(logps_BL, 1, axis=1)}

    if side == "encoder":
        return Program("score", SCORE_MASKED, of_masked, ROWS | {"targets": (BATCH, LENGTH)}, longest)
    inputs = ROWS | ({"prefix_lengths": (BATCH,)} if prefix else {})
    return Program("score", SCORE_PREFIX if prefix else SCORE_NEXT, of_next, inputs, longest)


def score_targets(model: Model, vocabulary: Vocabulary | None) -> Program:
    """`score` of an encoder-decoder."""
    if vocabulary is None:
        raise ValueError(
            "vocabulary=None, but an encoder-decoder's decoder reads the start token first; give the run's vocabulary"
        )
    start = vocabularies.start_id(vocabulary)

    def function(
        params: Params, inputs_BM: jax.Array, input_length_B: jax.Array, tokens_BL: jax.Array, length_B: jax.Array
    ) -> dict[str, jax.Array]:
        shifted_BL = jnp.roll(tokens_BL, 1, axis=1).at[:, 0].set(start)
        batch = features("encoder", inputs_BM, input_length_B) | features("decoder", shifted_BL, length_B)
        return {"log_probs": log_probs(model, params, batch, tokens_BL, batch["decoder_segment_ids"] > 0)}

    inputs = {
        "inputs": (BATCH, LENGTH),
        "input_lengths": (BATCH,),
        "tokens": (BATCH, TARGET_LENGTH),
        "lengths": (BATCH,),
    }
    longest = by_dim(position_tables(model), {"encoder": LENGTH, "decoder": TARGET_LENGTH})
    return Program("score", SCORE_TARGETS, function, inputs, longest)


def encode(model: Model) -> Program:
    """The program (tokens, lengths) -> states, float32 [B, L, D], and the embedding of `embedding.Embedder`, [B, D].

    Raises:
      ValueError: the model is no encoder.
    """
    if "encode" not in names_of(model):
        raise ValueError(f"the model ({type(model).__name__}) is no encoder; export `predict` or `score` instead")

    def function(params: Params, tokens_BL: jax.Array, length_B: jax.Array) -> dict[str, jax.Array]:
        batch = features("encoder", tokens_BL, length_B)
        x_BLD = model.apply({"params": nested(params)}, batch, method="hidden").astype(jnp.float32)
        segments_BL = batch["encoder_segment_ids"]
        states_BLD = x_BLD * (segments_BL > 0)[..., None]
        return {"states": states_BLD, "embedding": embedding.unit_mean(x_BLD, segments_BL)}

    return Program("encode", ENCODE, function, ROWS, by_dim(position_tables(model), {"encoder": LENGTH}))


def log_probs(
    model: Model, params: Params, batch: Mapping[str, jax.Array], targets_BL: jax.Array, counted_BL: jax.Array
) -> jax.Array:
    """Log-probabilities of targets, float32 [B, L]; 0 where they do not count."""
    logps_BL, _ = token_logps(model.apply({"params": nested(params)}, batch), targets_BL)
    return jnp.where(counted_BL, logps_BL, 0.0)


def features(side: str, tokens_BL: jax.Array, length_B: jax.Array) -> dict[str, jax.Array]:
    """The arrays of a batch for one side."""
    index_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
    segments_BL = (index_L < length_B[:, None]).astype(jnp.int32)
    return {
        f"{side}_input_tokens": tokens_BL,
        f"{side}_positions": index_L * segments_BL,
        f"{side}_segment_ids": segments_BL,
    }


def position_tables(model: Model) -> dict[str, int]:
    """{side: the most positions that its tables hold}, for the sides that have tables."""
    tables = {side: position_table(getattr(model, side)) for side in model.sides}
    return {side: table for side, table in tables.items() if table is not None}


def by_dim(sizes: Mapping[str, int], dims: Mapping[str, str]) -> dict[str, int]:
    """{dim: size}, for sizes and dims by side."""
    return {dim: sizes[side] for side, dim in dims.items() if side in sizes}


def without_shapes(result: Any) -> dict[str, jax.Array]:
    """{"tokens": array} of a dataclass with a field `tokens_BN`."""
    return {f.name.rpartition("_")[0]: getattr(result, f.name) for f in dataclasses.fields(result)}


def flat(params: Params) -> dict[str, Any]:
    """{"decoder/layer_0/...": array}, sorted by name: the order of a program's arguments."""
    return dict(sorted(traverse_util.flatten_dict(params, sep="/").items()))


def nested(params: Mapping[str, Any]) -> Params:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(params, sep="/")
