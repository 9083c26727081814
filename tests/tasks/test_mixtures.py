"""Groups of instruction tasks: training and held-out tasks are disjoint."""

import functools
import itertools

import pytest

from t5x_like.tasks.instructions import groups

GROUPS = groups.GROUPS
interleave = functools.partial(groups.interleave, groups.make_all_tasks)


def test_every_task_is_for_training_or_held_out():
    training, held_out = set(GROUPS["instruction_all"]), set(GROUPS["instruction_all_held_out"])
    assert not training & held_out and training | held_out == set(groups.ALL)
    assert set(GROUPS["instruction_worlds"]) | set(GROUPS["instruction_code"]) == training
    assert set(GROUPS["instruction_worlds_held_out"]) < held_out


def test_held_out_clusters_are_not_in_training():
    clusters = {groups.ALL[name].cluster for name in GROUPS["instruction_all"]}
    assert not clusters & set(groups.HELD_OUT_CLUSTERS)


@pytest.mark.parametrize("name", groups.HELD_OUT_LIST_TASKS)
def test_operation_and_kind_of_a_held_out_list_task_are_in_training(name):
    operation, _, kind = name.rpartition("_")
    others = set(GROUPS["instruction_worlds"])
    assert sum(other.startswith(f"{operation}_") for other in others) >= 2
    assert sum(other.endswith(f"_of_{kind}") for other in others) >= 5


def test_interleaving_takes_turns_and_limits_each_task():
    examples = list(interleave("instruction_worlds_held_out", 3, "validation"))
    names = GROUPS["instruction_worlds_held_out"]
    assert [one["task"] for one in examples[: len(names)]] == list(names)
    assert all(sum(one["task"] == name for one in examples) == 3 for name in names)
    assert list(interleave("instruction_worlds_held_out", 3, "validation")) == examples


def test_no_held_out_text_is_in_training():
    def texts(group, split):
        return {one["inputs"] for one in itertools.islice(interleave(group, 30, split), 2_000)}

    held_out = texts("instruction_worlds_held_out", "validation")
    assert not held_out & texts("instruction_worlds", "train")


def test_mixtures_hold_the_tasks_of_their_groups_with_limited_rates():
    import seqio

    from t5x_like.tasks import mixtures

    mixture = seqio.MixtureRegistry.get("instruction_worlds_held_out_bytes")
    names = [task.name.removesuffix("_bytes") for task in mixture.tasks]
    assert sorted(names) == sorted(GROUPS["instruction_worlds_held_out"])
    rates = {name: mixture.get_rate(seqio.TaskRegistry.get(f"{name}_bytes")) for name in ("lookup", "last_of_numbers")}
    assert all(0 < rate <= mixtures.MAX_EXAMPLES for rate in rates.values())
    group = seqio.TaskRegistry.get("instruction_worlds_held_out_together_bytes")
    example = next(group.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    assert example["task"].decode() == GROUPS["instruction_worlds_held_out"][0]
    assert example["targets_pretokenized"] and example["targets"][-1] == 1
