"""Mixtures: exact shares, every row of every component used once per epoch, the same batches on any number of hosts."""

import numpy as np
import pytest

from t5x_like.data import mixing, rows
from t5x_like.data.mixing import Mixture, Proportional
from t5x_like.data.stream import Stream
from tests import tiny_cache


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Rows of two tasks that can be told apart by their tokens: one with many rows, one with few."""
    root = tmp_path_factory.mktemp("mixing")
    texts = {"many": tiny_cache.documents(200, 0), "few": ["x" * 60 + str(i % 10) for i in range(20)]}
    caches = [tiny_cache.write(root, {"targets": text}, task) for task, text in texts.items()]
    return [rows.CausalLM(cache, length=16) for cache in caches]


def task_of(batch, parts) -> np.ndarray:
    """1 for the rows of `few`, whose text is x and digits."""
    few = {b + 3 for b in b"x0123456789"} | {1}
    return np.array([set(row.tolist()) <= few for row in batch["decoder_target_tokens"]]).astype(int)


def test_shares_are_exact_in_every_window(parts):
    stream = Stream(Mixture(parts, (3.0, 1.0), window=64), batch_size=16)
    for window in range(6):
        tasks = np.concatenate([task_of(stream[4 * window + i], parts) for i in range(4)])
        assert tasks.sum() == 16


def test_every_row_of_a_component_is_used_once_an_epoch(parts):
    mixture = Mixture(parts, (1.0, 1.0), window=2 * len(parts[1]))
    stream = Stream(mixture, batch_size=len(mixture))
    orders = []
    for step in range(3):
        batch = stream[step]
        few = batch["decoder_target_tokens"][task_of(batch, parts) == 1]
        whole = parts[1].fetch(np.arange(len(parts[1])), np.zeros(len(parts[1]), np.int64), 0)
        assert sorted(map(tuple, few)) == sorted(map(tuple, whole["decoder_target_tokens"]))
        orders.append(few.tobytes())
    assert len(set(orders)) == 3


def test_slices_of_a_batch_join_to_the_batch(parts):
    stream = Stream(Mixture(parts, (2.0, 1.0), window=96), batch_size=12, seed=3)
    whole = stream[7]
    for name, x in whole.items():
        pieces = [stream.slice(7, start, start + 4)[name] for start in (0, 4, 8)]
        np.testing.assert_array_equal(np.concatenate(pieces), x)


def test_a_mixture_of_one_component_has_its_rows(parts):
    mixture = Mixture([parts[0]], (1.0,), window=len(parts[0]))
    got = Stream(mixture, batch_size=len(mixture))[0]["decoder_target_tokens"]
    whole = Stream(parts[0], batch_size=len(parts[0]))[0]["decoder_target_tokens"]
    assert sorted(map(tuple, got)) == sorted(map(tuple, whole))


def test_proportional_rates_are_capped_and_tempered():
    np.testing.assert_allclose(Proportional()([1, 3]), [1, 3])
    np.testing.assert_allclose(Proportional(cap=2)([1, 100]), [1, 2])
    np.testing.assert_allclose(Proportional(temperature=2.0)([4, 9]), [2, 3])


def test_other_shares_change_the_fingerprint(parts):
    one, two = (Stream(Mixture(parts, rates), batch_size=8).fingerprint for rates in ((1.0, 1.0), (1.0, 2.0)))
    assert one != two


def test_task_one_hot_tells_the_task_of_a_row(parts):
    mixture = Mixture(parts, (3.0, 1.0), window=64)
    batch = Stream(mixture, batch_size=64)[2]
    np.testing.assert_array_equal(batch["task_one_hot"].sum(axis=1), 1)
    np.testing.assert_array_equal(batch["task_one_hot"].argmax(axis=1), task_of(batch, parts))
    assert list(mixture.components) == ["many", "few"]


def test_a_mixture_of_mixtures_has_the_inner_mixtures_as_components(parts):
    inner = Mixture(parts, (1.0, 1.0), window=8)
    outer = Mixture([inner, parts[0]], (1.0, 1.0), window=32)
    batch = Stream(outer, batch_size=32)[0]
    assert batch["task_one_hot"].shape == (32, 2) and task_of(batch, parts).sum() == 8
    assert list(outer.components) == ["many+few", "many"] and len(outer.caches) == 3


def test_the_same_task_twice_has_two_names(parts):
    assert list(Mixture([parts[0]] * 3, (1, 1, 1)).components) == ["many", "many_2", "many_3"]


def test_tasks_are_a_name_several_names_or_names_with_rates(parts):
    caches = {rows.cache.task: rows.cache for rows in parts}

    def mix(tasks, **options):
        return mixing.mix_tasks(lambda cache: rows.CausalLM(cache, 16), lambda task: caches[task], tasks, **options)

    assert mix("few").fingerprint == parts[1].fingerprint
    sizes = [len(part) for part in parts]
    assert mix(("many", "few")).quotas == pytest.approx(np.array(sizes) / sum(sizes) * 2**13, abs=1)
    assert mix({"many": 3, "few": 1}).quotas.tolist() == [6144, 2048]
    assert mix(("many", "few"), rates=Proportional(cap=1)).quotas.tolist() == [4096, 4096]
    with pytest.raises(ValueError, match="names no task"):
        mix(())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda parts: Mixture([]), "at least one component"),
        (lambda parts: Mixture(parts, (1.0,)), r"rates=\[1.0\] are not 2 positive numbers"),
        (lambda parts: Mixture(parts, (1.0, -1.0)), r"rates=\[1.0, -1.0\] are not 2 positive numbers"),
        (lambda parts: Mixture(parts, (1.0, 1e-9)), r"window=8192 gives the components \[8192, 0\] rows"),
        (lambda parts: Mixture([parts[0], rows.CausalLM(parts[1].cache, 8)]), r"differ in lengths"),
        (lambda parts: Mixture(parts, mixing.Proportional(temperature=0.0)), "must be positive"),
    ],
)
def test_bad_mixtures_are_refused(parts, make, message):
    with pytest.raises(ValueError, match=message):
        make(parts)
