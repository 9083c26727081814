"""Writes the files of a token cache, whatever its examples come from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from t5x_like.data import token_cache
from t5x_like.data.vocabularies import Vocabulary


class FeatureFile:
    """One feature's tokens and offsets."""

    def __init__(self, folder: Path, name: str, vocabulary: Vocabulary):
        self.name, self.vocab_size = name, vocabulary.vocab_size
        self.bytes_per_token_V, self.text_bytes = vocabulary.bytes_per_token_V, 0
        self.dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        self.tokens = open(folder / f"{name}.tokens", "wb")  # noqa: SIM115
        self.offsets, self.max_id = [0], 0

    def add(self, ids: np.ndarray) -> None:
        """Appends a document."""
        low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"document {len(self.offsets) - 1} has the id {high if low >= 0 else low} in feature {self.name!r}, "
                f"its vocabulary has {self.vocab_size} ids; the preprocessors and the vocabulary do not fit together"
            )
        self.max_id = max(self.max_id, high)
        self.text_bytes += int(self.bytes_per_token_V[ids].sum()) if len(ids) else 0
        self.tokens.write(ids.astype(self.dtype).tobytes())
        self.offsets.append(self.offsets[-1] + len(ids))

    def close(self, folder: Path) -> dict:
        """Writes the offsets; what the manifest says of the feature."""
        self.tokens.close()
        np.asarray(self.offsets, np.int64).tofile(folder / f"{self.name}.offsets")
        return {
            "dtype": np.dtype(self.dtype).name,
            "tokens": self.offsets[-1],
            "text_bytes": self.text_bytes,
            "max_id": self.max_id,
        }


def write(
    folder: Path,
    task: str,
    split: str,
    inputs: dict,
    vocabulary: Vocabulary,
    features: Sequence[str],
    examples: Iterable[Mapping[str, np.ndarray]],
) -> None:
    """Fills `folder` with a split whose examples hold the ids of every feature; the manifest comes last.

    `inputs` is everything the cache depends on (see `token_cache`); their hash is its fingerprint.

    Raises:
      ValueError: an id outside the vocabulary, by document and feature, or no example.
    """
    files = {name: FeatureFile(folder, name, vocabulary) for name in features}
    documents = 0
    for example in examples:
        for name, file in files.items():
            file.add(np.asarray(example[name]))
        documents += 1
    if documents == 0:
        raise ValueError(f"task {task!r} has no example in split {split!r}")
    described = {name: file.close(folder) for name, file in files.items()}
    vocabulary.save(folder / "vocabulary")
    manifest = {
        "fingerprint": token_cache.fingerprint_of(inputs),
        "inputs": inputs,
        "task": task,
        "split": split,
        "documents": documents,
        "vocab_size": vocabulary.vocab_size,
        "features": described,
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": token_cache.file_hash(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    (folder / token_cache.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
