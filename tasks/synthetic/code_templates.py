"""Templates and metrics of the questions of `code_questions`."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t5x_like import text_metrics
from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic import code_questions, sampling
from t5x_like.tasks.synthetic.sampling import SyntheticTask, TaskGenerator, make_templates

Metric = Callable[[list, list], dict[str, float]]
EXACT: tuple[Metric, ...] = (text_metrics.exact_match,)
EDIT_DISTANCE: tuple[Metric, ...] = (text_metrics.exact_match, text_metrics.edit_distance)
TOKEN_F1: tuple[Metric, ...] = (text_metrics.exact_match, text_metrics.squad)
ROUGE_BLEU: tuple[Metric, ...] = (text_metrics.rouge, text_metrics.bleu)


@dataclass(frozen=True)
class CodeTask:
    """A task on code: `examples(split)` yields its examples; tasks of a cluster are held out together."""

    examples: Callable[[str], Iterator[dict]]
    templates: tuple[Template, ...]
    metric_fns: tuple[Metric, ...]
    cluster: str


OPTIONS = "{{ options | join(', ') }}"
EXPRESSIONS = TaskGenerator(code_questions.value_of_expression, ("code",), (), "value", 8_000)


def find_generator(name: str) -> TaskGenerator:
    """Returns the only generator among the tasks on code."""
    return EXPRESSIONS


TASKS = {
    "code_docstring_to_name": CodeTask(
        code_questions.docstring_to_name,
        make_templates(
            "What would you call a Python function that does this?\n{{ docstring }}",
            "{{ docstring }}\nWrite a name for a function with this documentation.",
            'def ____({{ parameters }}):\n    """{{ docstring }}"""\nThe name of this function is',
            "Name a function by its docstring: {{ docstring }}",
            "Documentation: {{ docstring }}\nParameters: {{ parameters }}\nFunction name:",
        ),
        EDIT_DISTANCE,
        "naming",
    ),
    "code_to_name": CodeTask(
        code_questions.code_to_name,
        make_templates(
            "{{ code }}\nWhat is ____ called?",
            "Give a name to the function that is called ____ here.\n{{ code }}",
            "The name of this function was replaced by ____. Write it.\n{{ code }}",
            "Code:\n{{ code }}\nTask: name the function.",
            "Which name belongs in the place of ____?\n\n{{ code }}",
        ),
        EDIT_DISTANCE,
        "naming",
    ),
    "code_to_docstring": CodeTask(
        code_questions.code_to_docstring,
        make_templates(
            "{{ code }}\nWrite a docstring for this function.",
            "What does this Python function do?\n{{ code }}",
            "Document this code in a sentence or two.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: say what it does.",
            "{{ code }}\n\nDocumentation:",
        ),
        ROUGE_BLEU,
        "documentation",
    ),
    "code_parameters": CodeTask(
        code_questions.parameters,
        make_templates(
            "{{ signature }}\nWhich parameters does this function have?",
            "Write the names of the parameters, without self: {{ signature }}",
            "List the arguments that this definition takes.\n{{ signature }}",
            "Signature: {{ signature }}\nTask: copy the names of its parameters.",
            "{{ signature }}\nParameters:",
        ),
        TOKEN_F1,
        "reading",
    ),
    "code_missing_line": CodeTask(
        code_questions.missing_line,
        make_templates(
            "{{ code }}\nWhich line belongs in the place of ____?",
            "Fill in the line that is ____.\n{{ code }}",
            "One line of this function is missing, ____ stands there. Write it.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: write the line that ____ hides.",
            "{{ code }}\nMissing line:",
        ),
        EDIT_DISTANCE,
        "completion",
    ),
    "code_next_line": CodeTask(
        code_questions.next_line,
        make_templates(
            "{{ code }}",
            "Write the next line of this function.\n{{ code }}",
            "{{ code }}\nWhich line comes next?",
            "Go on with one line of Python:\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: write one more line.",
        ),
        EDIT_DISTANCE,
        "completion",
    ),
    "code_module": CodeTask(
        code_questions.code_to_module,
        make_templates(
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
    "code_calls": CodeTask(
        code_questions.calls,
        make_templates(
            "{{ code }}\nWhich functions and methods does this code call? Sort their names.",
            "List in alphabetical order what is called in this function.\n{{ code }}",
            "Write the names that are called, from A to Z.\n\n{{ code }}",
            "Code:\n{{ code }}\nTask: sort the names of all called functions.",
            "{{ code }}\nCalled here, in alphabetical order:",
        ),
        TOKEN_F1,
        "reading",
    ),
    "code_returns_value": CodeTask(
        code_questions.returns_value,
        make_templates(
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
    "code_value": CodeTask(
        functools.partial(sampling.generate, find_generator, "code_value"),
        make_templates(
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


def make_tasks() -> dict[str, SyntheticTask]:
    """Returns the tasks of this file by name."""
    return {name: SyntheticTask(task.examples, task.templates, task.cluster) for name, task in TASKS.items()}
