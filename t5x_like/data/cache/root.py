"""The folder of everything that is cached: tokens, downloads, compiled programs."""

import os
from pathlib import Path


def default_root() -> Path:
    """$T5X_LIKE_CACHE, or ~/.cache/t5x_like."""
    return Path(os.environ.get("T5X_LIKE_CACHE") or Path.home() / ".cache" / "t5x_like")
