"""Renderings: exemplars are other examples than the one asked, whatever order the examples come in."""

import dataclasses
import functools

import pytest

from t5x_like.prompting import renderings
from t5x_like.prompting.held_out import held_out, held_out_share
from t5x_like.prompting.renderings import Rendition, Shots, as_messages, as_pair, final_answer, pool_of, with_steps
from t5x_like.prompting.templates import Template, chosen, render

TEMPLATES = (
    Template("plus", "{{ a }} plus {{ b }}?", "{{ a + b }}"),
    Template("sum", "Sum: {{ a }} {{ b }}", "{{ a + b }}"),
)
EXAMPLES = [{"a": a, "b": b, "rationale": f"Count {b} on from {a}."} for a in range(5) for b in range(4)]
TWO = [{"inputs": "q1", "targets": "a1"}, {"inputs": "q2", "targets": "a2"}]


def rendition(example, counts, pool=EXAMPLES, templates=TEMPLATES, seed=0, number=0):
    choose = functools.partial(chosen, templates, "task", 2, seed)
    return renderings.rendition(choose, Shots(counts), "task", seed, pool, example, number)


@pytest.mark.parametrize("example", EXAMPLES)
def test_shown_are_other_examples_of_the_same_wording(example):
    made = rendition(example, (4,), pool=EXAMPLES * 2)
    shown = [one["inputs"] for one in made.shown]
    assert len({*shown, made.asked["inputs"]}) == 5
    wording = next(t for t in TEMPLATES if render(t, example) == made.asked)
    assert all(one in [render(wording, x) for x in EXAMPLES] for one in made.shown)


def test_the_number_shown_is_drawn_from_those_given_and_all_happen():
    assert {len(rendition(example, (0, 1, 3)).shown) for example in EXAMPLES} == {0, 1, 3}
    assert all(not rendition(example, (0,), pool=()).shown for example in EXAMPLES)


def test_a_pool_is_the_same_in_whatever_order_it_is_read():
    shots = Shots((2,), pool=6)
    pool = pool_of(EXAMPLES, shots, "task")
    assert pool == pool_of(EXAMPLES[::-1], shots, "task") and len(pool) == 6 and pool != EXAMPLES[:6]
    assert rendition(EXAMPLES[0], (2,)) == rendition(dict(reversed(EXAMPLES[0].items())), (2,))
    assert len({str(rendition(EXAMPLES[0], (2,), seed=seed).shown) for seed in range(5)}) > 1
    assert rendition(EXAMPLES[0], (2,), number=0) != rendition(EXAMPLES[0], (2,), number=1)


def test_too_small_a_pool_is_refused():
    same = [EXAMPLES[0], EXAMPLES[0] | {"rationale": "otherwise"}, EXAMPLES[1]]
    with pytest.raises(ValueError, match="needs 2 other examples to show, the pool of 3 has 1"):
        rendition(EXAMPLES[0], (2,), pool=same)
    with pytest.raises(ValueError, match="counts=.7,. want more examples than pool=7"):
        Shots((7,), pool=7)
    with pytest.raises(ValueError, match="are no numbers"):
        Shots(())


def test_as_text_and_as_chat_hold_the_same():
    made = Rendition({"inputs": "q3", "targets": "a3", "choices": ["a3", "b"]}, tuple(TWO))
    pair = as_pair(made, Shots((2,), between=" = ", separator="; "))
    assert pair == {"inputs": "q1 = a1; q2 = a2; q3 = ", "targets": "a3", "choices": ["a3", "b"]}
    assert as_pair(dataclasses.replace(made, shown=()), Shots())["inputs"] == "q3"
    turns = [(m["role"], m["content"]) for m in as_messages(made, "Be brief.")]
    roles = ["system", *["user", "assistant"] * 3]
    assert turns == list(zip(roles, ["Be brief.", "q1", "a1", "q2", "a2", "q3", "a3"], strict=True))
    assert as_messages(made)[0]["role"] == "user"


def test_steps_come_before_the_answer_which_is_found_again():
    for plain, steps in zip(TEMPLATES, with_steps(TEMPLATES), strict=True):
        for example in EXAMPLES:
            asked, answered = render(plain, example), render(steps, example)
            assert answered["inputs"].startswith(asked["inputs"]) and len(answered["inputs"]) > len(asked["inputs"])
            assert answered["targets"].startswith(example["rationale"])
            assert final_answer(answered["targets"]) == asked["targets"]
    with pytest.raises(ValueError, match="template 'plus_steps', targets: 'rationale' is undefined"):
        render(with_steps(TEMPLATES)[0], {"a": 1, "b": 2})
    assert with_steps([Template("r", "", "x", ("x", "y"))])[0].choices is None


CLUSTERS = {f"task{i}": f"cluster{i % 7}" for i in range(30)}


@pytest.mark.parametrize(
    "split", [held_out(CLUSTERS, ["task3", "task11"]), *(held_out_share(CLUSTERS, 0.3, s) for s in (0, 1))]
)
def test_no_task_and_no_cluster_is_on_both_sides(split):
    trained, out = split
    assert sorted(trained + out) == sorted(CLUSTERS) and trained and out
    assert not {CLUSTERS[task] for task in trained} & {CLUSTERS[task] for task in out}


def test_the_share_is_of_clusters_and_drawn_by_hash():
    draws = {held_out_share(CLUSTERS, 0.3, seed) for seed in range(8)}
    assert len(draws) > 2 and all(len({CLUSTERS[task] for task in out}) == 3 for _, out in draws)
    assert held_out_share(dict(reversed(CLUSTERS.items())), 0.3)[1] == held_out_share(CLUSTERS, 0.3)[1][::-1]
    assert {"task3", "task10", "task11"} <= set(held_out(CLUSTERS, ["task3", "task11"])[1])


@pytest.mark.parametrize(
    "split, message",
    [
        (lambda: held_out(CLUSTERS, ["task99"]), "names=.'task99'. are none of the tasks"),
        (lambda: held_out(CLUSTERS, CLUSTERS), "30 of 30 tasks"),
        (lambda: held_out(CLUSTERS, []), "0 of 30 tasks"),
        (lambda: held_out_share(CLUSTERS, 1.0), "share=1.0 is not between 0 and 1"),
    ],
)
def test_splits_with_an_empty_side_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        split()
