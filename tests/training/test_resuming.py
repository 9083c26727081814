"""A resumed run names what changed in its data, with the old and the new value."""

import dataclasses

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.stream import Stream
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.training import resuming


def stream(task="one", length=16, batch_size=4, seed=0, vocabulary=None, kind=rows.CausalLM):
    vocabulary = vocabulary or ByteVocabulary()
    cache = MemoryCache(task, "train", vocabulary, {"targets": [np.arange(160) % 90 + 5] * 3})
    return Stream(kind(cache, length), batch_size, seed)


@dataclasses.dataclass(frozen=True)
class OtherVocabulary(ByteVocabulary):
    fingerprint = "other"


def check(old, new, may_differ=()):
    resuming.check(resuming.describe(old), resuming.describe(new), "here", may_differ)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "two"}, "other data: task was 'one/train', now 'two/train'. Set it back"),
        ({"length": 8}, "other data: lengths was 'decoder 16', now 'decoder 8'. Set it back"),
        ({"batch_size": 8}, "other data: batch_size was 4, now 8. Set it back (trainer.train.change_batch_size=True"),
        ({"seed": 3}, "other data: seed was 0, now 3. Set it back"),
        ({"vocabulary": OtherVocabulary()}, "other data: tokenizer was "),
        ({"task": "two", "seed": 3}, "task was 'one/train', now 'two/train'; seed was 0, now 3. Set it back"),
        ({"kind": rows.PrefixLM}, "other data: rows was 'CausalLM("),
    ],
)
def test_what_changed_is_named_with_both_values(changes, message):
    with pytest.raises(ValueError, match="the checkpoints in here were trained on") as caught:
        check(stream(), stream(**changes))
    assert message in str(caught.value), caught.value
    check(stream(), stream())


def test_a_rebuilt_token_cache_is_named():
    old, new = resuming.describe(stream()), resuming.describe(stream())
    new["stream"] |= {"token caches": "abc", "rows": "CausalLM(abc)"}
    with pytest.raises(ValueError, match="token caches was .*, now 'abc'.*code or the version.*TokenCache.finger"):
        resuming.check(old, new, "here", ())


def test_only_what_may_differ_is_accepted():
    check(stream(), stream(batch_size=8), ["batch_size"])
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        check(stream(), stream(batch_size=8, seed=1), ["batch_size"])
    later = resuming.continue_stream(stream(batch_size=8), resuming.describe(stream()), 5)
    with pytest.raises(ValueError, match="earlier batches was"):  # a rollback to a checkpoint before the change
        check(stream(batch_size=8), later)


def test_checkpoints_without_a_description_are_compared_by_fingerprint():
    current = resuming.describe(stream())
    resuming.check({"data": current["data"]}, current, "here", ())
    with pytest.raises(ValueError, match="data was 'imported', now"):
        resuming.check({"data": "imported"}, current, "here", ())


@pytest.mark.parametrize("sizes", [(4, 4), (4, 8), (8, 2, 2, 6)])
def test_a_continued_stream_reads_every_row_once(sizes):
    stored, batch, seen = {}, 0, []
    for size in sizes:
        current = resuming.continue_stream(stream(batch_size=size), stored, batch)
        for number in range(batch, batch + 3):
            seen += current[number]["decoder_input_tokens"].tolist()
        batch += 3
        stored = resuming.describe(current)
    whole = stream(batch_size=len(seen))[0]["decoder_input_tokens"]
    np.testing.assert_array_equal(np.array(seen), whole)
