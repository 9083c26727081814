"""Templates: every error says what is missing, nothing is random, and the wordings of an example are all different."""

import collections

import pytest

from t5x_like.prompting.templates import Template, chosen, render, shuffled

SUM = Template("sum", "{{ a }} + {{ b }}?\n", "{{ a + b }}")
WORDINGS = [Template(f"t{i}", f"{i} {{{{ a }}}}", "x") for i in range(5)]


def test_text_is_kept_to_its_last_character():
    assert render(SUM, {"a": 1, "b": 2}) == {"inputs": "1 + 2?\n", "targets": "3"}
    html = Template("html", "{{ text }}{% if text %}\n yes{% endif %}", "<b>&amp;</b> ")
    assert render(html, {"text": "<a> & 'b'"}) == {"inputs": "<a> & 'b' yes", "targets": "<b>&amp;</b> "}
    assert render(Template("raw", "{{ code }}", ""), {"code": "{{ a }} {% if %}"})["inputs"] == "{{ a }} {% if %}"


@pytest.mark.parametrize(
    "inputs, message",
    [
        ("{{ c }}", "template 'bad', inputs: 'c' is undefined; the example has the fields a, b"),
        ("{{ a.name }}", "has no attribute 'name'"),
        ("{{ b[7] }}", "has no element 7"),
        ("{{ a / 0 }}", "division by zero"),
        ("{{ a + b }}", "unsupported operand"),
        ("{{ b.append(1) }}", "unsafe|not safe"),
        ("{{ b.__class__ }}", "unsafe"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
    ],
)
def test_what_does_not_fit_an_example_is_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        render(Template("bad", inputs, ""), {"a": 1, "b": [1]})


@pytest.mark.parametrize("inputs", ["{{ a", "{% if a %}", "{{ a | random }}", "{% include 'x' %}{% endif %}"])
def test_what_is_no_template_is_refused_when_it_is_made(inputs):
    with pytest.raises(ValueError, match="template 'bad', inputs, line 1"):
        Template("bad", inputs, "")


def test_choices_are_lines_or_fixed_and_the_targets_are_one_of_them():
    lines = Template("l", "", "{{ options[answer] }}", "{% for o in options %}{{ o }}\n{% endfor %}")
    assert render(lines, {"options": ["a b", "c"], "answer": 1}) == {
        "inputs": "",
        "targets": "c",
        "choices": ["a b", "c"],
    }
    with pytest.raises(ValueError, match=r"targets 'd' are none of choices \['yes', 'no'\]"):
        render(Template("f", "", "{{ d }}", ("yes", "no")), {"d": "d"})


def test_wordings_of_an_example_are_all_different_and_all_are_used_equally_often():
    counts = collections.Counter()
    for example in range(400):
        names = [template.name for template in chosen(WORDINGS, "task", 5, 0, str(example))]
        assert len(set(names)) == 5
        counts[names[0]] += 1
        again = [template.name for template in chosen(WORDINGS, "task", 7, 0, str(example))]
        assert again == [*names, *names[:2]]
    assert all(abs(count - 80) < 40 for count in counts.values()) and len(counts) == 5


def test_another_seed_task_or_example_chooses_otherwise():
    def names(task="task", seed=0, first=0):
        return [chosen(WORDINGS, task, 1, seed, str(i))[0].name for i in range(first, first + 30)]

    assert names() == names()
    assert all(names() != other for other in (names("other"), names(seed=1), names(first=30)))


def test_a_task_needs_templates_with_names_of_their_own():
    for wrong in ([], [SUM, SUM]):
        with pytest.raises(ValueError, match="give at least one, each with a name of its own"):
            chosen(wrong, "task", 1, 0, "")
    with pytest.raises(ValueError, match="renditions=0 of task 'task'"):
        chosen([SUM], "task", 0, 0, "")


def test_a_shuffle_is_a_permutation_and_every_one_is_as_likely():
    for size in (0, 1, 2, 17):
        assert sorted(shuffled(size, "x", size)) == list(range(size))
    counts = collections.Counter(tuple(shuffled(3, key)) for key in range(6000))
    assert len(counts) == 6 and all(abs(count - 1000) < 150 for count in counts.values())
