"""The folder of an exported run.

manifest.json            versions, signatures of the functions, parameters and files with checksums, the vocabulary, the model
predict.jax_export, ...  the serialized programs; or a SavedModel of TensorFlow: saved_model.pb, variables/
parameters.safetensors   the first argument of every program, by name; in a SavedModel they are its variables
vocabulary/              the tokenizer
run.py, README.md        how to load all this without this package
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_like import __version__
from t5x_like.exporting import programs, readme, run
from t5x_like.exporting.lowering import Lowered, signature
from t5x_like.hf import tensors
from t5x_like.types import Model, Vocabulary

STABLEHLO, SAVED_MODEL = FORMATS = ("stablehlo", "saved_model")


def write_programs(folder: Path, lowered: Sequence[Lowered], params: Mapping[str, jax.Array]) -> None:
    """Writes the serialized programs, the parameters one at a time, and the loader."""
    for each in lowered:
        (folder / f"{each.program.name}.jax_export").write_bytes(each.exported.serialize())
    stored = {
        name: tensors.StoredTensor(x.shape, np.dtype(x.dtype), make=functools.partial(np.asarray, x))
        for name, x in params.items()
    }
    tensors.write_file(folder / "parameters.safetensors", stored, iter(stored))
    (folder / "run.py").write_bytes(Path(run.__file__).read_bytes())


def finish(
    folder: Path,
    format: str,
    lowered: Sequence[Lowered],
    params: Mapping[str, jax.Array],
    model: Model,
    vocabulary: Vocabulary | None,
    facts: Mapping[str, Any],
) -> None:
    """Adds the vocabulary, the README and the manifest, with `facts`, to a folder that has the programs."""
    if vocabulary is not None:
        vocabulary.save(folder / "vocabulary")
    manifest = {
        "format_version": run.FORMAT_VERSION,
        "format": format,
        "t5x_like_version": __version__,
        **facts,
        **describe_programs(lowered),
        "model": describe_model(model, params),
        "vocabulary": None if vocabulary is None else describe_vocabulary(vocabulary, folder, model.encoder_decoder),
        "parameters": [
            {"name": name, "dtype": x.dtype.name, "shape": list(x.shape), "sha256": run.checksum(np.asarray(x))}
            for name, x in params.items()
        ],
    }
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    others = paths.keys() - {"parameters.safetensors", "run.py"}  # has checksums by parameter; may be edited
    manifest["files"] = {name: file_checksum(path) for name, path in paths.items() if name in others}
    (folder / "README.md").write_text(readme.text(manifest), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def describe_programs(lowered: Sequence[Lowered]) -> dict[str, Any]:
    """The platforms, versions and signatures of programs that were lowered together."""
    first = lowered[0].exported
    return {
        # A jax that is older than the one that wrote a program need not read it.
        "jax": {"minimum_version": jax.__version__, "calling_convention_version": first.calling_convention_version},
        "platforms": list(first.platforms),
        "functions": {each.program.name: signature(each) for each in lowered},
    }


def describe_model(model: Model, params: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The model in numbers."""
    return {
        "class": type(model).__name__,
        "sides": list(model.sides),
        "vocab_size": model.vocab_size,
        "parameters": sum(math.prod(x.shape) for x in params.values()),
        "position_tables": programs.position_tables(model),
    }


def describe_vocabulary(vocabulary: Vocabulary, folder: Path, encoder_decoder: bool) -> dict[str, Any]:
    """What a loader needs to know to read and write text: `before` and `after` are the ids around those of a prompt."""
    kind = json.loads((folder / "vocabulary" / "vocabulary.json").read_text())["kind"]
    before = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    after: list[int] = []
    if encoder_decoder:
        plain, special = vocabulary.encode("a"), vocabulary.encode_special("a")
        start = next(i for i in range(len(special)) if special[i : i + len(plain)] == plain)
        before, after = special[:start], special[start + len(plain) :]
    names = ("fingerprint", "vocab_size", "pad", "bos", "eos", "unk", "mask")
    ids = {name: getattr(vocabulary, name) for name in names}
    return {"kind": kind, **ids, "stop_ids": list(vocabulary.stop_ids), "before": before, "after": after}


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
