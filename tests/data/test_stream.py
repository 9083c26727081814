"""The stream is a pure function of the step: in any order of steps and after any restart."""

import itertools
import threading
import time

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.prefetch import Prefetch
from t5x_like.data.stream import Stream, permute
from tests.data.rows import kinds


@pytest.fixture(params=kinds.KINDS)
def rows_(request, tiny_root):
    return kinds.make(request.param, tiny_root)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batches_do_not_depend_on_earlier_calls(rows_):
    stream, again = Stream(rows_, 7, seed=3), Stream(rows_, 7, seed=3)
    forward = [stream[k] for k in range(6)]
    for k in (5, 0, 3):
        assert_equal(again[k], forward[k])


class Numbers:
    """Rows that contain their own indices."""

    fingerprint = "numbers"
    group = 1

    def __len__(self) -> int:
        return 90

    def fetch(self, index_n, epoch_n, seed):
        return {"index": index_n, "epoch": epoch_n}


def test_an_epoch_has_every_row_once_and_another_order_than_the_next():
    stream = Stream(Numbers(), 30)
    epochs = [np.concatenate([stream[3 * epoch + part]["index"] for part in range(3)]) for epoch in range(4)]
    assert all(sorted(order) == list(range(90)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    assert [set(stream[k]["epoch"].tolist()) for k in (0, 2, 3, 11)] == [{0}, {0}, {1}, {3}]


def test_another_seed_gives_another_order(rows_):
    name = next(iter(rows_.fetch(np.zeros(1, int), np.zeros(1, int), 0)))
    assert not np.array_equal(Stream(rows_, 16, seed=0)[0][name], Stream(rows_, 16, seed=1)[0][name])
    assert Stream(rows_, 16, seed=0).fingerprint != Stream(rows_, 16, seed=1).fingerprint


def test_a_batch_may_be_larger_than_an_epoch(rows_):
    size = len(rows_)
    batch = Stream(rows_, 2 * size + 1)[0]
    assert {len(x) for x in batch.values()} == {2 * size + 1}


def test_once_returns_every_row_in_order_and_masks_the_rows_that_fill_up(rows_):
    size = len(rows_)
    batches = list(Stream(rows_, 5).once())
    plain = rows_.fetch(np.arange(size), np.zeros(size, np.int64), 0)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in plain}
    assert_equal({name: x[:size] for name, x in joined.items()}, plain)
    for name, x in joined.items():
        if name.endswith(("_segment_ids", "_loss_weights")):
            assert not x[size:].any()


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4099])
def test_the_order_of_an_epoch_is_a_permutation(size):
    for seed, epoch in itertools.product((0, 1), (0, 5)):
        order = permute(np.arange(size), size, seed, np.full(size, epoch))
        assert sorted(order.tolist()) == list(range(size))


def test_every_order_of_a_small_epoch_occurs():
    orders = {tuple(permute(np.arange(4), 4, 0, np.full(4, epoch))) for epoch in range(600)}
    assert len(orders) == 24


def test_the_order_looks_random():
    size = 20_000
    order = permute(np.arange(size), size, 0, np.zeros(size, int))
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.03
    assert abs(np.mean(np.abs(np.diff(order))) / size - 1 / 3) < 0.01


def test_prefetch_keeps_the_order_and_raises_the_exception_of_make():
    def make(item):
        if item == 3:
            raise ValueError("third")
        return item * 10

    items = Prefetch(make, range(10))
    assert [next(items) for _ in range(3)] == [0, 10, 20]
    for _ in range(2):
        with pytest.raises(ValueError, match="third"):
            next(items)
    items.close()
    assert list(Prefetch(str, range(3))) == ["0", "1", "2"]


def test_prefetch_counts_the_wait_and_ends_its_thread():
    items = Prefetch(lambda _: time.sleep(0.05), itertools.count())
    next(items)
    assert items.waited > 0.03
    items.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(batch_size=0), "batch_size=0"),
        (dict(batch_size=4, seed=-1), "seed=-1"),
        (dict(batch_size=4, rows=10**6), "has no rows: its data is shorter than one row"),
    ],
)
def test_bad_streams_are_refused(tiny_root, options, message):
    cache = TokenCache("tiny", "train", root=str(tiny_root))
    rows_ = rows.CausalLM(cache, options.pop("rows", 16))
    with pytest.raises(ValueError, match=message):
        Stream(rows_, **options)


def test_any_seed_works(rows_):
    for seed in (0, 2**40, 2**63 - 1):
        assert Stream(rows_, 4, seed=seed)[3]
