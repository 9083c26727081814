"""The decode state: rows filled, moved, copied and shortened independently decode as if each were alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.decoding import state
from t5x_like.models import positions
from tests import tiny
from tests.models import decoder_checks, test_architectures

LENGTH, CHUNK = 12, 3
PROMPTS = np.array([7, 2, 5])
MODELS = {name: test_architectures.make_decoder(name) for name in test_architectures.DECODERS} | {
    "scanned": tiny.decoder(scan=True),
    "experts": tiny.decoder(experts=True),
    "encoder-decoder": tiny.encoder_decoder(position=positions.RelativeBias(tiny.HEADS)),
    "scanned encoder-decoder": tiny.encoder_decoder(scan=True),
}
FEW = ["learned", "rope", "relative", "transformer_xl", "scanned", "scanned encoder-decoder"]


class Case:
    """A model, its parameters, rows of LENGTH tokens, and the logits of the full forward pass, which has no cache."""

    def __init__(self, name):
        self.model = MODELS[name]
        self.batch = decoder_checks.decoder_batch(LENGTH, rows=3)
        self.memory = {}
        if self.model.encoder_decoder:
            whole = decoder_checks.decoder_batch(6, rows=3, seed=1)
            self.memory = {key.replace("decoder", "encoder"): x for key, x in whole.items()}
            self.memory["encoder_segment_ids"][1, 4:] = 0
        params = decoder_checks.random_params(self.model, self.batch | self.memory)
        self.params = jax.tree.map(jnp.asarray, params)
        self.full = np.asarray(jax.jit(self.model.apply)({"params": self.params}, self.batch | self.memory))
        self.prefill = jax.jit(lambda batch, cache=None: state.prefill(self.model, self.params, batch, LENGTH, cache))
        self.step = jax.jit(lambda *arguments: state.decode_step(self.model, self.params, *arguments))

    def prompts(self, counts, start=0, stop=LENGTH):
        """Columns `start` .. `stop` of prompts of `counts` tokens."""
        columns = {key: x[:, start:stop] for key, x in self.batch.items()}
        real = np.arange(start, stop) < np.asarray(counts)[:, None]
        return columns | {"decoder_segment_ids": real.astype(np.int32)} | (self.memory if start == 0 else {})

    def check(self, cache, counts, steps=2, rows=(0, 1, 2)):
        """Continues rows of `counts` tokens with the batch's tokens; the logits are those of the full forward pass."""
        counts, rows = np.array(counts), np.array(rows)
        np.testing.assert_array_equal(cache["lengths"], counts)
        for _ in range(steps):
            logits, cache = self.step(cache, self.batch["decoder_input_tokens"][rows, counts])
            np.testing.assert_allclose(logits, self.full[rows, counts], atol=2e-5)
            counts = counts + 1
        return cache

    def axes(self):
        return state.row_axes(self.model, self.params, self.prompts(PROMPTS), LENGTH)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_different_lengths_continue_as_the_full_forward_pass(name):
    case = Case(name)
    logits, cache = case.prefill(case.prompts(PROMPTS, stop=8))
    np.testing.assert_allclose(logits, case.full[range(3), PROMPTS - 1], atol=2e-5)
    case.check(cache, PROMPTS, 4)


@pytest.mark.parametrize("name", FEW)
def test_chunks_of_prompts_equal_whole_prompts(name):
    case = Case(name)
    logits, cache = case.prefill(case.prompts(PROMPTS, 0, CHUNK))
    for start in range(CHUNK, 9, CHUNK):
        logits, cache = case.prefill(case.prompts(PROMPTS, start, start + CHUNK), cache)
    np.testing.assert_allclose(logits[0], case.full[0, PROMPTS[0] - 1], atol=2e-5)
    case.check(cache, PROMPTS)


@pytest.mark.parametrize("name", FEW)
def test_a_row_rolls_back_to_a_length_of_its_own(name):
    case = Case(name)
    cache = case.prefill(case.prompts(PROMPTS))[1]
    for _ in range(3):
        cache = case.step(cache, jnp.full(3, 9))[1]  # tokens that are given up
    cache = state.rollback(cache, jnp.array([7, 1, 50]))
    np.testing.assert_array_equal(cache["lengths"], [7, 1, 8])  # a row is never lengthened
    case.check(state.rollback(cache, jnp.array([6, 1, 4])), [6, 1, 4])


@pytest.mark.parametrize("name", FEW)
def test_rows_are_inserted_and_copied(name):
    case = Case(name)
    axes, counts = case.axes(), np.array([2, 7, 5])
    running = case.check(case.prefill(case.prompts(PROMPTS))[1], PROMPTS, 3)
    new = case.prefill(case.prompts(counts))[1]
    # Slots 2 and 0 get rows 0 and 1 of `new`; its row 2 goes nowhere, and slot 1 runs on.
    mixed = jax.jit(functools.partial(state.insert, axes))(running, jnp.array([2, 0, 3]), new)
    case.check(mixed, [7, 5, 2], 2, (1, 1, 0))
    order = np.array([1, 2, 1])
    case.check(jax.jit(functools.partial(state.take, axes))(new, order), counts[order], 2, order)
    np.testing.assert_array_equal(state.take(axes, new, np.zeros(5, int))["lengths"], [2] * 5)


@pytest.mark.parametrize("name", FEW)
def test_a_row_that_is_not_live_stays_as_it_is(name):
    case = Case(name)
    cache = case.prefill(case.prompts(PROMPTS))[1]
    for _ in range(LENGTH):  # longer than the cache
        cache = case.step(cache, jnp.full(3, 9), jnp.array([False, False, False]))[1]
    cache = case.step(cache, case.batch["decoder_input_tokens"][range(3), PROMPTS], jnp.array([True, False, True]))[1]
    case.check(cache, [8, 2, 6])


@pytest.mark.parametrize("name", MODELS)
def test_several_tokens_are_verified_as_the_full_forward_pass_computes_them(name):
    case, counts = Case(name), np.array([3, 0, 2])  # tokens per row; those behind are not appended
    cache = case.prefill(case.prompts(PROMPTS))[1]
    index = PROMPTS[:, None] + np.arange(4)
    tokens = np.take_along_axis(case.batch["decoder_input_tokens"], index, axis=1)
    logits, cache = jax.jit(functools.partial(state.verify, case.model, case.params))(cache, tokens, counts)
    for row, count in enumerate(counts):
        np.testing.assert_allclose(logits[row, :count], case.full[row, index[row, :count]], atol=2e-5)
    np.testing.assert_array_equal(state.lengths(cache), PROMPTS + counts)
    case.check(cache, PROMPTS + counts, 1)
