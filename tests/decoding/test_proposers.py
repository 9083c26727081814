"""Prompt lookup against a search in Python."""

import jax
import numpy as np
import pytest

from t5x_like import prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.processors import from_prompts
from t5x_like.decoding.proposers import Draft, PromptLookup, lookup


def search(row, count, longest, shortest):
    """What followed the last tokens of a row before, found by comparing slices; the copy may overlap what it copies."""
    for n in range(min(longest, len(row) - 1), shortest - 1, -1):
        for start in range(len(row) - n - 1, -1, -1):
            if row[start : start + n] == row[len(row) - n :]:
                copy = list(row)
                for i in range(count):
                    copy.append(copy[start + n + i])
                return copy[len(row) :]
    return None


@pytest.mark.parametrize("ids", [2, 4, 15])
@pytest.mark.parametrize("longest, shortest", [(1, 1), (3, 1), (4, 2)])
def test_lookup_finds_what_followed_the_last_tokens(ids, longest, shortest):
    random = np.random.default_rng(ids)
    rows, count = [random.integers(0, ids, random.integers(1, 25)).tolist() for _ in range(300)], 5
    padded = random.integers(0, ids, (300, 26))  # what is behind a row's length is not read
    for row, target in zip(rows, padded, strict=True):
        target[: len(row)] = row
    lengths = np.array([len(row) for row in rows])
    tokens, found = jax.jit(lookup, static_argnums=(2, 3, 4))(padded, lengths, count, longest, shortest)
    expected = [search(row, count, longest, shortest) for row in rows]
    assert found.tolist() == [copy is not None for copy in expected] and 0 < found.sum() < 300
    assert np.asarray(tokens)[found].tolist() == [copy for copy in expected if copy is not None]


def test_the_inputs_of_an_encoder_are_searched_before_the_decoders_tokens():
    inputs = [[5, 6, 7, 8], [9, 8], [5, 6, 9, 9, 9, 6, 9]]
    batch = prompt_batches.encoder_batch(inputs, ByteVocabulary())
    new = np.array([[5, 6], [9, 9], [3, 6]])
    history = from_prompts(batch, 6, (1,)).extend(new, np.array([2, 1, 2]))
    proposer = PromptLookup(3, longest=2, shortest=1)
    state = proposer.start(batch, 7, samples=1)
    proposal, _ = proposer.propose(state, history, None, None, None)
    assert proposal.count_B.tolist() == [3, 3, 3]
    rows = [[*row, 0, *tokens[:count]] for row, tokens, count in zip(inputs, new.tolist(), (2, 1, 2), strict=True)]
    assert proposal.tokens_BG.tolist() == [search(row, 3, 2, 1) for row in rows]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PromptLookup(0), "PromptLookup.tokens=0 must be at least 1"),
        (lambda: PromptLookup(longest=2, shortest=3), "shortest=3 is not in 1 .. longest=2"),
        (lambda: PromptLookup(shortest=0), "shortest=0 is not in 1 .. longest=4"),
        (lambda: Draft(None, {}, -1), "Draft.tokens=-1 must be at least 1"),
    ],
)
def test_counts_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
