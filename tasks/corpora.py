"""The embedded corpus: the Python standard library that every Python ships, as source code, as English and as pairs.

Each corpus is a function of a split, `train` or `validation`, that yields examples; a file belongs to validation when the
hash of its path says so (1 in 20), so no file is ever in both. Test suites are left out.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "validation")
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}
VALIDATION_SHARE = 20  # one file in so many


def split_of(name: str) -> str:
    """The split of a file or topic, by the hash of its name."""
    digest = hashlib.sha256(name.encode()).digest()
    return "validation" if int.from_bytes(digest[:4], "big") % VALIDATION_SHARE == 0 else "train"


def library_files() -> list[tuple[str, Path]]:
    """(path below the library's folder, path) of every source file that is not a test, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    found = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted((below.as_posix(), path) for below, path in found if not LEFT_OUT & set(below.parts))


def sources(split: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the files of a split; empty ones and those that are not UTF-8 are left out."""
    for name, path in library_files():
        if split_of(name) == split:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield name, text


def python_source(split: str) -> Iterator[dict[str, str]]:
    """{"text"}: a source file."""
    for _, text in sources(split):
        yield {"text": text}


def definitions(text: str) -> Iterator[tuple[str, str]]:
    """(signature, docstring) of the documented functions and classes of a source file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            documentation = ast.get_docstring(node)
            if documentation:
                yield signature(node), documentation


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The first line of a definition: `def f(a, b=1):` or `class C(B):`."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def python_docs(split: str) -> Iterator[dict[str, str]]:
    """{"text"}: English; a topic of the language reference, or all docstrings of a source file."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        if split_of(f"topic {name}") == split:
            yield {"text": topics[name]}
    for _, text in sources(split):
        documentation = [doc for _, doc in definitions(text)]
        if documentation:
            yield {"text": "\n\n".join(documentation)}


def python_docstrings(split: str) -> Iterator[dict[str, str]]:
    """{"inputs": a signature, "targets": its docstring}."""
    for _, text in sources(split):
        for head, documentation in definitions(text):
            yield {"inputs": head, "targets": documentation}
