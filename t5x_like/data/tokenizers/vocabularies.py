"""Vocabularies without TensorFlow: bytes as in ByT5, and SentencePiece models; what every vocabulary can do.

The two here have T5's ids: 0, 1, 2 are padding, end of sequence and unknown, decoders begin with 0, and sentinels stand
at the top, sentinel i being vocab_size - 1 - i; the lowest doubles as BERT's mask. Those of pretrained models, whose ids
are their own, are in tokenizer_json and sentencepiece_model.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from t5x_like.types import Vocabulary

PAD, EOS, UNK = 0, 1, 2
SPACE_MARK = "▁"


def mask_id(vocabulary: Vocabulary) -> int:
    """The id that stands for a masked token: the vocabulary's own, or the lowest sentinel.

    Raises:
      ValueError: the vocabulary has neither.
    """
    if vocabulary.mask is not None:
        return vocabulary.mask
    if vocabulary.extra_ids < 1:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no mask token and extra_ids=0; masking needs at least 1 sentinel"
        )
    return vocabulary.first_sentinel - vocabulary.extra_ids + 1


def start_id(vocabulary: Vocabulary) -> int:
    """What a decoder reads before the first token: `bos`, or `eos`, which ends the text before it, or padding.

    Raises:
      ValueError: the vocabulary has none of them.
    """
    for index in (vocabulary.bos, vocabulary.eos, vocabulary.pad):
        if index is not None:
            return index
    raise ValueError(
        f"the vocabulary {vocabulary.fingerprint} has neither bos nor eos nor pad, so a decoder has nothing to begin with; "
        "name one of them in tokenizer_config.json"
    )


def end_id(vocabulary: Vocabulary) -> int:
    """`eos`.

    Raises:
      ValueError: the vocabulary has none.
    """
    if vocabulary.eos is None:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no end of sequence (eos=None); name one as eos_token in "
            "tokenizer_config.json"
        )
    return vocabulary.eos


def encode_batch(vocabulary: Vocabulary, texts: Sequence[str]) -> list[Sequence[int]]:
    """`encode` of every text; all at once where the vocabulary can (`encode_batch`), in one thread."""
    at_once = getattr(vocabulary, "encode_batch", None)
    return at_once(texts) if at_once else [vocabulary.encode(text) for text in texts]


def text_ids(vocabulary: Vocabulary) -> np.ndarray:
    """The ids that stand for text: neither special nor sentinel nor unused."""
    return np.flatnonzero(vocabulary.bytes_per_token_V)


def until(ids, stop_ids: tuple[int, ...]) -> list[int]:
    """The ids before the first that ends a text."""
    return list(itertools.takewhile(lambda i: i not in stop_ids, map(int, ids)))


class T5Ids:
    """The special ids of T5's vocabularies."""

    pad: ClassVar[int] = PAD
    eos: ClassVar[int] = EOS
    unk: ClassVar[int] = UNK
    bos: ClassVar[int] = PAD  # T5 shifts targets right and fills with padding
    add_bos: ClassVar[bool] = True
    stop_ids: ClassVar[tuple[int, ...]] = (EOS,)
    mask: ClassVar[None] = None
    chat_template: ClassVar[None] = None

    @property
    def first_sentinel(self) -> int:
        return self.vocab_size - 1

    def encode_special(self, text: str) -> list[int]:
        return [*self.encode(text), EOS]


@dataclasses.dataclass(frozen=True)
class ByteVocabulary(T5Ids):
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

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), np.uint8) + np.uint16(3) for text in texts]

    def decode(self, ids) -> str:
        return bytes(i - 3 for i in until(ids, self.stop_ids) if 3 <= i < 259).decode("utf-8", errors="replace")

    def token(self, index: int) -> str:
        return ("<pad>", "</s>", "<unk>")[index] if index < 3 else f"<0x{index - 3:02X}>"

    def save(self, folder) -> None:
        write_json(folder, {"kind": "bytes", "extra_ids": self.extra_ids})


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary(T5Ids):
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if any(SPACE_MARK in text for text in texts):
            return [self.encode(text) for text in texts]
        return self.processor.encode(texts, num_threads=1)

    def decode(self, ids) -> str:
        return self.processor.decode([i for i in until(ids, self.stop_ids) if UNK < i < self.processor.vocab_size()])

    def token(self, index: int) -> str:
        return self.processor.id_to_piece(index)

    def save(self, folder) -> None:
        write_json(folder, {"kind": "sentencepiece", "extra_ids": self.extra_ids})
        (Path(folder) / "vocabulary.model").write_bytes(self.model)


def write_json(folder, content: dict) -> None:
    """folder/vocabulary.json, the folder being made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "vocabulary.json").write_text(json.dumps(content) + "\n")
