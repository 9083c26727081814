"""The embedded corpus: the standard library of the running Python, as source code, as documentation and as pairs.

Each corpus is a function of a split, `train` or `validation`, that yields examples. The hash of a file's path decides its
split (1 in 20 files is in validation), so no file is in both. Test suites are excluded.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "validation")
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}
VALIDATION_ONE_IN = 20  # 1 in 20 files is in validation

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def split_of(name: str) -> str:
    """Returns the split of a file or topic, by the hash of its name."""
    digest = hashlib.sha256(name.encode()).digest()
    return "validation" if int.from_bytes(digest[:4], "big") % VALIDATION_ONE_IN == 0 else "train"


def list_library_files() -> list[tuple[str, Path]]:
    """Returns (path relative to the library, path) of every source file except tests, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted((relative.as_posix(), path) for relative, path in paths if not EXCLUDED & set(relative.parts))


def read_sources(split: str) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of the files of a split; skips files that are empty or not UTF-8."""
    for name, path in list_library_files():
        if split_of(name) == split:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield name, text


def python_source(split: str) -> Iterator[dict[str, str]]:
    """Yields {"text"}: a source file."""
    for _, text in read_sources(split):
        yield {"text": text}


def find_definitions(text: str) -> Iterator[tuple[str, str]]:
    """Yields (signature, docstring) of the documented functions and classes of a source file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            documentation = ast.get_docstring(node)
            if documentation:
                yield format_signature(node), documentation


def format_signature(node: Definition) -> str:
    """Returns the first line of a definition: `def f(a, b=1):` or `class C(B):`."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def python_docs(split: str) -> Iterator[dict[str, str]]:
    """Yields {"text"}: English text, either a topic of the language reference or all docstrings of a source file."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        if split_of(f"topic {name}") == split:
            yield {"text": topics[name]}
    for _, text in read_sources(split):
        documentation = [doc for _, doc in find_definitions(text)]
        if documentation:
            yield {"text": "\n\n".join(documentation)}


def python_docstrings(split: str) -> Iterator[dict[str, str]]:
    """Yields {"inputs": a signature, "targets": its docstring}."""
    for _, text in read_sources(split):
        for signature, documentation in find_definitions(text):
            yield {"inputs": signature, "targets": documentation}
