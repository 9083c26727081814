"""Generation in batches that last until every row has ended: by a sampler, a beam search, or speculative decoding."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.batching.sharded import ShardedFunction
from t5x_like.decoding import beams
from t5x_like.decoding.beams import Beams, BeamSearch
from t5x_like.decoding.loop import Generated, generate
from t5x_like.decoding.processors import Processor
from t5x_like.decoding.proposers import Draft
from t5x_like.decoding.results import completion
from t5x_like.decoding.speculative import Proposer, Speculated, speculate
from t5x_like.prompt_batches import BUCKET, round_up
from t5x_like.types import Model, Params, Sampler, Vocabulary


def continue_prompts(
    decode: ShardedFunction,
    params: Params,
    vocabulary: Vocabulary,
    seed: int,
    make_batch: Callable[[Sequence[Sequence[int]]], dict[str, np.ndarray]],
    ids: Mapping[int, Sequence[int]],
) -> dict[int, dict[str, Any]]:
    """The completions of prompts by index; those that are too long for the model have an "error".

    Raises:
      ValueError: the model cannot continue prompts of one token either.
    """
    left = dict(ids)
    results: dict[int, dict[str, Any]] = {}
    while left:
        batch = make_batch(list(left.values()))
        lengths = {index: round_up(len(row), BUCKET) for index, row in left.items()}
        length = max(lengths.values())
        try:
            generated = decode(params, batch | {"keys": row_keys(seed, list(left))})
        except ValueError as error:  # raised while tracing, so it depends on the length alone
            decode.check(params, make_batch([[0]] * decode.size) | {"keys": row_keys(seed, [0] * decode.size)})
            message = str(error)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if length == BUCKET or not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            message = (
                f"{decode.size} prompts of {length} tokens need too much memory; lower batch_size or shorten this one"
            )
        else:
            return results | {index: completion(vocabulary, generated, row) for row, index in enumerate(left)}
        results |= {index: {"error": message} for index in left if lengths[index] == length}
        left = {index: row for index, row in left.items() if index not in results}
    return results


def check_generates(model: Model) -> None:
    """Checks that a model generates text.

    Raises:
      ValueError: it has no decoder.
    """
    if "decoder" not in model.sides:
        raise ValueError(
            f"the model ({type(model).__name__}) has no decoder, so it neither generates text nor scores continuations; use a "
            "decoder-only or encoder-decoder model (`t5x_like eval` without --tasks gives the loss of an encoder)"
        )


def make_decode_fn(
    model: Model,
    vocabulary: Vocabulary,
    sampler: Sampler | BeamSearch,
    max_new_tokens: int,
    processors: Sequence[Processor] = (),
    samples: int = 1,
    proposer: Proposer | None = None,
) -> Callable[[Params, dict[str, Any]], Generated | Beams | Speculated]:
    """Returns a function (params, batch with random `keys` [B]) -> `Generated`, to be jitted.

    It returns `Beams` by beam search, and `Speculated` with a proposer. With a draft model, params are {"model", "draft"}: the
    parameters of both.
    """

    def decode(params: Params, batch: dict[str, Any]) -> Generated | Beams | Speculated:
        prompts = {name: x for name, x in batch.items() if name != "keys"}
        stops = vocabulary.stop_ids
        if isinstance(sampler, BeamSearch):
            found = beams.search(model, params, prompts, sampler, max_new_tokens, stops, processors)
            return jax.tree.map(lambda x_BK: x_BK[:, : sampler.returned], found)
        keys = batch["keys"]
        if proposer is None:
            return generate(model, params, prompts, keys, sampler, max_new_tokens, stops, processors, samples)
        guesser = proposer
        if isinstance(proposer, Draft):
            params, guesser = params["model"], dataclasses.replace(proposer, params=params["draft"])
        return speculate(model, params, prompts, keys, sampler, max_new_tokens, stops, guesser, processors, samples)

    return decode


def row_keys(seed: int, *numbers: Sequence[int]) -> np.ndarray:
    """Random keys, one per row: the key of `seed` with each of the row's numbers folded in, one after the other."""
    key = jax.random.PRNGKey(seed)
    keys = jnp.broadcast_to(key, (len(numbers[0]), *key.shape))
    for number_B in numbers:
        keys = jax.vmap(jax.random.fold_in)(keys, np.asarray(number_B))
    return np.asarray(keys)
