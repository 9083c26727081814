"""Laws that hold for every decoder, and the batches they are tested on."""

import jax
import numpy as np

from tests import tiny
from tests.models.contexts import random_params

L = 12
LENGTHS = (3, 4, 3)  # of the segments that are packed into one row


def rows(side: str, lengths=LENGTHS, seed=0) -> dict[str, np.ndarray]:
    """Row 0 packs three segments, rows 1 to 3 hold each of them alone; padding holds random tokens."""
    random = np.random.default_rng(seed)
    tokens = np.random.default_rng(seed + 1).integers(3, tiny.VOCAB, sum(lengths))
    pieces = np.split(tokens, np.cumsum(lengths)[:-1])
    batch = {
        f"{side}_input_tokens": random.integers(3, tiny.VOCAB, (4, L)),
        f"{side}_positions": np.zeros((4, L)),
        f"{side}_segment_ids": np.zeros((4, L)),
    }
    at = 0
    for i, piece in enumerate(pieces):
        for row, start, segment in ((0, at, i + 1), (i + 1, 0, 1)):
            place = (row, slice(start, start + len(piece)))
            batch[f"{side}_input_tokens"][place] = piece
            batch[f"{side}_positions"][place] = np.arange(len(piece))
            batch[f"{side}_segment_ids"][place] = segment
        at += len(piece)
    return {name: x.astype(np.int32) for name, x in batch.items()}


def assert_packed_is_alone(logits_BLV, lengths=LENGTHS):
    at = 0
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(logits_BLV[0, at : at + length], logits_BLV[i + 1, :length], atol=1e-5)
        at += length


def run(model, batch):
    return np.asarray(jax.jit(model.apply)({"params": random_params(model, batch)}, batch))


def one_row(length=L, rows=1, seed=0):
    tokens = np.random.default_rng(seed).integers(3, tiny.VOCAB, (rows, length)).astype(np.int32)
    places = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {
        "decoder_input_tokens": tokens,
        "decoder_positions": places,
        "decoder_segment_ids": np.ones_like(tokens),
    }


def assert_cached_decoding_is_the_whole_forward(model, prefix=False):
    """Feeds prompts of different lengths, read causally or (prefix LM) bidirectionally, then one token per row at a time."""
    prompts, new, length = np.array([2, 5, 4]), 3, 5 + 3
    batch = one_row(length, rows=3)
    if prefix:
        batch["decoder_prefix"] = (np.arange(length) < prompts[:, None]).astype(np.int32)
    params = random_params(model, batch)
    full = np.asarray(jax.jit(model.apply)({"params": params}, batch))

    @jax.jit
    def call(variables, batch):
        return model.apply(variables, batch, decode_length=length, mutable=["cache"])

    prompt = {key: x[:, :5] for key, x in batch.items()}
    prompt["decoder_segment_ids"] = (np.arange(5) < prompts[:, None]).astype(np.int32)
    logits, state = call({"params": params}, prompt)
    for b, count in enumerate(prompts):
        np.testing.assert_allclose(logits[b, :count], full[b, :count], atol=1e-5)
    for step in range(new):
        at = (prompts + step)[:, None]
        token = {key: np.take_along_axis(x, at, 1) for key, x in batch.items()}
        logits, state = call({"params": params, **state}, token)
        np.testing.assert_allclose(logits[:, 0], np.take_along_axis(full, at[..., None], 1)[:, 0], atol=1e-5)
