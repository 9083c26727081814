"""Modular addition: every pair once, correct sums, one id per number."""

import functools

import numpy as np
import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.tokenizers import vocabularies


@functools.cache
def read_task(modulus=23, train_fraction=0.4, seed=0) -> dict[str, list[tuple[int, int, int]]]:
    """Defines a task and returns its (a, b, sum) by split, in seqio's order."""
    import seqio

    from t5x_like.tasks.synthetic import modular

    name = f"modular_test_{modulus}_{train_fraction}_{seed}".replace(".", "_")
    modular.define(name, modulus, train_fraction, seed)
    task = seqio.TaskRegistry.get(name)
    rows_by_split = {}
    for split in ("train", "validation"):
        dataset = task.get_dataset(None, split, shuffle=False, trim_output_features=False)
        rows_by_split[split] = [
            (*map(int, e["inputs"] - 3), *map(int, e["targets"] - 3)) for e in dataset.as_numpy_iterator()
        ]
    return rows_by_split


def test_every_pair_is_in_one_split_with_its_sum():
    rows_by_split = read_task()
    assert len(rows_by_split["train"]) == round(0.4 * 23 * 23)
    assert sorted((a, b) for split in rows_by_split.values() for a, b, _ in split) == [
        (a, b) for a in range(23) for b in range(23)
    ]
    assert all(c == (a + b) % 23 for split in rows_by_split.values() for a, b, c in split)


def test_the_split_depends_on_the_seed_only():
    from t5x_like.tasks.synthetic import modular

    again = [tuple(map(ord, e["inputs"] + e["targets"])) for e in modular.pairs(23, 0.4, 0, "train")]
    assert again == read_task()["train"]
    assert set(read_task(seed=1)["train"]) != set(read_task()["train"])


def test_the_largest_numbers_are_one_id():
    rows_by_split = read_task(128, 0.9)
    assert max(max(row) for row in rows_by_split["validation"]) == 127


@pytest.mark.parametrize(
    ("modulus", "fraction", "message"), [(129, 0.5, "modulus=129"), (7, 1.0, "train_fraction=1.0")]
)
def test_invalid_arguments_are_refused(modulus, fraction, message):
    from t5x_like.tasks.synthetic import modular

    with pytest.raises(ValueError, match=message):
        modular.define("modular_refused", modulus, fraction)


def test_the_loss_of_the_recipe_is_on_the_sum():
    examples = [{"inputs": np.array([a, b]) + 3, "targets": np.array([c]) + 3} for a, b, c in read_task()["train"]]
    cache = MemoryCache.from_examples("sums", "train", vocabularies.ByteVocabulary(), ("inputs", "targets"), examples)
    rows = runtime.parse(["runs/grokking.gin"], ["--gin.RUN_DIR=/nowhere"]).evaluate("%ROWS")(cache=cache)
    assert len(rows) == len(examples)
    batch = rows.fetch(np.arange(len(rows)), np.zeros(len(rows), np.int64), 0)
    np.testing.assert_array_equal(batch["decoder_loss_weights"], np.tile([0.0, 0.0, 1.0], (len(rows), 1)))
    a_B, b_B, sum_B = batch["decoder_target_tokens"].T - 3
    np.testing.assert_array_equal(sum_B, (a_B + b_B) % 23)
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], batch["decoder_target_tokens"][:, :2])
