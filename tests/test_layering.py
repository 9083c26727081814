"""The architecture of the tree: imports point down only, and TensorFlow, gin and JAX stay where they belong."""

import ast
import collections
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("models", "t5x_like", "tasks", "gin_configs")
INSIDE = ("models", "tasks", "gin_configs")  # imported as parts of t5x_like
PROGRAMS = ("benchmarks", "notebooks", "tests")

# (layer, group) by module; the longest matching prefix counts, and modules of one group may import each other. Within layer 3,
# decimals order the loops: training imports evaluation, sweeps import training, never the other way round.
LAYERS = {
    "t5x_like": (0, "package"),
    "t5x_like.models": (0, "models"),
    "t5x_like.gin_configs": (0, "gin_configs"),
    "t5x_like.types": (1, "core"),
    "t5x_like.files": (1, "core"),
    "t5x_like.batches": (1, "core"),
    "t5x_like.prompt_batches": (1, "core"),
    "t5x_like.partitioning": (1, "core"),
    "t5x_like.precision": (1, "core"),
    "t5x_like.parameters": (1, "core"),
    "t5x_like.checkpoints": (1, "core"),
    "t5x_like.run_dir": (1, "core"),
    "t5x_like.file_names": (1, "core"),
    "t5x_like.locks": (1, "core"),
    "t5x_like.interrupts": (1, "core"),
    "t5x_like.writers": (1, "core"),
    "t5x_like.progress": (1, "core"),
    "t5x_like.accounting": (1, "core"),
    "t5x_like.data": (1, "core"),
    "t5x_like.objectives": (2, "objectives"),
    "t5x_like.decoding": (2, "decoding"),
    "t5x_like.peft": (2, "peft"),
    "t5x_like.quantization": (2, "quantization"),
    "t5x_like.hf": (2, "hf"),
    "t5x_like.optimizers": (2, "optimizers"),
    "t5x_like.batching": (3.0, "batching"),
    "t5x_like.scoring": (3.02, "scoring"),
    "t5x_like.serving": (3.05, "serving"),
    "t5x_like.inference": (3.055, "inference"),
    "t5x_like.exporting": (3.06, "exporting"),
    "t5x_like.tuning": (3.07, "tuning"),
    "t5x_like.evaluation": (3.1, "evaluation"),
    "t5x_like.training": (3.2, "training"),
    "t5x_like.alignment": (3.3, "alignment"),
    "t5x_like.scaling": (3.4, "scaling"),
    "t5x_like.tasks": (4, "tasks"),
    "t5x_like.cli": (5, "programs"),
    "t5x_like.__main__": (5, "programs"),
}
# One file for each module, family or published cleaning rule.
LARGE = {"models", "t5x_like/hf", "t5x_like/cleaning"}
TEXT_SIDE = tuple(
    f"t5x_like.{name}" for name in ("cleaning", "prompting", "retrieval", "agents", "text_metrics", "sandbox")
)
SHARED = (
    "t5x_like.types",
    "t5x_like.files",
    "t5x_like.files.lines",
    "t5x_like.files.atomic",
)  # what the text side may import: the standard library alone

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
TENSORFLOW = {"tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"}
MODELS_MAY = {"jax", "flax", "numpy"} | set(sys.stdlib_module_names)

IMPORT_EVERYTHING = """
import importlib, sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((*(["t5x_like"] if parts[0] in INSIDE else []), *parts)).removesuffix(".__init__")


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


MODULES = {module_of(path): path for path in files(*OURS)}


def imports(path: Path, known=MODULES) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in a file, including those inside functions."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in known else base


def inside(module: str, *prefixes: str) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def layer(module: str) -> tuple[float, str]:
    match = max((prefix for prefix in LAYERS if inside(module, prefix)), key=len)
    if match == "t5x_like" and module != match:
        pytest.fail(f"{module} is in no layer; add it to LAYERS (or TEXT_SIDE) in {Path(__file__).name}")
    return LAYERS[match]


def forbidden(module: str, imported: str) -> str | None:
    """The reason why `module` may not import `imported`; None if it may."""
    top = imported.partition(".")[0]
    if top != "t5x_like":
        return forbidden_library(module, top)
    if inside(module, *TEXT_SIDE):
        allowed = inside(imported, *TEXT_SIDE) or imported in SHARED
        return None if allowed else "the text side imports nothing else; pass a model as an LM"
    if inside(imported, *TEXT_SIDE):
        return None if layer(module)[0] >= 3 else "only loops, tasks and programs import the text side"
    (ours, our_group), (theirs, their_group) = layer(module), layer(imported)
    if theirs > ours:
        return f"layer {ours} imports layer {theirs}; imports point down"
    if theirs == ours and our_group != their_group:
        return f"{our_group} and {their_group} are siblings in layer {ours}; move what they share to a lower layer"
    return None


def forbidden_library(module: str, library: str) -> str | None:
    if library == "gin" and not inside(module, "t5x_like.cli"):
        return "gin is imported only by t5x_like/cli"
    if library in TENSORFLOW and not inside(module, "t5x_like.tasks"):
        return "TensorFlow and seqio are imported only by tasks/"
    if library == "clu":
        return "clu imports TensorFlow"
    if library in JAX and inside(module, *TEXT_SIDE, "t5x_like.data"):
        return "the text side and the data pipeline must not need JAX"
    if inside(module, "t5x_like.models") and library not in MODELS_MAY:
        return "models/ may import only jax and flax"
    return None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    violations = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {imported}: {reason}"
        for line, imported in imports(MODULES[module])
        if (reason := forbidden(module, imported))
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("t5x_like.models.attention", "t5x_like.batches"),
        ("t5x_like.models.attention", "optax"),
        ("t5x_like.batches", "t5x_like.training.trainer"),
        ("t5x_like.accounting.flops", "t5x_like.scaling.laws.fit"),
        ("t5x_like.training.trainer", "t5x_like.scaling.expected"),
        ("t5x_like.evaluation.evaluator", "t5x_like.training.trainer"),
        ("t5x_like.objectives.lm", "t5x_like.optimizers"),
        ("t5x_like.peft.lora", "t5x_like.quantization.ptq"),
        ("t5x_like.data.cache.token_cache", "t5x_like.tasks.caching.build"),
        ("t5x_like.data.stream", "jax"),
        ("t5x_like.training.trainer", "gin"),
        ("t5x_like.training.trainer", "t5x_like.tasks.pretraining"),
        ("t5x_like.evaluation.evaluator", "seqio"),
        ("t5x_like.cleaning.filters", "jax"),
        ("t5x_like.agents.loop", "t5x_like.inference"),
    ],
)
def test_forbidden_imports_are_reported(module, imported):
    assert forbidden(module, imported)


def test_no_import_cycles():
    """Imports inside functions count too: a cycle that a late import hides is still a cycle."""
    graph = {module: {name for _, name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"an import cycle: {' -> '.join(reversed(error.args[1]))}; move what both need to a lower layer")


def test_folders_are_small():
    """A folder has at most 14 modules directly inside, except those with one module per published family or rule."""
    counts = collections.Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    full = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 14}
    assert not set(full) - LARGE, f"{full}: split a folder of more than 14 files by idea"


def test_the_trainer_imports_little():
    code = "import sys, t5x_like.training.trainer; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    loaded = process.stdout.split()
    assert "scipy.optimize" not in loaded
    assert not [name for name in loaded if inside(name, "t5x_like.scaling", "gin", "tensorflow", "seqio")]
    assert sum(inside(name, "t5x_like") for name in loaded) < 150


def test_everything_but_the_tasks_works_without_tensorflow():
    names = [name for name in MODULES if layer_or_text(name) != 4 and not name.endswith("__main__")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT_EVERYTHING, *names]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def layer_or_text(module: str) -> float:
    return 0 if inside(module, *TEXT_SIDE) else layer(module)[0]


def test_importing_the_package_imports_nothing_else():
    code = "import sys, t5x_like; sys.exit(bool({'jax', 'numpy', 'tensorflow', 'gin'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_file_is_a_catch_all():
    catch_alls = [path for path in files(*OURS, *PROGRAMS) if path.stem in ("utils", "util", "helpers", "misc")]
    assert not catch_alls, f"{catch_alls}: name a file after its one idea"


def test_no_pattern_repeats_a_group_possessively():
    """Python 3.11.0 to 3.11.4 match `(?:...)*+` wrongly (CPython issue 106052); single characters they repeat rightly."""
    possessive = re.compile(r"\(\?>|(?<!\\)\)(?:[*+?]|\{\d*,\d*\})\+")
    assert not [path for path in files(*OURS) if possessive.search(path.read_text(encoding="utf-8"))]


def test_files_are_short():
    long = {str(path.relative_to(ROOT)): count for path in files(*OURS, *PROGRAMS) if (count := lines(path)) > 400}
    assert not long, f"{long}: a file has at most 400 lines; split it between two ideas"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
