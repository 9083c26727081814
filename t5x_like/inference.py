"""Text in, text out: prompts are batched, padded to few lengths, continued, and given back in their order."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import partitioning
from t5x_like.data.tokenizers import chat, vocabularies
from t5x_like.decoding.loop import generate
from t5x_like.types import Vocabulary

BUCKET = 64  # prompt lengths are rounded up to a multiple of this, so that few shapes are compiled


def infer(
    model: nn.Module,
    params,
    vocabulary: Vocabulary,
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

    A prompt is a text, {"prompt": text, "id": anything}, or a chat: {"messages": [{"role", "content"}, ...]}, which the
    vocabulary's template makes a text. Decoder-only models continue it; encoder-decoder models read it with the encoder.
    `prefix` lets a prefix language model read it bidirectionally. The result for a prompt depends on
    its place among the prompts and the seed, not on batch size or neighbours.

    Raises:
      ValueError: max_new_tokens < 1, a prompt that with them is longer than the model's position table, an empty prompt
        where the vocabulary has no bos, or a chat where it has no template.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: ask for at least 1")
    mesh = partitioning.make_mesh() if mesh is None else mesh
    seq2seq = model.encoder_decoder
    decode = OnMesh(decoding(model, vocabulary, choose, max_new_tokens), batch_size, mesh, rules)
    numbered = enumerate({"prompt": p} if isinstance(p, str) else p for p in prompts)
    while chunk := list(itertools.islice(numbered, decode.size)):
        chunk = [(number, rendered(record, vocabulary)) for number, record in chunk]
        ids = [prompt_ids(record, vocabulary, seq2seq) for _, record in chunk]
        batch = encoder_batch(ids, vocabulary) if seq2seq else decoder_batch(ids, prefix)
        made = decode(params, batch | {"keys": row_keys(seed, [number for number, _ in chunk])})
        for row, (number, record) in enumerate(chunk):
            yield completion(record, number, vocabulary, made, row)


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """`function(params, batch)`, jitted, over rows that are on the host: rows go in and rows come out, on every host all.

    Batches have `size` rows, the smallest number from `batch_size` on that the devices divide.
    """

    function: Callable
    batch_size: int
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES

    def __post_init__(self):
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        object.__setattr__(self, "jitted", jax.jit(self.function, out_shardings=everywhere))

    @property
    def size(self) -> int:
        sharding = partitioning.batch_sharding(self.mesh, self.rules)
        return round_up(self.batch_size, self.mesh.size // sharding.shard_shape((self.mesh.size,))[0])

    def __call__(self, params, batch: dict[str, np.ndarray]) -> Any:
        """The function of up to `size` rows; a batch with fewer is filled up with its first row."""
        count, size = len(next(iter(batch.values()))), self.size
        index_B = np.arange(size) * (np.arange(size) < count)
        with partitioning.on(self.mesh, self.rules):
            placed = partitioning.global_batch(
                lambda start, stop: {name: x[index_B[start:stop]] for name, x in batch.items()},
                size,
                partitioning.batch_sharding(self.mesh, self.rules),
            )
            made = jax.device_get(self.jitted(params, placed))
        return jax.tree.map(lambda x: x[:count], made)


def decoding(model: nn.Module, vocabulary, choose: Callable, max_new_tokens: int) -> Callable:
    """A function (params, batch with `keys`) -> `Generated`, to be jitted."""

    def decode(params, batch):
        prompts = {name: x for name, x in batch.items() if name != "keys"}
        return generate(model, params, prompts, batch["keys"], choose, max_new_tokens, vocabulary.stop_ids)

    return decode


def row_keys(seed: int, *numbers: Sequence[int]) -> np.ndarray:
    """A random key for every row, folded from its numbers one after the other."""
    key = jax.random.PRNGKey(seed)
    keys = jnp.broadcast_to(key, (len(numbers[0]), *key.shape))
    for number_B in numbers:
        keys = jax.vmap(jax.random.fold_in)(keys, np.asarray(number_B))
    return np.asarray(keys)


def embed(
    model: nn.Module,
    params,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    batch_size: int = 32,
) -> np.ndarray:
    """Vectors of length 1 for texts, float32 [N, D]: the mean of an encoder's last states over all of a text's tokens.

    Sentence encoders (all-MiniLM) are made for this; the cosine of two texts is the product of their vectors.

    Raises:
      ValueError: a text that is longer than the model's position table.
    """

    @jax.jit
    def mean(params, batch):
        x_BLD = model.apply({"params": params}, batch, method="hidden").astype(jnp.float32)
        real_BL1 = (batch["encoder_segment_ids"] > 0)[..., None]
        x_BD = jnp.sum(x_BLD * real_BL1, axis=1)
        return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)

    ids = [vocabulary.encode_special(text) for text in texts]
    parts = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    vectors = []
    for part in parts:
        length = round_up(max(len(row) for row in part), BUCKET)
        filled = part + part[:1] * (batch_size - len(part))
        vectors.append(np.asarray(mean(params, side(filled, length, "encoder")))[: len(part)])
    return np.concatenate(vectors)


def completion(record: dict, number: int, vocabulary, made, row: int) -> dict[str, Any]:
    """One row's result as JSON."""
    tokens = made.tokens_BN[row, : made.lengths_B[row]].tolist()
    return {
        "id": record.get("id", number),
        "prompt": record["prompt"],
        "completion": vocabulary.decode(tokens),
        "tokens": tokens,
        "log_prob": float(made.log_probs_BN[row].sum()),
        "finished": bool(tokens and tokens[-1] in vocabulary.stop_ids),
    }


def rendered(record: dict, vocabulary: Vocabulary) -> dict:
    """The record with the text of its chat as the prompt, where it is one."""
    return record | {"prompt": chat.render_chat(vocabulary, record["messages"])} if "messages" in record else record


def prompt_ids(record: dict, vocabulary: Vocabulary, seq2seq: bool) -> list[int]:
    """What the model reads of a prompt; a chat's template has written its beginning of sequence itself.

    Raises:
      ValueError: an empty prompt where the vocabulary has no beginning of sequence.
    """
    text, is_chat = record["prompt"], "messages" in record
    if seq2seq:
        return (
            [*vocabulary.encode(text), vocabularies.end_id(vocabulary)] if is_chat else vocabulary.encode_special(text)
        )
    ids = vocabulary.encode(text)
    # Nothing at all cannot be continued: then a sequence is begun even by a vocabulary that does not begin prompts so.
    if vocabulary.bos is not None and (not ids or (vocabulary.add_bos and not is_chat)):
        ids = [vocabulary.bos, *ids]
    if not ids:
        raise ValueError(
            f"prompt={text!r} of id={record.get('id')!r} is empty, and the vocabulary has no beginning of sequence "
            "(bos=None) to continue; write at least one token"
        )
    return ids


def decoder_batch(ids: list[list[int]], prefix: bool = False) -> dict[str, np.ndarray]:
    """Prompts as `prompt_ids` makes them, on the left of padding: the decoder's arrays."""
    batch = side(ids, round_up(max(len(row) for row in ids), BUCKET), "decoder")
    if prefix:
        batch["decoder_prefix"] = batch["decoder_segment_ids"].copy()
    return batch


def encoder_batch(ids: list[list[int]], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Inputs as `prompt_ids` makes them for the encoder, and what the decoder begins with."""
    start = vocabularies.start_id(vocabulary)
    length = round_up(max(len(row) for row in ids), BUCKET)
    return side(ids, length, "encoder") | side([[start]] * len(ids), 1, "decoder")


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
    """Records of a .jsonl file, or a prompt per line of any other file.

    A record is {"prompt" or "inputs": text, "id": anything}, or a chat with "messages" instead of the prompt.

    Raises:
      ValueError: a line that is no such record, with its number.
    """
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if Path(path).suffix != ".jsonl":
            yield {"id": number - 1, "prompt": line}
            continue
        try:
            record = json.loads(line)
            made = {"id": record.get("id", number - 1)}
            if "messages" in record:
                chat.check(record["messages"])
                yield made | {"messages": record["messages"]}
            else:
                yield made | {"prompt": str(record["prompt"] if "prompt" in record else record["inputs"])}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f'{path}, line {number}: need a JSON object with "prompt" (or "inputs", or "messages"), got {line[:60]!r}'
            ) from error


def as_chat(record: dict, system: str | None = None) -> dict:
    """The record with its prompt as a user's message, after the system's; one that is a chat already stays as it is."""
    if "messages" in record:
        return record
    before = [] if system is None else [{"role": "system", "content": system}]
    return {"id": record["id"], "messages": [*before, {"role": "user", "content": record["prompt"]}]}
