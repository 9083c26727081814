"""Peers run in environments of their own, which have PyTorch, JAX or llama.cpp and nothing of ours."""

import ast
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = sorted((BENCHMARKS / "peers").glob("*.py"))
MAY = (
    {"jax", "llama_cpp", "numpy", "torch", "transformers", "turns"}
    | {path.stem for path in PEERS}
    | set(sys.stdlib_module_names)
)


@pytest.mark.parametrize("path", [*PEERS, BENCHMARKS / "turns.py"], ids=lambda path: path.name)
def test_peers_import_nothing_of_ours(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    may = MAY if path in PEERS else set(sys.stdlib_module_names)
    assert {name.partition(".")[0] for name in imported} <= may
