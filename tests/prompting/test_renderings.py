"""Renderings: exemplars differ from the question and do not depend on the order of the examples."""

import dataclasses
import functools

import pytest

from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import (
    Rendition,
    Shots,
    add_steps,
    extract_answer,
    select_pool,
    to_messages,
    to_pair,
)
from t5x_like.prompting.splits import hold_out_share, hold_out_tasks
from t5x_like.prompting.templates import Template, choose_templates, render

TEMPLATES = (
    Template("plus", "{{ a }} plus {{ b }}?", "{{ a + b }}"),
    Template("sum", "Sum: {{ a }} {{ b }}", "{{ a + b }}"),
)
EXAMPLES = [{"a": a, "b": b, "rationale": f"Count {b} on from {a}."} for a in range(5) for b in range(4)]
TWO = [{"inputs": "q1", "targets": "a1"}, {"inputs": "q2", "targets": "a2"}]


def render_shots(example, counts, pool=EXAMPLES, templates=TEMPLATES, seed=0, number=0):
    choose = functools.partial(choose_templates, templates, "task", 2, seed)
    return renderings.render_with_shots(choose, Shots(counts), "task", seed, pool, example, number)


@pytest.mark.parametrize("example", EXAMPLES)
def test_exemplars_are_other_examples_with_the_same_template(example):
    rendition = render_shots(example, (4,), pool=EXAMPLES * 2)
    inputs = [one["inputs"] for one in rendition.exemplars]
    assert len({*inputs, rendition.question["inputs"]}) == 5
    template = next(t for t in TEMPLATES if render(t, example) == rendition.question)
    assert all(one in [render(template, x) for x in EXAMPLES] for one in rendition.exemplars)


def test_the_number_of_exemplars_is_one_of_the_counts_and_all_occur():
    assert {len(render_shots(example, (0, 1, 3)).exemplars) for example in EXAMPLES} == {0, 1, 3}
    assert all(not render_shots(example, (0,), pool=()).exemplars for example in EXAMPLES)


def test_a_pool_does_not_depend_on_the_order_of_examples():
    shots = Shots((2,), pool=6)
    pool = select_pool(EXAMPLES, shots, "task")
    assert pool == select_pool(EXAMPLES[::-1], shots, "task") and len(pool) == 6 and pool != EXAMPLES[:6]
    assert render_shots(EXAMPLES[0], (2,)) == render_shots(dict(reversed(EXAMPLES[0].items())), (2,))
    assert len({str(render_shots(EXAMPLES[0], (2,), seed=seed).exemplars) for seed in range(5)}) > 1
    assert render_shots(EXAMPLES[0], (2,), number=0) != render_shots(EXAMPLES[0], (2,), number=1)


def test_too_small_a_pool_is_refused():
    same = [EXAMPLES[0], EXAMPLES[0] | {"rationale": "otherwise"}, EXAMPLES[1]]
    with pytest.raises(ValueError, match="needs 2 other examples to show, the pool of 3 has 1"):
        render_shots(EXAMPLES[0], (2,), pool=same)
    with pytest.raises(ValueError, match="counts=.7,. needs more examples than pool=7"):
        Shots((7,), pool=7)
    with pytest.raises(ValueError, match="must be numbers"):
        Shots(())


def test_pairs_and_chats_hold_the_same_texts():
    rendition = Rendition({"inputs": "q3", "targets": "a3", "choices": ["a3", "b"]}, tuple(TWO))
    pair = to_pair(rendition, Shots((2,), between=" = ", separator="; "))
    assert pair == {"inputs": "q1 = a1; q2 = a2; q3 = ", "targets": "a3", "choices": ["a3", "b"]}
    assert to_pair(dataclasses.replace(rendition, exemplars=()), Shots())["inputs"] == "q3"
    turns = [(m["role"], m["content"]) for m in to_messages(rendition, "Be brief.")]
    roles = ["system", *["user", "assistant"] * 3]
    assert turns == list(zip(roles, ["Be brief.", "q1", "a1", "q2", "a2", "q3", "a3"], strict=True))
    assert to_messages(rendition)[0]["role"] == "user"


def test_steps_come_before_the_answer_which_can_be_extracted():
    for plain, steps in zip(TEMPLATES, add_steps(TEMPLATES), strict=True):
        for example in EXAMPLES:
            short, long = render(plain, example), render(steps, example)
            assert long["inputs"].startswith(short["inputs"]) and len(long["inputs"]) > len(short["inputs"])
            assert long["targets"].startswith(example["rationale"])
            assert extract_answer(long["targets"]) == short["targets"]
    with pytest.raises(ValueError, match="template 'plus_steps', targets: 'rationale' is undefined"):
        render(add_steps(TEMPLATES)[0], {"a": 1, "b": 2})
    assert add_steps([Template("r", "", "x", ("x", "y"))])[0].choices is None


CLUSTERS = {f"task{i}": f"cluster{i % 7}" for i in range(30)}


@pytest.mark.parametrize(
    "split", [hold_out_tasks(CLUSTERS, ["task3", "task11"]), *(hold_out_share(CLUSTERS, 0.3, s) for s in (0, 1))]
)
def test_no_task_and_no_cluster_is_on_both_sides(split):
    training, held_out = split
    assert sorted(training + held_out) == sorted(CLUSTERS) and training and held_out
    assert not {CLUSTERS[task] for task in training} & {CLUSTERS[task] for task in held_out}


def test_the_share_is_of_clusters_and_selected_by_hash():
    draws = {hold_out_share(CLUSTERS, 0.3, seed) for seed in range(8)}
    assert len(draws) > 2 and all(len({CLUSTERS[task] for task in out}) == 3 for _, out in draws)
    assert hold_out_share(dict(reversed(CLUSTERS.items())), 0.3)[1] == hold_out_share(CLUSTERS, 0.3)[1][::-1]
    assert {"task3", "task10", "task11"} <= set(hold_out_tasks(CLUSTERS, ["task3", "task11"])[1])


@pytest.mark.parametrize(
    "split, message",
    [
        (lambda: hold_out_tasks(CLUSTERS, ["task99"]), "names=.'task99'. are none of the tasks"),
        (lambda: hold_out_tasks(CLUSTERS, CLUSTERS), "30 of 30 tasks"),
        (lambda: hold_out_tasks(CLUSTERS, []), "0 of 30 tasks"),
        (lambda: hold_out_share(CLUSTERS, 1.0), "share=1.0 is not between 0 and 1"),
    ],
)
def test_splits_with_an_empty_side_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        split()
