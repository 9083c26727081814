"""Groups of rows: each is whole and in order, once an epoch, on any number of hosts and from any step."""

import dataclasses

import numpy as np
import pytest

from t5x_like import batches
from t5x_like.data.mixing import Mixture
from t5x_like.data.stream import Stream
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Rows that are their own numbers, `group` of which belong together."""

    group: int
    size: int = 96
    first: int = 0

    lengths = {"decoder": 2}  # noqa: RUF012
    vocabulary = BYTES
    extra_features = {"epoch": batches.Feature((), "int64")}  # noqa: RUF012
    caches = ()

    @property
    def fingerprint(self):
        return f"Grouped({self.group}, {self.size}, {self.first})"

    def __len__(self):
        return self.size

    def fetch(self, index_n, epoch_n, seed):
        numbers = np.repeat((index_n + self.first).astype(np.int32)[:, None], 2, axis=1)
        ones = np.ones_like(numbers)
        return {
            "decoder_input_tokens": numbers,
            "decoder_segment_ids": ones,
            "decoder_loss_weights": ones.astype(np.float32),
            "epoch": epoch_n,
        }


def numbers(batch):
    return batch["decoder_input_tokens"][:, 0]


def assert_whole(rows, group):
    """Every group of neighbours is a group, in order."""
    groups = rows.reshape(-1, group)
    assert not (groups[:, 0] % group).any()
    np.testing.assert_array_equal(groups, groups[:, :1] + np.arange(group))


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_group_comes_whole_once_an_epoch(group, shuffle):
    stream = Stream(Grouped(group), 8, seed=3, shuffle=shuffle)
    epochs = [np.concatenate([numbers(stream[12 * epoch + part]) for part in range(12)]) for epoch in range(3)]
    for epoch in epochs:
        assert_whole(epoch, group)
        assert sorted(epoch) == list(range(96))
    assert len({tuple(epoch) for epoch in epochs}) == (3 if shuffle else 1)


@pytest.mark.parametrize("group", [2, 4])
def test_a_batch_over_the_end_of_an_epoch_has_whole_groups(group):
    stream = Stream(Grouped(group, size=20), 16)
    for step in range(5):
        assert_whole(numbers(stream[step]), group)


@pytest.mark.parametrize("group", [2, 4])
def test_hosts_and_resumed_runs_make_the_same_groups(group):
    mixture = Mixture([Grouped(group), Grouped(group, 40, 1000)], (2.0, 1.0), window=48)
    for rows in (Grouped(group), mixture):
        stream = Stream(rows, 16, seed=1)
        forward = [stream[k] for k in range(9)]
        for k in (8, 0, 5):
            again = Stream(rows, 16, seed=1)
            for hosts in (1, 2, 4):
                share = 16 // hosts
                parts = [again.slice(k, host * share, (host + 1) * share) for host in range(hosts)]
                for part in parts:
                    assert_whole(numbers(part), group)
                for name, x in forward[k].items():
                    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x)


@pytest.mark.parametrize("group", [2, 4])
def test_a_mixture_has_its_shares_in_whole_groups(group):
    mixture = Mixture([Grouped(group), Grouped(group, 16, 1000)], (3.0, 1.0), window=32)
    assert mixture.group == group and mixture.quotas.tolist() == [24, 8]
    stream = Stream(mixture, 32)
    windows = [numbers(stream[step]) for step in range(6)]
    for rows in windows:
        assert_whole(rows, group)
        assert (rows >= 1000).sum() == 8
    for window in (0, 2, 4):  # two windows are an epoch of the second component
        epoch = np.concatenate(windows[window : window + 2])
        assert sorted(epoch[epoch >= 1000]) == list(range(1000, 1016))


@pytest.mark.parametrize("group", [2, 4])
def test_any_rates_give_quotas_of_whole_groups(group):
    mixture = Mixture([Grouped(group), Grouped(group, 40), Grouped(group, 60)], (2.0, 1.3, 0.4), window=104)
    assert mixture.quotas.sum() == 104 and not (mixture.quotas % group).any()
    np.testing.assert_allclose(mixture.quotas, np.array([2.0, 1.3, 0.4]) / 3.7 * 104, atol=group)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_once_gives_every_group_in_order_and_fills_up_with_masked_groups(group):
    steps = list(Stream(Grouped(group, 12), 8).once())
    batch = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    assert numbers(batch)[:12].tolist() == list(range(12)) and len(steps) == 2
    assert_whole(numbers(batch), group) if group > 1 else None
    assert not batch["decoder_segment_ids"][12:].any() and not batch["decoder_loss_weights"][12:].any()
    assert batch["decoder_segment_ids"][:12].all()


def test_another_group_is_another_stream():
    same_name = type("Same", (Grouped,), {"fingerprint": "same"})
    assert Stream(same_name(1), 8).fingerprint != Stream(same_name(2), 8).fingerprint


def test_the_features_of_a_group_are_checked_on_a_whole_group():
    assert batches.abstract(Grouped(4), 8)["decoder_input_tokens"].shape == (8, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stream(Grouped(4), 6), r"batch_size=6 is not a multiple of 4 .* use 4 or 8"),
        (lambda: Stream(Grouped(4, 10), 8), r"Grouped has 10 rows per epoch in groups of 4"),
        (lambda: Stream(Grouped(0), 8), r"in groups of 0"),
        (lambda: Mixture([Grouped(4), Grouped(2)]), r"differ in group: 4, 2"),
        (lambda: Mixture([Grouped(4), Grouped(4)], (1, 1), window=10), r"window=10 is not a multiple .* 4 rows; use 8"),
        (lambda: Mixture([Grouped(4), Grouped(4, 10)], (1, 1), window=8), r"Grouped has 10 rows per epoch"),
    ],
)
def test_sizes_that_would_split_a_group_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
