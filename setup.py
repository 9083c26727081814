"""Packaging of t5x_like. requirements-lean.txt lists the requirements without TensorFlow."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent


def read_text(name: str) -> str:
    """The text of a file in this folder; "" if it is absent (README.md in a partial checkout)."""
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


LEAN = [line for line in read_text("requirements-lean.txt").splitlines() if line and not line.startswith("#")]

# seqio reads tasks. tensorflow-datasets needs importlib_resources without declaring it.
TASKS = ["seqio>=0.0.20", "tensorflow>=2.21", "tensorflow-datasets>=4.9.10", "importlib_resources"]

# BLEU and ROUGE.
METRICS = ["sacrebleu>=2.4", "rouge-score>=0.1.2"]
# .zst and .parquet files, tables of runs in Parquet, folders of Hugging Face's datasets.
FILES = ["zstandard>=0.23", "pyarrow>=17"]
CLEANING = ["py3langid>=0.3", *FILES]  # language identification
# Token caches behind URLs; gs:// and s3:// also need gcsfs and s3fs.
REMOTE = ["fsspec[http]>=2024.2"]
# Needs a separate environment: see requirements-beam.txt.
BEAM = ["apache-beam>=2.77,<2.78", "google-crc32c>=1.6"]
# Decoding under a JSON schema, a regular expression or a grammar.
GRAMMARS = ["llguidance>=1.9"]
# jax.export serializes programs with it; TensorFlow brings it along.
EXPORT = ["flatbuffers>=24.3"]
# Reads checkpoints of llama.cpp.
GGUF = ["gguf>=0.17"]
# The HTTP server; it constrains answers to JSON schemas and grammars.
SERVE = ["starlette>=1.10", "uvicorn>=0.54", "pydantic>=2.14", "prometheus-client>=0.26", *GRAMMARS]
# Edits the lines of `t5x_like chat` in a terminal.
CHAT = ["prompt_toolkit>=3.0.53"]
# Clients that the tests talk to it with.
CLIENTS = ["openai>=3", "httpx>=0.28", "langchain-openai>=1.7", "lm-eval[api]>=0.4.13"]

# lm-evaluation-harness, without torch; it brings datasets, pandas and scikit-learn.
LM_EVAL = ["lm-eval>=0.4.13"]

# Runs the notebooks.
NOTEBOOKS = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]
# Top-level folders that are installed inside the package t5x_like.
INSIDE = ("models", "tasks", "gin_configs")

setup(
    name="t5x_like",
    version=re.search(r'__version__ = "(.+)"', read_text("t5x_like/__init__.py")).group(1),
    description="T5X rebuilt for today's JAX: gin-configured pretraining of language models on seqio tasks",
    long_description=read_text("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_namespace_packages(include=["t5x_like", "t5x_like.*"]),
        *(f"t5x_like.{name}" for top in INSIDE for name in find_namespace_packages(include=[top, f"{top}.*"])),
    ],
    package_dir={f"t5x_like.{top}": top for top in INSIDE},
    package_data={"": ["*.gin", "*.jinja", "*.html"]},
    install_requires=LEAN + TASKS,
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "gpu": ["jax[cuda13]>=0.10"],
        "export": EXPORT,
        "gguf": GGUF,
        "grammars": GRAMMARS,
        "serve": SERVE,
        "chat": CHAT,
        "metrics": METRICS,
        "remote": REMOTE,
        "beam": BEAM,
        "cleaning": CLEANING,
        "files": FILES,
        "reasoning": ["reasoning-gym>=0.1.25"],
        "slurm": ["submitit>=1.5"],
        "ray": ["ray>=2.9"],
        "html": ["trafilatura>=2"],
        "lm_eval": LM_EVAL,
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3",
            "hypothesis>=6.100",
            "ruff==0.17.5",
            "mypy==2.4.1",
            *NOTEBOOKS,
            *EXPORT,
            *GGUF,
            *SERVE,
            *CHAT,
            *CLIENTS,
            "jsonschema>=4",
            *METRICS,
            *REMOTE,
            *CLEANING,
            *LM_EVAL,
        ],
    },
    entry_points={"console_scripts": ["t5x_like = t5x_like.__main__:start"]},
)
