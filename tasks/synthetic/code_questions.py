"""Questions about the functions of the embedded corpus whose answers its syntax trees give: each a function of the split.

A file is in the split that `corpora` gives it, so no function is in both.
"""

import ast
import functools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t5x_like.tasks import corpora

LONGEST = 800  # characters of a function that is shown


@dataclass(frozen=True)
class Function:
    """A documented function of a module: its parts as text, without its docstring where `code` is shown."""

    module: str
    name: str
    signature: str
    parameters: tuple[str, ...]
    docstring: str
    code: str
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def rng(self) -> random.Random:
        """Choices about a function, the same wherever its module is read."""
        return random.Random(f"{self.module} {self.code}")


def module_of(path: str) -> str:
    """`json/decoder.py` is json.decoder."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    """All names in the order of the signature, without self and cls."""
    given = node.args
    names = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return tuple(one.arg for one in names if one is not None and one.arg not in ("self", "cls"))


def paragraph(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The code of a function as `ast` writes it, its docstring and comments left out."""
    rest = node.body[1:] or [ast.Pass()]
    bare = type(node)(**{field: getattr(node, field, None) for field in node._fields} | {"body": rest})
    return ast.unparse(ast.fix_missing_locations(ast.copy_location(bare, node)))


@functools.cache
def functions(split: str) -> tuple[Function, ...]:
    """The documented functions of a split of at most `LONGEST` characters and some body, each text once."""
    found: dict[str, Function] = {}
    for path, text in corpora.sources(split):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (made := function(path, node)):
                found.setdefault(made.code, made)
    return tuple(found.values())


def function(path: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function | None:
    """A function to ask about, or None where it is too long, empty or undocumented."""
    documentation = paragraph(ast.get_docstring(node) or "")
    if not documentation or len(node.body) < 2:
        return None
    code = without_docstring(node)
    if len(code) > LONGEST:
        return None
    return Function(module_of(path), node.name, corpora.signature(node), parameters_of(node), documentation, code, node)


def hidden_name(one: Function) -> str:
    """The code with the function's name replaced wherever it stands as a word."""
    return re.sub(rf"\b{one.name}\b", "____", one.code)


def name_of_docstring(split: str) -> Iterator[dict]:
    """What a function with this docstring is called; special methods are left out."""
    for one in functions(split):
        if not one.name.startswith("__") and one.name not in one.docstring:
            yield {"docstring": one.docstring, "parameters": ", ".join(one.parameters), "answer": one.name}


def name_of_code(split: str) -> Iterator[dict]:
    """What a function of this code is called."""
    for one in functions(split):
        if not one.name.startswith("__"):
            yield {"code": hidden_name(one), "answer": one.name}


def docstring_of_code(split: str) -> Iterator[dict]:
    for one in functions(split):
        yield {"code": one.code, "answer": one.docstring}


def parameters(split: str) -> Iterator[dict]:
    """The names in a signature, without defaults and annotations."""
    for one in functions(split):
        if one.parameters:
            yield {"signature": one.signature, "answer": ", ".join(one.parameters)}


def missing_line(split: str) -> Iterator[dict]:
    """One line below the signature is hidden."""
    for one in functions(split):
        lines = one.code.splitlines()
        if len(lines) > 2:
            place = one.rng.randrange(1, len(lines))
            indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
            shown = [*lines[:place], f"{indent}____", *lines[place + 1 :]]
            yield {"code": "\n".join(shown), "answer": lines[place].strip()}


def next_line(split: str) -> Iterator[dict]:
    """The code breaks off after its signature or later."""
    for one in functions(split):
        lines = one.code.splitlines()
        if len(lines) > 2:
            place = one.rng.randrange(2, len(lines))
            yield {"code": "\n".join(lines[:place]), "answer": lines[place].strip()}


def module_of_code(split: str, others: int = 3) -> Iterator[dict]:
    """Which of four modules of the split a function is from."""
    modules = sorted({one.module for one in functions(split)})
    for one in functions(split):
        wrong = one.rng.sample([module for module in modules if module != one.module], others)
        choices = [*wrong, one.module]
        one.rng.shuffle(choices)
        yield {"code": one.code, "options": sorted(choices), "answer": one.module}


def calls(split: str) -> Iterator[dict]:
    """The names that are called, in alphabetical order: f(..) is f, a.f(..) is f too."""
    for one in functions(split):
        if names := called(one.node):
            yield {"code": one.code, "answer": ", ".join(names)}


def called(node: ast.AST) -> list[str]:
    """The names of called functions and methods, sorted."""
    heads = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    names = {
        head.id if isinstance(head, ast.Name) else head.attr
        for head in heads
        if isinstance(head, ast.Name | ast.Attribute)
    }
    return sorted(names)


def returns_value(split: str) -> Iterator[dict]:
    """Whether `return` with a value stands in the function itself; generators are left out."""
    for one in functions(split):
        own = list(own_statements(one.node))
        if not any(isinstance(part, ast.Yield | ast.YieldFrom) for part in own):
            value = any(isinstance(part, ast.Return) and part.value is not None for part in own)
            yield {"code": one.code, "answer": "yes" if value else "no"}


def own_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a function but what belongs to functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from own_statements(child)


def expression(rng: random.Random) -> str:
    """A small expression over literals whose value Python itself gives."""
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


def value(rng: random.Random) -> dict:
    """{"code": an expression, "answer": the repr of its value}."""
    code = expression(rng)
    return {"code": code, "answer": repr(eval(code, {"__builtins__": {}}, SAFE))}


SAFE: dict[str, Callable] = {"len": len, "max": max, "sum": sum, "sorted": sorted}
