"""A Hugging Face `tokenizer.json` as a vocabulary: BPE, WordPiece and Unigram, read by the `tokenizers` library.

The library computes all ids. This module adds what it lacks: special ids, the size of the model's embedding table,
sentinels, the chat template, the number of bytes of text per token, and literal text (see `literal`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.data.tokenizers import literal as literal_tokenizers
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import PathLike

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclasses.dataclass(frozen=True)
class TokenizerVocabulary:
    """The text of a tokenizer.json, with the special ids of its model.

    `vocab_size` is the size of the model's embedding table, which may be larger than the tokenizer: the extra ids are never
    produced and decode to nothing. `stop_ids` are all ids that end a text, `eos` first (default: only `eos`).

    Raises:
      ValueError: the text is not a tokenizer, it has more than `vocab_size` ids, or a special id is out of range.
    """

    json: str = dataclasses.field(repr=False)
    vocab_size: int
    pad: int | None = None
    eos: int | None = None
    unk: int | None = None
    bos: int | None = None
    mask: int | None = None
    add_bos: bool = False
    stop_ids: tuple[int, ...] = ()
    extra_ids: int = 0
    sentinel: int | None = None
    chat_template: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if self.eos is not None and self.eos not in self.stop_ids:
            object.__setattr__(self, "stop_ids", (self.eos, *self.stop_ids))
        check_size(self.size, self.vocab_size)
        for name in ("pad", "eos", "unk", "bos", "mask", "sentinel"):
            index = getattr(self, name)
            if index is not None and not 0 <= index < self.vocab_size:
                raise ValueError(
                    f"{name}={index} is not one of the vocab_size={self.vocab_size} ids; correct one of them"
                )
        if self.add_bos and self.bos is None:
            raise ValueError("add_bos=True, but bos=None: give the id that begins a sequence, or leave add_bos out")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The library's tokenizer."""
        return parse_tokenizer(self.json)

    @functools.cached_property
    def size(self) -> int:
        """The tokenizer's largest id plus 1."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def model_type(self) -> str:
        """BPE, WordPiece, Unigram or WordLevel."""
        return json.loads(self.json)["model"]["type"]

    @property
    def first_sentinel(self) -> int:
        """The id of <extra_id_0>."""
        return self.vocab_size - 1 if self.sentinel is None else self.sentinel

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        ids = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("json", "chat_template")
        }
        content = self.json + json.dumps(ids, sort_keys=True)
        return f"tokenizer/{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of text of each id, without text that the tokenizer drops (WordPiece's spaces)."""
        return token_bytes(self.tokenizer, json.loads(self.json), self.vocab_size)

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """UTF-8 bytes of text of each id, int32 [V]; text that a tokenizer drops (WordPiece's spaces) is not counted."""
        return vocabularies.sizes(self.token_bytes)

    @functools.cached_property
    def control_ids(self) -> dict[str, int]:
        """{text: id} of the added tokens that are special or end a text."""
        named = {self.pad, self.eos, self.bos, self.mask, *self.stop_ids}
        added = self.tokenizer.get_added_tokens_decoder()
        return {token.content: index for index, token in added.items() if token.special or index in named}

    @functools.cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches a control token."""
        return vocabularies.names_pattern(self.control_ids)

    @functools.cached_property
    def literal_tokenizer(self) -> literal_tokenizers.LiteralTokenizer:
        """The library's tokenizer of literal text."""
        return literal_tokenizers.LiteralTokenizer.build(self.json, self.control_ids)

    def encode(self, text: str, literal: bool = False, mark: str = "") -> list[int]:
        """The library's ids of the text alone; see `types.Vocabulary.encode`.

        Raises:
          ValueError: the library fails, such as at millions of spaces.
        """
        with panics_as_errors():
            if not literal and not mark:
                return self.tokenizer.encode(text, add_special_tokens=False).ids
            names = self.literal_tokenizer.names
            if not literal:
                text = self.control_pattern.sub(lambda match: names[match.group()], text)
            return self.literal_tokenizer.tokenizer.encode(text.replace(mark, "") if mark else text).ids

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """The literal ids of every text; multithreaded unless $TOKENIZERS_PARALLELISM is false."""
        with panics_as_errors():
            return [encoding.ids for encoding in self.literal_tokenizer.tokenizer.encode_batch_fast(texts)]

    def encode_special(self, text: str) -> list[int]:
        """The library's ids with those that its post-processor adds: [CLS] ... [SEP], or a bos."""
        with panics_as_errors():
            return self.tokenizer.encode(text, add_special_tokens=True).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first stop id; special tokens and ids above the tokenizer's are left out."""
        before_stop = vocabularies.take_until_stop(ids, self.stop_ids)
        return self.tokenizer.decode([i for i in before_stop if 0 <= i < self.size])

    def token(self, index: int) -> str:
        """The token of an id; empty if it is unused."""
        return self.tokenizer.id_to_token(index) or ""

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        files = {TOKENIZER: content.pop("json"), TEMPLATE: content.pop("chat_template")}
        vocabularies.write_json(folder, {"kind": "tokenizer"} | content)
        for name, text in files.items():
            if text is not None:
                (Path(folder) / name).write_bytes(text.encode())

    @classmethod
    def from_saved(cls, folder: Path, content: dict) -> TokenizerVocabulary:
        """Reads what `save` wrote; `content` is that of vocabulary.json."""
        template = folder / TEMPLATE
        return cls(
            (folder / TOKENIZER).read_bytes().decode(),
            **content | {"stop_ids": tuple(content["stop_ids"])},
            chat_template=template.read_bytes().decode() if template.exists() else None,
        )


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turns a panic of the library, which is no Exception, into an error.

    Raises:
      ValueError: the library panics.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class cannot be imported
            raise
        raise ValueError(f"the tokenizers library fails: {error}") from error


def parse_tokenizer(text: str) -> Tokenizer:
    """The library's tokenizer of the text of a tokenizer.json, whose truncation and padding it ignores.

    Raises:
      ValueError: the library cannot read it.
    """
    import tokenizers

    try:
        with panics_as_errors():
            tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"this tokenizer.json cannot be read by tokenizers {tokenizers.__version__}: {error}; "
            "download the file again, or update tokenizers"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_size(size: int, vocab_size: int) -> None:
    """Checks that the model's embedding table has a row for every id of a tokenizer.

    Raises:
      ValueError: it has fewer rows.
    """
    if size > vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocab_size={vocab_size} has no rows for the last "
            f"{size - vocab_size}; give vocab_size={size} or more, or use the model's own tokenizer"
        )


def component_types(component: dict | None, inner: str) -> set[str]:
    """The types of a component of a tokenizer.json and of its nested components, listed under `inner`."""
    if not component:
        return set()
    return {component["type"]}.union(*(component_types(nested, inner) for nested in component.get(inner, ())))


def token_bytes(tokenizer: Tokenizer, content: dict, vocab_size: int) -> list[bytes]:
    """The bytes of text of each id; none for special tokens. `content` is that of tokenizer.json."""
    model, types = content["model"], component_types(content.get("decoder"), "decoders")
    types |= component_types(content.get("pre_tokenizer"), "pretokenizers")
    alphabet = byte_alphabet() if "ByteLevel" in types else {}
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""

    def bytes_of(token: str) -> bytes:
        if model.get("byte_fallback") and BYTE_PIECE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        if alphabet and alphabet.keys() >= set(token):
            return bytes(alphabet[character] for character in token)
        text = token.removeprefix(prefix)
        text = text.removesuffix(suffix) + " " if suffix and text.endswith(suffix) else text
        return text.replace(vocabularies.SPACE_MARK, " ").encode()

    texts = [b""] * vocab_size
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        texts[index] = bytes_of(token)
    for index, added in tokenizer.get_added_tokens_decoder().items():
        texts[index] = b"" if added.special else added.content.encode()
    return texts


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """{character: byte} of byte-level tokens (GPT-2): itself for printable Latin-1, the others follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
