"""TensorFlow-free vocabularies: bytes as in ByT5, and SentencePiece models; functions for all vocabularies.

Both classes use T5's ids: 0, 1, 2 are padding, end of sequence and unknown; decoders start with 0; sentinel i is
vocab_size - 1 - i, and the lowest sentinel is also BERT's mask. Vocabularies of pretrained models, which have their own
special ids, are in `huggingface` and `sentencepiece`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from t5x_like.types import PathLike, Vocabulary

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

PAD, EOS, UNK = 0, 1, 2
SPACE_MARK = "▁"


def mask_id(vocabulary: Vocabulary) -> int:
    """The id of a masked token: the vocabulary's own, or the lowest sentinel.

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
    """The id that a decoder reads before the first token: `bos`, else `eos`, else padding.

    Raises:
      ValueError: the vocabulary has none of them.
    """
    for index in (vocabulary.bos, vocabulary.eos, vocabulary.pad):
        if index is not None:
            return index
    raise ValueError(
        f"the vocabulary {vocabulary.fingerprint} has neither bos nor eos nor pad, so a decoder cannot start; "
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


def encode_batch(vocabulary: Vocabulary, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
    """`encode` of every text; by the vocabulary's `encode_batch`, in one thread, if it has one."""
    encode_all = getattr(vocabulary, "encode_batch", None)
    return encode_all(texts) if encode_all else [vocabulary.encode(text) for text in texts]


def text_ids(vocabulary: Vocabulary) -> np.ndarray:
    """The ids that represent text: neither special nor sentinel nor unused."""
    return np.flatnonzero(vocabulary.bytes_per_token_V)


def take_until_stop(ids: Iterable[int], stop_ids: tuple[int, ...]) -> list[int]:
    """The ids before the first stop id."""
    return list(itertools.takewhile(lambda i: i not in stop_ids, map(int, ids)))


def textless_pieces(processor: SentencePieceProcessor) -> set[int]:
    """The ids of a SentencePiece model's control and unknown pieces."""
    return {i for i in range(processor.vocab_size()) if processor.is_control(i) or processor.is_unknown(i)}


def bytes_per_piece(processor: SentencePieceProcessor, vocab_size: int, textless: Container[int]) -> np.ndarray:
    """UTF-8 bytes of text of each id of a SentencePiece model, int32 [vocab_size]; 0 for ids in `textless`."""
    sizes = np.zeros(vocab_size, np.int32)
    for i in range(processor.vocab_size()):
        if processor.is_byte(i):
            sizes[i] = 1
        elif i not in textless:
            sizes[i] = len(processor.id_to_piece(i).replace(SPACE_MARK, " ").encode("utf-8"))
    return sizes


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
    def first_sentinel(self: Vocabulary) -> int:
        """The id of <extra_id_0>."""
        return self.vocab_size - 1

    def encode_special(self: Vocabulary, text: str) -> list[int]:
        """`encode`, followed by the end of sequence."""
        return [*self.encode(text), EOS]


@dataclasses.dataclass(frozen=True)
class ByteVocabulary(T5Ids):
    """One id per byte of UTF-8: byte b has the id b + 3 (ByT5, Xue et al. 2022)."""

    extra_ids: int = 125

    @property
    def vocab_size(self) -> int:
        """3 special ids, 256 bytes and the sentinels."""
        return 3 + 256 + self.extra_ids

    @property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        return f"bytes/{self.extra_ids}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """1 for bytes, 0 for other ids."""
        ids = np.arange(self.vocab_size)
        return ((ids >= 3) & (ids < 259)).astype(np.int32)

    def encode(self, text: str) -> list[int]:
        """The ids of the text alone."""
        return [byte + 3 for byte in text.encode("utf-8")]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of every text, as uint16 arrays."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) + np.uint16(3) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first stop id; invalid UTF-8 becomes U+FFFD."""
        text = bytes(i - 3 for i in take_until_stop(ids, self.stop_ids) if 3 <= i < 259)
        return text.decode("utf-8", errors="replace")

    def token(self, index: int) -> str:
        """The name of an id."""
        return ("<pad>", "</s>", "<unk>")[index] if index < 3 else f"<0x{index - 3:02X}>"

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`."""
        write_json(folder, {"kind": "bytes", "extra_ids": self.extra_ids})


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary(T5Ids):
    """A serialized SentencePiece model (Kudo & Richardson 2018) with sentinels above its pieces.

    A "▁" in a text, which pieces use for a space, is encoded as bytes if the model has them, so that it is decoded as "▁".
    """

    model: bytes = dataclasses.field(repr=False)
    extra_ids: int = 100

    @functools.cached_property
    def processor(self) -> SentencePieceProcessor:
        """The library's processor."""
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def vocab_size(self) -> int:
        """The pieces and the sentinels."""
        return self.processor.vocab_size() + self.extra_ids

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        return f"sentencepiece/{hashlib.sha256(self.model).hexdigest()[:16]}/{self.extra_ids}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """UTF-8 bytes of text of each id, int32 [V]."""
        return bytes_per_piece(self.processor, self.vocab_size, textless_pieces(self.processor))

    @functools.cached_property
    def space_mark_ids(self) -> list[int]:
        """The ids of the bytes of "▁"; none if the model has no pieces for bytes."""
        ids = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode("utf-8")]
        return ids if all(self.processor.is_byte(i) for i in ids) else []

    def encode(self, text: str) -> list[int]:
        """The ids of the text alone."""
        if SPACE_MARK not in text or not self.space_mark_ids:
            return self.processor.encode(text)
        first, *others = map(self.processor.encode, text.split(SPACE_MARK))
        return first + [i for part in others for i in (*self.space_mark_ids, *part)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, in one thread."""
        if any(SPACE_MARK in text for text in texts):
            return [self.encode(text) for text in texts]
        return self.processor.encode(texts, num_threads=1)

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first stop id; special ids and sentinels are left out."""
        pieces = self.processor.vocab_size()
        return self.processor.decode([i for i in take_until_stop(ids, self.stop_ids) if UNK < i < pieces])

    def token(self, index: int) -> str:
        """The piece of an id."""
        return self.processor.id_to_piece(index)

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`."""
        write_json(folder, {"kind": "sentencepiece", "extra_ids": self.extra_ids})
        (Path(folder) / "vocabulary.model").write_bytes(self.model)


def write_json(folder: PathLike, content: dict) -> None:
    """Writes folder/vocabulary.json, and creates the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "vocabulary.json").write_text(json.dumps(content) + "\n")
