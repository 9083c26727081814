"""The questions of `code_questions` in words, and how their answers are judged."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t5x_like import text_metrics
from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic import code_questions, sampling
from t5x_like.tasks.synthetic.sampling import Offline, World, worded

Metric = Callable[[list, list], dict[str, float]]
EXACT: tuple[Metric, ...] = (text_metrics.exact_match,)
NEAR: tuple[Metric, ...] = (text_metrics.exact_match, text_metrics.edit_distance)
WORDS: tuple[Metric, ...] = (text_metrics.exact_match, text_metrics.squad)
PROSE: tuple[Metric, ...] = (text_metrics.rouge, text_metrics.bleu)


@dataclass(frozen=True)
class Questions:
    """Examples of a split, their wordings and metrics; tasks of a cluster are held out together."""

    examples: Callable[[str], Iterator[dict]]
    templates: tuple[Template, ...]
    metric_fns: tuple[Metric, ...]
    cluster: str


OPTIONS = "{{ options | join(', ') }}"
VALUES = World(code_questions.value, ("code",), (), "value", 8_000)


def values(name: str) -> World:
    """The only generated one of the code tasks."""
    return VALUES


QUESTIONS = {
    "code_docstring_to_name": Questions(
        code_questions.name_of_docstring,
        worded(
            "What would you call a Python function that does this?\n{{ docstring }}",
            "{{ docstring }}\nWrite a name for a function with this documentation.",
            'def ____({{ parameters }}):\n    """{{ docstring }}"""\nThe name of this function is',
            "Name a function by its docstring: {{ docstring }}",
            "Documentation: {{ docstring }}\nParameters: {{ parameters }}\nFunction name:",
        ),
        NEAR,
        "naming",
    ),
    "code_to_name": Questions(
        code_questions.name_of_code,
        worded(
            "{{ code }}\nWhat is ____ called?",
            "Give a name to the function that is called ____ here.\n{{ code }}",
            "The name of this function was replaced by ____. Write it.\n{{ code }}",
            "Code:\n{{ code }}\nTask: name the function.",
            "Which name belongs in the place of ____?\n\n{{ code }}",
        ),
        NEAR,
        "naming",
    ),
    "code_to_docstring": Questions(
        code_questions.docstring_of_code,
        worded(
            "{{ code }}\nWrite a docstring for this function.",
            "What does this Python function do?\n{{ code }}",
            "Document this code in a sentence or two.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: say what it does.",
            "{{ code }}\n\nDocumentation:",
        ),
        PROSE,
        "documentation",
    ),
    "code_parameters": Questions(
        code_questions.parameters,
        worded(
            "{{ signature }}\nWhich parameters does this function have?",
            "Write the names of the parameters, without self: {{ signature }}",
            "List the arguments that this definition takes.\n{{ signature }}",
            "Signature: {{ signature }}\nTask: copy the names of its parameters.",
            "{{ signature }}\nParameters:",
        ),
        WORDS,
        "reading",
    ),
    "code_missing_line": Questions(
        code_questions.missing_line,
        worded(
            "{{ code }}\nWhich line belongs in the place of ____?",
            "Fill in the line that is ____.\n{{ code }}",
            "One line of this function is missing, ____ stands there. Write it.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: write the line that ____ hides.",
            "{{ code }}\nMissing line:",
        ),
        NEAR,
        "completion",
    ),
    "code_next_line": Questions(
        code_questions.next_line,
        worded(
            "{{ code }}",
            "Write the next line of this function.\n{{ code }}",
            "{{ code }}\nWhich line comes next?",
            "Go on with one line of Python:\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: write one more line.",
        ),
        NEAR,
        "completion",
    ),
    "code_module": Questions(
        code_questions.module_of_code,
        worded(
            f"{{{{ code }}}}\nWhich module is this from: {OPTIONS}?",
            f"One of the modules {OPTIONS} has this function. Which one?\n{{{{ code }}}}",
            f"Find the module of this code.\n{{{{ code }}}}\nModules: {OPTIONS}",
            f"Code:\n{{{{ code }}}}\nTask: choose its module from {OPTIONS}.",
            f"Modules: {OPTIONS}\n{{{{ code }}}}\nThis function is from the module",
            choices="{{ options | join('\\n') }}",
        ),
        EXACT,
        "origin",
    ),
    "code_calls": Questions(
        code_questions.calls,
        worded(
            "{{ code }}\nWhich functions and methods does this code call? Sort their names.",
            "List in alphabetical order what is called in this function.\n{{ code }}",
            "Write the names that are called, from A to Z.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: sort the names of all called functions.",
            "{{ code }}\nCalled here, in alphabetical order:",
        ),
        WORDS,
        "reading",
    ),
    "code_returns_value": Questions(
        code_questions.returns_value,
        worded(
            "{{ code }}\nDoes this function return a value? Answer yes or no.",
            "Is there a return with a value in this function (yes or no)?\n{{ code }}",
            "Say yes if this function returns something and no if it does not.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: does it return a value, yes or no?",
            "{{ code }}\nA value is returned (yes or no):",
            choices=("yes", "no"),
        ),
        EXACT,
        "reading",
    ),
    "code_value": Questions(
        functools.partial(sampling.of, values, "code_value"),
        worded(
            "What is the value of {{ code }} in Python?",
            ">>> {{ code }}",
            "Evaluate this expression: {{ code }}",
            "print(repr({{ code }}))\nWrite what this prints.",
            "Code: {{ code }}\nTask: write its value.",
        ),
        EXACT,
        "value",
    ),
}


def tasks() -> dict[str, Offline]:
    """The questions of this file by their names."""
    return {name: Offline(each.examples, each.templates, each.cluster) for name, each in QUESTIONS.items()}
