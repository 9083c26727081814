"""Reads manifests of token caches: they may come from elsewhere, so names, types and sizes are checked before they are used."""

import json
import re
from typing import Any

import numpy as np

from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.tokenizers.loading import MAX_IDS
from t5x_like.file_names import check_name

MANIFEST, EXAMPLES = "manifest.json", "examples.jsonl"
SIZE_LIMIT = 2**28  # bytes of a remote manifest
DTYPES = ("uint8", "uint16", "uint32")
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse(content: str | bytes, where: object) -> dict[str, Any]:
    """A manifest that names only files below its folder, with the sizes that its counts say; `where` is its path or URL.

    Raises:
      ValueError: it is not such a manifest.
    """
    try:
        manifest = json.loads(content)
        problem = find_problem(manifest, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        missing = f"the entry {error} is missing" if isinstance(error, KeyError) else str(error)
        problem = missing or type(error).__name__
    if problem:
        raise ValueError(
            f"{where} is not a manifest of a token cache: {problem}; copy the cache again from a source that you trust"
        )
    return manifest


def find_problem(manifest: dict[str, Any], where: object) -> str | None:
    """What is wrong with a manifest, or None."""
    files, features, documents = manifest["files"], manifest["features"], manifest["documents"]
    for name, file in files.items():
        check_name(name, where)
        size, blocks = file["bytes"], file["blocks"]
        if not isinstance(blocks, list) or not all(isinstance(checksum, str) for checksum in blocks):
            return f"the blocks of {name} are not a list of checksums"
        if not is_count(size) or len(blocks) != -(-size // cache_checks.BLOCK):
            return f"{name} has {len(blocks)} blocks for {size!r} bytes"
    sizes = {f"{name}.offsets": 8 * (documents + 1) for name in features}
    for name, feature in features.items():
        if "/" in check_name(name, where) or feature["dtype"] not in DTYPES or not is_count(feature["tokens"]):
            return f"feature {name!r} has the dtype {feature['dtype']!r} and {feature['tokens']!r} tokens"
        sizes[f"{name}.tokens"] = feature["tokens"] * np.dtype(feature["dtype"]).itemsize
    if not is_count(documents) or not features:
        return f"it has {documents!r} documents and {len(features)} features"
    for name, size in sizes.items():
        if name not in files or files[name]["bytes"] != size:
            return f"{name} has {files.get(name, {}).get('bytes')} bytes instead of {size}"
    for name in ("vocabulary/vocabulary.json", *([EXAMPLES] if "metrics" in manifest else [])):
        if name not in files:
            return f"{name} is missing"
    if not is_count(manifest["vocab_size"]) or manifest["vocab_size"] > MAX_IDS:
        return f"vocab_size is {manifest['vocab_size']!r}, the limit is {MAX_IDS}"
    if not isinstance(manifest["fingerprint"], str):
        return f"fingerprint is {manifest['fingerprint']!r}"
    return find_problem_of_inputs(manifest["inputs"])


def find_problem_of_inputs(inputs: dict[str, Any]) -> str | None:
    """What is wrong with the names that a manifest says its fingerprint depends on, or None."""
    for kind, pattern in (("modules", MODULE), ("versions", PACKAGE)):
        for name in inputs.get(kind, {}):
            if not pattern.fullmatch(name):
                return f"{name!r} is not a name of {kind}"
    for name, feature in inputs.get("features", {}).items():
        if not isinstance(feature, dict):
            return f"the feature {name!r} of its inputs is {feature!r}"
    if (noise := inputs.get("noise")) is not None and not (
        isinstance(noise["rows"], str) and all(isinstance(x, str) for x in noise["options"].values())
    ):
        return f"its noise is {noise!r}"
    return None if isinstance(inputs.get("data", {}), dict) else "its data are not patterns"


def is_count(value: object) -> bool:
    """Whether a value is an int of 0 or more."""
    return type(value) is int and value >= 0
