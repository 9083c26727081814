"""T5X rebuilt for today's JAX: gin-configured pretraining of language models on seqio tasks.

The folders follow the data: `tasks` (examples), `data` (token caches, rows and the stream of batches), `models`, `objectives`,
`optimizers`, `training`, `evaluation`, `decoding`. `cli` has one file per command.
"""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# An installed package contains models/, tasks/ and gin_configs/; in a checkout they are next to it.
if not Path(__file__).with_name("models").exists():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    """`t5x_like.Engine` and `t5x_like.InteractiveModel`, imported when they are used: it takes seconds."""
    modules = {"Engine": "t5x_like.cli.opening", "InteractiveModel": "t5x_like.cli.dialog.model"}
    if name in modules:
        return getattr(importlib.import_module(modules[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
