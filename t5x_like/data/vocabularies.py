"""Vocabularies without TensorFlow: bytes as in ByT5, and SentencePiece models.

Ids 0, 1, 2 are padding, end of sequence and unknown; sentinels stand at the top, sentinel i being vocab_size - 1 - i (T5).
The lowest sentinel doubles as BERT's mask. `bytes_per_token_V` says how many UTF-8 bytes each id stands for.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Protocol

import numpy as np

PAD, EOS, UNK = 0, 1, 2
SPACE_MARK = "▁"


class Vocabulary(Protocol):
    """What the rest of the system needs of a vocabulary."""

    vocab_size: int
    extra_ids: int
    fingerprint: str
    bytes_per_token_V: np.ndarray

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids) -> str: ...
    def save(self, folder) -> None: ...


def mask_id(vocabulary: Vocabulary) -> int:
    """The id that stands for a masked token: the lowest sentinel.

    Raises:
      ValueError: the vocabulary has no sentinel.
    """
    if vocabulary.extra_ids < 1:
        raise ValueError(f"the vocabulary {vocabulary.fingerprint} has extra_ids=0; masking needs at least 1 sentinel")
    return vocabulary.vocab_size - vocabulary.extra_ids


def text_ids(vocabulary: Vocabulary) -> range:
    """The ids that stand for text: neither special nor sentinel."""
    return range(UNK + 1, vocabulary.vocab_size - vocabulary.extra_ids)


def until_eos(ids) -> list[int]:
    """The ids before the first end of sequence."""
    ids = [int(i) for i in ids]
    return ids[: ids.index(EOS)] if EOS in ids else ids


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
    """One id a byte of UTF-8, byte b being id b + 3 (ByT5, Xue et al. 2022)."""

    extra_ids: int = 125

    @property
    def vocab_size(self) -> int:
        return 3 + 256 + self.extra_ids

    @property
    def fingerprint(self) -> str:
        return f"bytes/{self.extra_ids}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        ids = np.arange(self.vocab_size)
        return ((ids >= 3) & (ids < 259)).astype(np.int32)

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode("utf-8")]

    def decode(self, ids) -> str:
        return bytes(i - 3 for i in until_eos(ids) if 3 <= i < 259).decode("utf-8", errors="replace")

    def save(self, folder) -> None:
        write_json(folder, {"kind": "bytes", "extra_ids": self.extra_ids})


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary:
    """A SentencePiece model (Kudo & Richardson 2018), given as its serialised bytes, with sentinels above its pieces.

    The character "▁", by which pieces spell a space, is written as bytes where the model has them, so that it comes back.
    """

    model: bytes = dataclasses.field(repr=False)
    extra_ids: int = 100

    @functools.cached_property
    def processor(self):
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def vocab_size(self) -> int:
        return self.processor.vocab_size() + self.extra_ids

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"sentencepiece/{hashlib.sha256(self.model).hexdigest()[:16]}/{self.extra_ids}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        sizes = np.zeros(self.vocab_size, np.int32)
        for i in range(self.processor.vocab_size()):
            if self.processor.is_byte(i):
                sizes[i] = 1
            elif not (self.processor.is_control(i) or self.processor.is_unknown(i)):
                sizes[i] = len(self.processor.id_to_piece(i).replace(SPACE_MARK, " ").encode("utf-8"))
        return sizes

    @functools.cached_property
    def space_mark_ids(self) -> list[int]:
        """The bytes of "▁"; none where the model has no pieces for bytes."""
        ids = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode("utf-8")]
        return ids if all(self.processor.is_byte(i) for i in ids) else []

    def encode(self, text: str) -> list[int]:
        if SPACE_MARK not in text or not self.space_mark_ids:
            return self.processor.encode(text)
        first, *others = map(self.processor.encode, text.split(SPACE_MARK))
        return first + [i for part in others for i in (*self.space_mark_ids, *part)]

    def decode(self, ids) -> str:
        return self.processor.decode([i for i in until_eos(ids) if UNK < i < self.processor.vocab_size()])

    def save(self, folder) -> None:
        write_json(folder, {"kind": "sentencepiece", "extra_ids": self.extra_ids})
        (Path(folder) / "vocabulary.model").write_bytes(self.model)


def write_json(folder, content: dict) -> None:
    """folder/vocabulary.json, the folder being made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "vocabulary.json").write_text(json.dumps(content) + "\n")


def load(folder) -> ByteVocabulary | SentencePieceVocabulary:
    """The vocabulary that `save` wrote into `folder`."""
    content = json.loads((Path(folder) / "vocabulary.json").read_text())
    if content["kind"] == "bytes":
        return ByteVocabulary(content["extra_ids"])
    return SentencePieceVocabulary((Path(folder) / "vocabulary.model").read_bytes(), content["extra_ids"])
