"""Questions about the functions of the embedded corpus, answered from their syntax trees; each is a function of the split.

The split of a file is that of `corpora`, so no function is in both.
"""

import ast
import copy
import functools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t5x_like.tasks import corpora

MAX_CHARACTERS = 800  # longer functions are skipped

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


BUILTINS: dict[str, Callable] = {"len": len, "max": max, "sum": sum, "sorted": sorted}  # used by `draw_expression`


@dataclass(frozen=True)
class Function:
    """A documented function of a module; `code` is without docstring and comments."""

    module: str
    name: str
    signature: str
    parameters: tuple[str, ...]
    docstring: str
    code: str
    node: FunctionNode

    @property
    def rng(self) -> random.Random:
        """A random generator seeded by the function."""
        return random.Random(f"{self.module} {self.code}")


def module_name(path: str) -> str:
    """Returns the module of a file: json.decoder for `json/decoder.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parameter_names(node: FunctionNode) -> tuple[str, ...]:
    """Returns the names of the parameters in order, without self and cls."""
    arguments = node.args
    names = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return tuple(one.arg for one in names if one is not None and one.arg not in ("self", "cls"))


def first_paragraph(text: str) -> str:
    """Returns the first paragraph on one line."""
    return " ".join(text.split("\n\n")[0].split())


def unparse_without_docstring(node: FunctionNode) -> str:
    """Returns the code of a function as `ast` writes it, without its docstring and comments."""
    bare = copy.copy(node)
    bare.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(bare))


@functools.cache
def read_functions(split: str) -> tuple[Function, ...]:
    """Returns the documented functions of a split, without duplicates, as far as `make_function` accepts them; cached."""
    functions: dict[str, Function] = {}
    for path, text in corpora.read_sources(split):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, FunctionNode) and (function := make_function(path, node)):
                functions.setdefault(function.code, function)
    return tuple(functions.values())


def make_function(path: str, node: FunctionNode) -> Function | None:
    """Returns the function of a node; None if it is undocumented, empty, or longer than MAX_CHARACTERS."""
    documentation = first_paragraph(ast.get_docstring(node) or "")
    if not documentation or len(node.body) < 2:
        return None
    code = unparse_without_docstring(node)
    if len(code) > MAX_CHARACTERS:
        return None
    signature = corpora.format_signature(node)
    return Function(module_name(path), node.name, signature, parameter_names(node), documentation, code, node)


def hide_name(function: Function) -> str:
    """Returns the code with every occurrence of the function's name replaced by ____."""
    return re.sub(rf"\b{function.name}\b", "____", function.code)


def docstring_to_name(split: str) -> Iterator[dict]:
    """Asks for the name of a function from its docstring; special methods are skipped."""
    for function in read_functions(split):
        if not function.name.startswith("__") and function.name not in function.docstring:
            yield {
                "docstring": function.docstring,
                "parameters": ", ".join(function.parameters),
                "answer": function.name,
            }


def code_to_name(split: str) -> Iterator[dict]:
    """Asks for the name of a function from its code; special methods are skipped."""
    for function in read_functions(split):
        if not function.name.startswith("__"):
            yield {"code": hide_name(function), "answer": function.name}


def code_to_docstring(split: str) -> Iterator[dict]:
    """Asks for the docstring of a function from its code."""
    for function in read_functions(split):
        yield {"code": function.code, "answer": function.docstring}


def parameters(split: str) -> Iterator[dict]:
    """Asks for the names in a signature, without defaults and annotations."""
    for function in read_functions(split):
        if function.parameters:
            yield {"signature": function.signature, "answer": ", ".join(function.parameters)}


def missing_line(split: str) -> Iterator[dict]:
    """Asks for a hidden line below the signature."""
    for function in read_functions(split):
        lines = function.code.splitlines()
        if len(lines) > 2:
            place = function.rng.randrange(1, len(lines))
            indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
            visible = [*lines[:place], f"{indent}____", *lines[place + 1 :]]
            yield {"code": "\n".join(visible), "answer": lines[place].strip()}


def next_line(split: str) -> Iterator[dict]:
    """Asks for the line after the first lines of a function."""
    for function in read_functions(split):
        lines = function.code.splitlines()
        if len(lines) > 2:
            place = function.rng.randrange(2, len(lines))
            yield {"code": "\n".join(lines[:place]), "answer": lines[place].strip()}


def code_to_module(split: str, others: int = 3) -> Iterator[dict]:
    """Asks which of four modules of the split a function is from."""
    modules = sorted({function.module for function in read_functions(split)})
    for function in read_functions(split):
        wrong = function.rng.sample([module for module in modules if module != function.module], others)
        choices = [*wrong, function.module]
        function.rng.shuffle(choices)
        yield {"code": function.code, "options": sorted(choices), "answer": function.module}


def calls(split: str) -> Iterator[dict]:
    """Asks for the names that a function calls, in alphabetical order: f for f(..) and for a.f(..)."""
    for function in read_functions(split):
        if names := called_names(function.node):
            yield {"code": function.code, "answer": ", ".join(names)}


def called_names(node: ast.AST) -> list[str]:
    """Returns the names of the called functions and methods, sorted."""
    heads = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    names = {
        head.id if isinstance(head, ast.Name) else head.attr
        for head in heads
        if isinstance(head, ast.Name | ast.Attribute)
    }
    return sorted(names)


def returns_value(split: str) -> Iterator[dict]:
    """Asks whether a function has a `return` with a value; generators are skipped."""
    for function in read_functions(split):
        nodes = list(walk_own_nodes(function.node))
        if not any(isinstance(part, ast.Yield | ast.YieldFrom) for part in nodes):
            value = any(isinstance(part, ast.Return) and part.value is not None for part in nodes)
            yield {"code": function.code, "answer": "yes" if value else "no"}


def walk_own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes below a function except those of functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from walk_own_nodes(child)


def draw_expression(rng: random.Random) -> str:
    """Draws a small expression over literals."""
    a, b, c = (rng.randrange(10) for _ in range(3))
    text = repr("".join(rng.choices("abcdxyz", k=rng.randint(2, 5))))
    numbers = [rng.randrange(10) for _ in range(rng.randint(2, 4))]
    place = rng.randrange(len(numbers))
    return rng.choice(
        (
            f"{a} + {b} * {c}",
            f"({a} + {b}) * {c}",
            f"{a} - {b}",
            f"{a} // {b + 1}",
            f"{a} % {b + 1}",
            f"{a} < {b}",
            f"{a} in {numbers}",
            f"len({text})",
            f"{text} * {rng.randint(2, 3)}",
            f"{text}[{rng.choice((0, 1, -1))}]",
            f"{text}[::-1]",
            f"{text}.upper()",
            f"{numbers}[{place}]",
            f"len({numbers})",
            f"max({numbers})",
            f"sum({numbers})",
            f"sorted({numbers})",
            f"{numbers}[1:]",
            f"[x + {a} for x in {numbers}]",
        )
    )


def value_of_expression(rng: random.Random) -> dict:
    """Draws {"code": an expression, "answer": the repr of its value}."""
    code = draw_expression(rng)
    return {"code": code, "answer": repr(eval(code, {"__builtins__": {}}, BUILTINS))}
