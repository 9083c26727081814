"""Templates: errors name what is missing, rendering is deterministic, and the templates of an example are distinct."""

import collections

import pytest

from t5x_like.prompting.templates import Template, choose_templates, permutation, render

SUM = Template("sum", "{{ a }} + {{ b }}?\n", "{{ a + b }}")
WORDINGS = [Template(f"t{i}", f"{i} {{{{ a }}}}", "x") for i in range(5)]


def test_text_is_unchanged_to_its_last_character():
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
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'x' * 10 ** 17 }}", "MemoryError"),
        ("{{ a.__class__.b.c }}", "unsafe|undefined"),
        ("{{ a + b }}", "unsupported operand"),
        ("{{ b.append(1) }}", "unsafe|not safe"),
        ("{{ b.__class__ }}", "unsafe"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
    ],
)
def test_errors_name_what_does_not_fit_the_example(inputs, message):
    with pytest.raises(ValueError, match=message):
        render(Template("bad", inputs, ""), {"a": 1, "b": [1]})


@pytest.mark.parametrize("inputs", ["{{ a", "{% if a %}", "{{ a | random }}", "{% include 'x' %}{% endif %}"])
def test_invalid_jinja_is_refused_when_the_template_is_made(inputs):
    with pytest.raises(ValueError, match="template 'bad', inputs, line 1"):
        Template("bad", inputs, "")


def test_choices_are_lines_or_fixed_texts_and_include_the_targets():
    lines = Template("l", "", "{{ options[answer] }}", "{% for o in options %}{{ o }}\n{% endfor %}")
    assert render(lines, {"options": ["a\u2028b", "c"], "answer": 1}) == {
        "inputs": "",
        "targets": "c",
        "choices": ["a\u2028b", "c"],
    }
    with pytest.raises(ValueError, match=r"targets 'd' are not among the choices \['yes', 'no'\]"):
        render(Template("f", "", "{{ d }}", ("yes", "no")), {"d": "d"})


def test_templates_of_an_example_are_distinct_and_uniformly_used():
    counts = collections.Counter()
    for example in range(400):
        names = [template.name for template in choose_templates(WORDINGS, "task", 5, 0, str(example))]
        assert len(set(names)) == 5
        counts[names[0]] += 1
        again = [template.name for template in choose_templates(WORDINGS, "task", 7, 0, str(example))]
        assert again == [*names, *names[:2]]
    assert all(abs(count - 80) < 40 for count in counts.values()) and len(counts) == 5


def test_the_choice_depends_on_seed_task_and_example():
    def names(task="task", seed=0, first=0):
        return [choose_templates(WORDINGS, task, 1, seed, str(i))[0].name for i in range(first, first + 30)]

    assert names() == names()
    assert all(names() != other for other in (names("other"), names(seed=1), names(first=30)))


def test_a_task_needs_templates_with_unique_names():
    for wrong in ([], [SUM, SUM]):
        with pytest.raises(ValueError, match="give at least one, each with a unique name"):
            choose_templates(wrong, "task", 1, 0, "")
    with pytest.raises(ValueError, match="renditions=0 of task 'task'"):
        choose_templates([SUM], "task", 0, 0, "")


def test_permutations_are_uniform():
    for size in (0, 1, 2, 17):
        assert sorted(permutation(size, "x", size)) == list(range(size))
    counts = collections.Counter(tuple(permutation(3, key)) for key in range(6000))
    assert len(counts) == 6 and all(abs(count - 1000) < 150 for count in counts.values())
