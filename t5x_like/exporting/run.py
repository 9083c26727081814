"""Loads the programs of an exported run: needs jax, flatbuffers, numpy, safetensors, and for text tokenizers or sentencepiece.

`load("FOLDER")["predict"](tokens, lengths, 0)` gives arrays by name, see README.md; `python FOLDER/run.py "a prompt"` text.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

FORMAT_VERSION = 1  # of manifest.json
SHORTEST = 2  # tokens per row, where the length is not fixed: attention computes one token in another way
HERE = Path(__file__).parent


def load(folder: Path | str = HERE) -> dict[str, Callable[..., dict[str, jax.Array]]]:
    """The functions {name: function(*inputs) -> {name: array}} of a folder; every file is checked first.

    Raises:
      ValueError: another version of the format, a jax that cannot read it, or a damaged file.
    """
    manifest = read_manifest(folder)
    check_jax(folder, manifest["jax"])
    for name, expected in manifest["files"].items():
        if hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{Path(folder) / name} is damaged; copy the folder again")
    params = jax.device_put(read_parameters(folder, manifest))
    return {name: read_program(folder, manifest, name, params) for name in manifest["functions"]}


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """manifest.json, if this program reads its version of the format."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder}/manifest.json has format_version={manifest.get('format_version')}, this run.py reads {FORMAT_VERSION}; "
            "use the run.py that was exported with it"
        )
    return manifest


def check_jax(folder: Path | str, needed: Mapping[str, Any]) -> None:
    """Raises ValueError if this jax cannot call the programs of a folder; warns if it is older than the one that wrote them."""
    version, minimum = needed["calling_convention_version"], needed["minimum_version"]
    low, high = export.minimum_supported_calling_convention_version, export.maximum_supported_calling_convention_version
    if not low <= version <= high:
        raise ValueError(
            f"{folder} has programs of calling convention {version}, jax {jax.__version__} reads {low} to {high}; "
            f"install jax {minimum} or later, or export the run again"
        )
    if jax.__version_info__ < tuple(map(int, minimum.split(".")[:3])):
        text = f"{folder} was exported with jax {minimum}; the older {jax.__version__} may not read it"
        warnings.warn(text, stacklevel=3)


def read_parameters(folder: Path | str, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters by name, each with the shape, dtype and checksum of the manifest."""
    path = Path(folder) / "parameters.safetensors"
    try:
        arrays = load_file(path)
    except Exception as error:  # the library raises its own
        raise ValueError(f"{path} is damaged: {error}; copy the folder again") from error
    for entry in manifest["parameters"]:
        x = arrays.get(entry["name"])
        if x is None or [list(x.shape), x.dtype.name, checksum(x)] != [entry["shape"], entry["dtype"], entry["sha256"]]:
            raise ValueError(f"{path} is damaged at {entry['name']}; copy the folder again")
    return {entry["name"]: arrays[entry["name"]] for entry in manifest["parameters"]}


def checksum(x: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data).hexdigest()


def read_program(
    folder: Path | str, manifest: Mapping[str, Any], name: str, params: Mapping[str, jax.Array]
) -> Callable[..., dict[str, jax.Array]]:
    """A function with the parameters in place; it is compiled once for every shape of its inputs."""
    content = (Path(folder) / f"{name}.jax_export").read_bytes()
    compiled = jax.jit(export.deserialize(bytearray(content)).call)
    function = manifest["functions"][name]

    def call(*inputs: Any) -> dict[str, jax.Array]:
        arrays = [np.asarray(x, np.int32) for x in inputs]
        check_shapes(name, function, arrays)
        return compiled(params, *arrays)

    return call


def check_shapes(name: str, function: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Raises ValueError if an input has another shape than the manifest says."""
    ranges, sizes = function["ranges"], dict[str | int, int]()
    for entry, x in zip(function["inputs"], arrays, strict=True):
        fits = len(entry["shape"]) == x.ndim
        for dim, size in zip(entry["shape"], x.shape, strict=False):
            low, high = ranges.get(dim, (dim, dim))
            fits &= low <= size <= (size if high is None else high) and sizes.setdefault(dim, size) == size
        if not fits:
            raise ValueError(
                f"{name}: {entry['name']} has shape {list(x.shape)}, it must be {entry['shape']}, where sizes are in {ranges} "
                "(None: no limit) and equal for all inputs; pad or shorten the rows"
            )


def pad(rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [B, L], lengths [B]) of rows of token ids; L is that of the longest row unless `length` gives more."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(length or SHORTEST, *lengths)), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, lengths


def encode(text: str, folder: Path | str = HERE) -> list[int]:
    """The ids of a prompt without control tokens, with those that begin and end it."""
    vocabulary = read_manifest(folder)["vocabulary"]
    if vocabulary["kind"] == "bytes":
        ids = [byte + 3 for byte in text.encode()]
    elif vocabulary["kind"] == "tokenizer":
        ids = tokenizer(folder).encode(text, add_special_tokens=False).ids
    else:
        ids = sentencepiece_model(folder).encode(text)
    return [*vocabulary["before"], *ids, *vocabulary["after"]]


def decode(ids: Sequence[int], folder: Path | str = HERE) -> str:
    """The text of ids up to the first stop id."""
    vocabulary = read_manifest(folder)["vocabulary"]
    ids = [int(i) for i in ids]
    ids = ids[: next((n for n, i in enumerate(ids) if i in vocabulary["stop_ids"]), len(ids))]
    if vocabulary["kind"] == "bytes":
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="replace")
    if vocabulary["kind"] == "tokenizer":
        return tokenizer(folder).decode(ids)
    model = sentencepiece_model(folder)
    return model.decode([i for i in ids if i < model.vocab_size() and not (model.is_control(i) or model.is_unknown(i))])


def tokenizer(folder: Path | str) -> Any:
    """The tokenizer of the `tokenizers` library."""
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(Path(folder) / "vocabulary" / "tokenizer.json"))


def sentencepiece_model(folder: Path | str) -> Any:
    """The model of the `sentencepiece` library."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(Path(folder) / "vocabulary" / "vocabulary.model"))


def generate(prompt: str, folder: Path | str = HERE) -> str:
    """The continuation of one prompt."""
    batch, length = read_manifest(folder)["functions"]["predict"]["inputs"][0]["shape"]
    rows = [encode(prompt, folder)] * (batch if isinstance(batch, int) else 1)
    tokens, lengths = pad(rows, length if isinstance(length, int) else None)
    generated = np.asarray(load(folder)["predict"](tokens, lengths, 0)["tokens"])
    return decode(generated.reshape(-1, generated.shape[-1])[0], folder)  # of beams, the best


if __name__ == "__main__":
    print(generate(sys.argv[1]))
