"""The fixtures of this folder, and batches of their inputs."""

import json
from pathlib import Path

import numpy as np

from t5x_like.hf import tensors

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def expected(name: str) -> dict[str, np.ndarray]:
    """Returns the inputs and outputs of the reference library."""
    with np.load(FIXTURES / name / "expected.npz") as arrays:
        return dict(arrays)


def config(name: str) -> dict:
    """Returns the config.json of a fixture."""
    return json.loads((FIXTURES / name / "config.json").read_text())


def tensor_names(name: str) -> list[str]:
    """Returns the names of the tensors of a fixture."""
    return list(tensors.list_tensors(FIXTURES / name))


def side(name: str, tokens, segments) -> dict[str, np.ndarray]:
    """Returns one side of a batch; positions count from 0 in every segment."""
    segments = np.asarray(segments, np.int32)
    begins = np.diff(segments, axis=1, prepend=-1) != 0
    starts = np.maximum.accumulate(np.where(begins, np.arange(segments.shape[1]), 0), axis=1)
    positions = (np.arange(segments.shape[1]) - starts) * (segments > 0)
    arrays = {"input_tokens": tokens, "positions": positions, "segment_ids": segments}
    return {f"{name}_{kind}": np.asarray(x, np.int32) for kind, x in arrays.items()}


def batch(reference: dict[str, np.ndarray], sides: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the input batch of the reference library."""
    tokens, mask = reference["tokens"], reference["mask"]
    if "decoder_tokens" in reference:
        decoder = reference["decoder_tokens"]
        return side("encoder", tokens, mask) | side("decoder", decoder, np.ones_like(decoder))
    result = side(sides[0], tokens, mask)
    if "token_types" in reference:
        result["encoder_token_types"] = reference["token_types"].astype(np.int32)
    return result


def pack_rows(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the batch with one more row: its rows 1 and 2 without padding, packed as two segments."""
    result = {}
    for name, x in batch.items():
        two = real_parts(batch[f"{name.split('_', 1)[0]}_segment_ids"] > 0, x)
        if name.endswith("segment_ids"):
            two = [np.full_like(part, i + 1) for i, part in enumerate(two)]
        row = np.concatenate(two)
        result[name] = np.stack([*x, np.pad(row, (0, x.shape[1] - len(row)))])
    return result


def real_parts(real: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Returns the real elements of rows 1 and 2; if they do not fit into one row together, half a row of each."""
    two = [x[i][real[i]] for i in (1, 2)]
    half = x.shape[1] // 2
    return two if sum(map(len, two)) <= x.shape[1] else [part[:half] for part in two]
