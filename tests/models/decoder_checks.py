"""Checks that every decoder must pass, and their batches."""

import jax
import numpy as np

from tests import tiny
from tests.models.contexts import random_params

L = 12
LENGTHS = (3, 4, 3)  # of the segments packed into one row


def rows(side: str, lengths=LENGTHS, seed=0) -> dict[str, np.ndarray]:
    """Returns a batch whose row 0 packs three segments and rows 1 to 3 hold one each; padding holds random tokens."""
    random = np.random.default_rng(seed)
    tokens = np.random.default_rng(seed + 1).integers(3, tiny.VOCAB, sum(lengths))
    pieces = np.split(tokens, np.cumsum(lengths)[:-1])
    batch = {
        f"{side}_input_tokens": random.integers(3, tiny.VOCAB, (4, L)),
        f"{side}_positions": np.zeros((4, L)),
        f"{side}_segment_ids": np.zeros((4, L)),
    }
    offset = 0
    for i, piece in enumerate(pieces):
        for row, start, segment in ((0, offset, i + 1), (i + 1, 0, 1)):
            index = (row, slice(start, start + len(piece)))
            batch[f"{side}_input_tokens"][index] = piece
            batch[f"{side}_positions"][index] = np.arange(len(piece))
            batch[f"{side}_segment_ids"][index] = segment
        offset += len(piece)
    return {name: x.astype(np.int32) for name, x in batch.items()}


def assert_packed_equals_unpacked(logits_BLV, lengths=LENGTHS):
    offset = 0
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(logits_BLV[0, offset : offset + length], logits_BLV[i + 1, :length], atol=1e-5)
        offset += length


def run(model, batch):
    return np.asarray(jax.jit(model.apply)({"params": random_params(model, batch)}, batch))


def decoder_batch(length=L, rows=1, seed=0):
    tokens = np.random.default_rng(seed).integers(3, tiny.VOCAB, (rows, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {
        "decoder_input_tokens": tokens,
        "decoder_positions": positions,
        "decoder_segment_ids": np.ones_like(tokens),
    }


def assert_cached_decoding_equals_full_forward(model, prefix=False):
    """Feeds prompts of different lengths (bidirectional for a prefix LM), then one token per row and step."""
    prompts, new, length = np.array([2, 5, 4]), 3, 5 + 3
    batch = decoder_batch(length, rows=3)
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
        index = (prompts + step)[:, None]
        token = {key: np.take_along_axis(x, index, 1) for key, x in batch.items()}
        logits, state = call({"params": params, **state}, token)
        np.testing.assert_allclose(logits[:, 0], np.take_along_axis(full, index[..., None], 1)[:, 0], atol=1e-5)
