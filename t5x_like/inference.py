"""Text in, text out: prompts are batched, padded to few lengths, continued, and given back in their order."""

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.data import vocabularies
from t5x_like.decoding.loop import generate

BUCKET = 64  # prompt lengths are rounded up to a multiple of this, so that few shapes are compiled


def infer(
    model: nn.Module,
    params,
    vocabulary: vocabularies.Vocabulary,
    prompts: Iterable[str | dict],
    choose: Callable,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    seed: int = 0,
    prefix: bool = False,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
) -> Iterator[dict[str, Any]]:
    """Continues every prompt: yields {"id", "prompt", "completion", "tokens", "log_prob", "finished"} in their order.

    A prompt is a text or {"prompt": text, "id": anything}. Decoder-only models continue it; encoder-decoder models read
    it with the encoder. `prefix` lets a prefix language model read it bidirectionally. The result for a prompt depends on
    its place among the prompts and the seed, not on batch size or neighbours.

    Raises:
      ValueError: max_new_tokens < 1, or a prompt that with them is longer than the model's position table.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: ask for at least 1")
    mesh = partitioning.make_mesh() if mesh is None else mesh
    sharding = partitioning.batch_sharding(mesh, rules)
    shards = sharding.shard_shape((mesh.size,))
    batch_size = round_up(batch_size, mesh.size // shards[0])
    seq2seq = hasattr(model, "encoder")
    decode = jax.jit(
        functools.partial(generate, model, choose=choose, max_new_tokens=max_new_tokens, eos=vocabularies.EOS)
    )
    records = ({"prompt": p} if isinstance(p, str) else p for p in prompts)
    numbered = enumerate(records)
    while chunk := list(itertools.islice(numbered, batch_size)):
        ids = [vocabulary.encode(record["prompt"]) for _, record in chunk]
        ids += [[]] * (batch_size - len(chunk))
        batch = encoder_batch(ids) if seq2seq else decoder_batch(ids, prefix)
        numbers = np.array([n for n, _ in chunk] + [0] * (batch_size - len(chunk)))
        keys = np.asarray(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(seed), numbers))
        with partitioning.on(mesh, rules):
            placed = partitioning.global_batch(
                lambda start, stop, b=batch | {"keys": keys}: {k: x[start:stop] for k, x in b.items()},
                batch_size,
                sharding,
            )
            made = jax.device_get(decode(params, placed, placed.pop("keys")))
        for row, (number, record) in enumerate(chunk):
            yield completion(record, number, vocabulary, made, row)


def completion(record: dict, number: int, vocabulary, made, row: int) -> dict[str, Any]:
    """One row's result as JSON."""
    tokens = made.tokens_BN[row, : made.lengths_B[row]].tolist()
    return {
        "id": record.get("id", number),
        "prompt": record["prompt"],
        "completion": vocabulary.decode(tokens),
        "tokens": tokens,
        "log_prob": float(made.log_probs_BN[row].sum()),
        "finished": bool(tokens and tokens[-1] == vocabularies.EOS),
    }


def decoder_batch(ids: list[list[int]], prefix: bool = False) -> dict[str, np.ndarray]:
    """Prompts with the beginning of sequence (id 0) before them, on the left of padding: the decoder's arrays."""
    length = round_up(1 + max(len(row) for row in ids), BUCKET)
    batch = side([[0, *row] for row in ids], length, "decoder")
    if prefix:
        batch["decoder_prefix"] = batch["decoder_segment_ids"].copy()
    return batch


def encoder_batch(ids: list[list[int]]) -> dict[str, np.ndarray]:
    """Inputs, ended as in training, for the encoder, and the beginning of sequence for the decoder."""
    ended = [[*row, vocabularies.EOS] for row in ids]
    length = round_up(max(len(row) for row in ended), BUCKET)
    return side(ended, length, "encoder") | side([[0]] * len(ids), 1, "decoder")


def side(rows: list[list[int]], length: int, name: str) -> dict[str, np.ndarray]:
    """Tokens, positions and segments of ragged rows."""
    tokens, segments = np.zeros((2, len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        segments[i, : len(row)] = 1
    positions = np.arange(length, dtype=np.int32) * segments
    return {f"{name}_input_tokens": tokens, f"{name}_positions": positions, f"{name}_segment_ids": segments}


def round_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def read_prompts(path) -> Iterator[dict[str, Any]]:
    """Records of a .jsonl file ({"prompt" or "inputs": text, "id": anything}), or a prompt per line of any other file.

    Raises:
      ValueError: a line that is no such record, with its number.
    """
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if Path(path).suffix != ".jsonl":
            yield {"id": number - 1, "prompt": line}
            continue
        try:
            record = json.loads(line)
            yield {
                "id": record.get("id", number - 1),
                "prompt": str(record["prompt"] if "prompt" in record else record["inputs"]),
            }
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {number}: need a JSON object with "prompt" (or "inputs"), got {line[:60]!r}'
            ) from error
