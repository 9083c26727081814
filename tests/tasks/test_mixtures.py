"""Groups of instruction tasks: nothing that is held out is trained on."""

import functools
import itertools

import pytest

from t5x_like.tasks.instructions import sets

GROUPS = sets.GROUPS
together = functools.partial(sets.together, sets.every)


def test_every_task_is_trained_on_or_held_out():
    trained, held = set(GROUPS["instruction_all"]), set(GROUPS["instruction_all_held_out"])
    assert not trained & held and trained | held == set(sets.ALL)
    assert set(GROUPS["instruction_worlds"]) | set(GROUPS["instruction_code"]) == trained
    assert set(GROUPS["instruction_worlds_held_out"]) < held


def test_a_held_out_cluster_leaves_nothing_in_training():
    clusters = {sets.ALL[name].cluster for name in GROUPS["instruction_all"]}
    assert not clusters & set(sets.HELD_OUT_CLUSTERS)


@pytest.mark.parametrize("name", sets.HELD_OUT_CELLS)
def test_of_a_held_out_cell_operation_and_kind_are_trained_apart(name):
    operation, _, kind = name.rpartition("_")
    others = set(GROUPS["instruction_worlds"])
    assert sum(other.startswith(f"{operation}_") for other in others) >= 2
    assert sum(other.endswith(f"_of_{kind}") for other in others) >= 5


def test_a_group_as_one_stream_takes_turns_and_keeps_to_its_cap():
    made = list(together("instruction_worlds_held_out", 3, "validation"))
    names = GROUPS["instruction_worlds_held_out"]
    assert [one["task"] for one in made[: len(names)]] == list(names)
    assert all(sum(one["task"] == name for one in made) == 3 for name in names)
    again = together("instruction_worlds_held_out", 3, "validation")
    assert list(again) == made


def test_no_text_is_in_training_and_among_the_held_out():
    def texts(group, split):
        return {one["inputs"] for one in itertools.islice(together(group, 30, split), 2_000)}

    held = texts("instruction_worlds_held_out", "validation")
    assert not held & texts("instruction_worlds", "train")


def test_mixtures_hold_the_tasks_of_their_groups_at_their_capped_sizes():
    import seqio

    from t5x_like.tasks import mixtures

    mixture = seqio.MixtureRegistry.get("instruction_worlds_held_out_bytes")
    names = [task.name.removesuffix("_bytes") for task in mixture.tasks]
    assert sorted(names) == sorted(GROUPS["instruction_worlds_held_out"])
    rates = {name: mixture.get_rate(seqio.TaskRegistry.get(f"{name}_bytes")) for name in ("lookup", "last_of_numbers")}
    assert all(0 < rate <= mixtures.CAP for rate in rates.values())
    group = seqio.TaskRegistry.get("instruction_worlds_held_out_together_bytes")
    example = next(group.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    assert example["task"].decode() == GROUPS["instruction_worlds_held_out"][0]
    assert example["targets_pretokenized"] and example["targets"][-1] == 1
