"""TensorFlow-free vocabularies: bytes as in ByT5, and SentencePiece models; functions for all vocabularies.

Both classes use T5's ids: 0, 1, 2 are padding, end of sequence and unknown; decoders start with 0; sentinel i is
first_sentinel - i, and the lowest sentinel is also BERT's mask. Vocabularies of pretrained models, which have their own
special ids, are in `huggingface` and `sentencepiece`.

Control tokens (</s>, <extra_id_0>, <|im_end|>, ...) are read from a text only where the text is trusted: in prompts and in
what a chat template writes. Documents and the messages of chats are encoded literally: a control token's name in them is text.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from t5x_like.types import PathLike, Vocabulary

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

PAD, EOS, UNK = 0, 1, 2
T5_NAMES = ("<pad>", "</s>", "<unk>")
SPACE_MARK = "▁"
FIRST_EXTRA = 3 + 256  # the first id above those of bytes
BYT5_SENTINEL = 258


def mask_id(vocabulary: Vocabulary) -> int:
    """The id of a masked token: the vocabulary's own, or the lowest sentinel.

    Raises:
      ValueError: the vocabulary has neither, or its lowest sentinel is also an id of text, as ByT5's is.
    """
    if vocabulary.mask is not None:
        return vocabulary.mask
    if vocabulary.extra_ids < 1:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no mask token and extra_ids=0; masking needs at least 1 sentinel"
        )
    lowest = vocabulary.first_sentinel - vocabulary.extra_ids + 1
    if vocabulary.bytes_per_token_V[lowest]:
        raise ValueError(
            f"the lowest sentinel {lowest} of the vocabulary {vocabulary.fingerprint} is also an id of text, so it cannot be "
            "the mask; use span corruption, or a vocabulary with a mask token"
        )
    return lowest


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


def encode_documents(vocabulary: Vocabulary, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
    """The literal ids of every text; by the vocabulary's `encode_documents`, in one thread, if it has one."""
    encode_all = getattr(vocabulary, "encode_documents", None)
    return encode_all(texts) if encode_all else [vocabulary.encode(text, literal=True) for text in texts]


def encode_special(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids an encoder reads, `vocabulary.encode_special`, but of literal text."""
    probe = vocabulary.encode("a", literal=True)
    around = vocabulary.encode_special("a")
    begin = next(i for i in range(len(around)) if around[i : i + len(probe)] == probe)
    return [*around[:begin], *vocabulary.encode(text, literal=True), *around[begin + len(probe) :]]


def encode_around(
    pattern: re.Pattern[str], ids: Mapping[str, int], text: str, encode_part: Callable[[str, bool], list[int]]
) -> list[int]:
    """The ids of a text whose matches of `pattern` are tokens in `ids`, which may have spaces around them.

    `encode_part(part, first)` gives the ids of the texts between them; `first` tells whether the part begins the text.
    """
    encoded: list[int] = []
    begin = 0
    for match in pattern.finditer(text):
        token = match.group()
        encoded += encode_part(text[begin : match.start()], begin == 0)
        encoded.append(ids[token if token in ids else token.strip()])
        begin = match.end()
    return encoded + encode_part(text[begin:], begin == 0)


def names_pattern(names: Iterable[str], absorbing: Container[str] = ()) -> re.Pattern[str]:
    """Matches any of the names, the longest first; those in `absorbing` together with the spaces around them."""
    ordered = sorted(names, key=len, reverse=True)
    parts = (rf"\s*{re.escape(name)}\s*" if name in absorbing else re.escape(name) for name in ordered)
    return re.compile("|".join(parts) or r"(?!)")


def text_ids(vocabulary: Vocabulary) -> np.ndarray:
    """The ids that represent text: neither special nor sentinel nor unused."""
    return np.flatnonzero(vocabulary.bytes_per_token_V)


def take_until_stop(ids: Iterable[int], stop_ids: tuple[int, ...]) -> list[int]:
    """The ids before the first stop id."""
    return list(itertools.takewhile(lambda i: i not in stop_ids, map(int, ids)))


def textless_pieces(processor: SentencePieceProcessor) -> set[int]:
    """The ids of a SentencePiece model's control and unknown pieces."""
    return {i for i in range(processor.vocab_size()) if processor.is_control(i) or processor.is_unknown(i)}


def piece_bytes(processor: SentencePieceProcessor, vocab_size: int, textless: Container[int]) -> list[bytes]:
    """The bytes of text of each id of a SentencePiece model; none for ids in `textless` and above the pieces."""
    texts = [b""] * vocab_size
    for i in range(processor.vocab_size()):
        piece = processor.id_to_piece(i)
        if processor.is_byte(i):
            texts[i] = bytes([int(piece[3:5], 16)])  # <0x0A>
        elif i not in textless:
            texts[i] = piece.replace(SPACE_MARK, " ").encode("utf-8")
    return texts


def sizes(texts: Sequence[bytes]) -> np.ndarray:
    """The number of bytes of each text, int32 [V]."""
    return np.array([len(text) for text in texts], np.int32)


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

    def encode_special(self: Vocabulary, text: str) -> list[int]:
        """`encode`, followed by the end of sequence."""
        return [*self.encode(text), EOS]


@dataclasses.dataclass(frozen=True)
class ByteVocabulary(T5Ids):
    """One id per byte of UTF-8: byte b has the id b + 3 (ByT5, Xue et al. 2022), with `extra_ids` further ids above them.

    The first sentinel is the highest id by default, so that sentinels are no bytes. ByT5's is `BYT5_SENTINEL`: it was
    pretrained with the highest bytes as sentinels, 258, 257, ..., the first of which do not occur in UTF-8. Its tokenizer in
    transformers nevertheless reads <extra_id_0>, <extra_id_1>, ... as 259, 260, ..., and so does `encode`.
    """

    extra_ids: int = 125
    sentinel: int | None = None

    @property
    def vocab_size(self) -> int:
        """3 special ids, 256 bytes and the extra ids."""
        return FIRST_EXTRA + self.extra_ids

    @property
    def first_sentinel(self) -> int:
        """The id of the first sentinel."""
        return self.vocab_size - 1 if self.sentinel is None else self.sentinel

    @property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        return f"bytes/{self.extra_ids}" + ("" if self.sentinel is None else f"/{self.sentinel}")

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The byte of each id, none for other ids."""
        return [b""] * 3 + [bytes([byte]) for byte in range(256)] + [b""] * self.extra_ids

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """1 for bytes, 0 for other ids."""
        return sizes(self.token_bytes)

    @functools.cached_property
    def control_ids(self) -> dict[str, int]:
        """{name: id} of the tokens that `encode` reads from a text unless it is literal."""
        numbers = range(self.extra_ids) if self.sentinel is not None else reversed(range(self.extra_ids))
        extra = {f"<extra_id_{number}>": FIRST_EXTRA + place for place, number in enumerate(numbers)}
        return {name: index for index, name in enumerate(T5_NAMES)} | extra

    @functools.cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches a control token."""
        return names_pattern(self.control_ids, absorbing=T5_NAMES)

    def encode(self, text: str, literal: bool = False, mark: str = "") -> list[int]:
        """The ids of the text alone; see `types.Vocabulary.encode`."""

        def encode_part(part: str, first: bool) -> list[int]:
            return [byte + 3 for byte in part.replace(mark, "").encode("utf-8")]

        return (
            encode_part(text, True)
            if literal
            else encode_around(self.control_pattern, self.control_ids, text, encode_part)
        )

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The literal ids of every text, as uint16 arrays."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) + np.uint16(3) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first stop id; invalid UTF-8 becomes U+FFFD."""
        text = bytes(i - 3 for i in take_until_stop(ids, self.stop_ids) if 3 <= i < FIRST_EXTRA)
        return text.decode("utf-8", errors="replace")

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """{id: name} of the control tokens."""
        return {index: name for name, index in self.control_ids.items()}

    def token(self, index: int) -> str:
        """The name of an id."""
        return self.names[index] if index in self.names else f"<0x{index - 3:02X}>"

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`."""
        write_json(folder, {"kind": "bytes", "extra_ids": self.extra_ids, "sentinel": self.sentinel})


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

    @property
    def first_sentinel(self) -> int:
        """The id of <extra_id_0>."""
        return self.vocab_size - 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        return f"sentencepiece/{hashlib.sha256(self.model).hexdigest()[:16]}/{self.extra_ids}"

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of text of each id."""
        return piece_bytes(self.processor, self.vocab_size, textless_pieces(self.processor))

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """UTF-8 bytes of text of each id, int32 [V]."""
        return sizes(self.token_bytes)

    @functools.cached_property
    def space_mark_ids(self) -> list[int]:
        """The ids of the bytes of "▁"; none if the model has no pieces for bytes."""
        ids = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode("utf-8")]
        return ids if all(self.processor.is_byte(i) for i in ids) else []

    @functools.cached_property
    def control_ids(self) -> dict[str, int]:
        """{name: id} of the sentinels, which `encode` reads from a text unless it is literal."""
        return {f"<extra_id_{number}>": self.first_sentinel - number for number in range(self.extra_ids)}

    @functools.cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches a sentinel."""
        return names_pattern(self.control_ids, absorbing=self.control_ids)

    def encode(self, text: str, literal: bool = False, mark: str = "") -> list[int]:
        """The ids of the text alone; see `types.Vocabulary.encode`."""
        if literal:
            return self.encode_text(text)

        def encode_part(part: str, first: bool) -> list[int]:
            return self.encode_text(part.replace(mark, ""))

        return encode_around(self.control_pattern, self.control_ids, text, encode_part)

    def encode_text(self, text: str) -> list[int]:
        """The ids of text without control tokens."""
        if SPACE_MARK not in text or not self.space_mark_ids:
            return self.processor.encode(text)
        first, *others = map(self.processor.encode, text.split(SPACE_MARK))
        return first + [i for part in others for i in (*self.space_mark_ids, *part)]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """The literal ids of every text, in one thread."""
        if any(SPACE_MARK in text for text in texts):
            return [self.encode_text(text) for text in texts]
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
