"""A Hugging Face `tokenizer.json` as a vocabulary: BPE, WordPiece and Unigram, read by the `tokenizers` library.

Every id comes from the library itself; here is only what it does not know: special ids, the size of the model's table,
sentinels, the chat template, and how many bytes of text a token stands for.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5x_like.data.tokenizers import vocabularies

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclasses.dataclass(frozen=True)
class TokenizerVocabulary:
    """A tokenizer.json, given as its text, with the special ids of its model.

    `vocab_size` is the size of the model's table, which may be larger than the tokenizer: ids above are never made and
    decode to nothing. `stop_ids` are all ids that end a text, `eos` the first; they are (eos,) where none are given.

    Raises:
      ValueError: the text is no tokenizer, has more ids than `vocab_size`, or a special id is outside of it.
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
            raise ValueError("add_bos=True, but bos=None: name the token that begins a sequence, or leave add_bos out")

    @functools.cached_property
    def tokenizer(self):
        """The library's tokenizer, without the cutting and padding that a file may ask for."""
        made = parsed(self.json)
        made.no_truncation()
        made.no_padding()
        return made

    @functools.cached_property
    def size(self) -> int:
        """One more than the tokenizer's largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def model_type(self) -> str:
        """BPE, WordPiece, Unigram or WordLevel."""
        return json.loads(self.json)["model"]["type"]

    @property
    def first_sentinel(self) -> int:
        return self.vocab_size - 1 if self.sentinel is None else self.sentinel

    @functools.cached_property
    def fingerprint(self) -> str:
        ids = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("json", "chat_template")
        }
        content = self.json + json.dumps(ids, sort_keys=True)
        return f"tokenizer/{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """What a tokenizer drops (WordPiece's spaces, a normaliser's changes) is in no token and not counted."""
        return token_bytes(self.tokenizer, json.loads(self.json), self.vocab_size)

    def encode(self, text: str) -> list[int]:
        """The library's ids, none added; special tokens that are written in the text are recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; in threads unless $TOKENIZERS_PARALLELISM is false."""
        return [one.ids for one in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_special(self, text: str) -> list[int]:
        """The library's ids with those its post-processor adds: [CLS] ... [SEP], or a bos."""
        return self.tokenizer.encode(text, add_special_tokens=True).ids

    def decode(self, ids) -> str:
        """The text before the first stop id; special tokens and ids above the tokenizer's are left out."""
        return self.tokenizer.decode([i for i in vocabularies.until(ids, self.stop_ids) if 0 <= i < self.size])

    def token(self, index: int) -> str:
        return self.tokenizer.id_to_token(index) or ""

    def save(self, folder) -> None:
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        files = {TOKENIZER: content.pop("json"), TEMPLATE: content.pop("chat_template")}
        vocabularies.write_json(folder, {"kind": "tokenizer"} | content)
        for name, text in files.items():
            if text is not None:
                (Path(folder) / name).write_bytes(text.encode())

    @classmethod
    def restored(cls, folder: Path, content: dict) -> "TokenizerVocabulary":
        """What `save` wrote."""
        template = folder / TEMPLATE
        return cls(
            (folder / TOKENIZER).read_bytes().decode(),
            **content | {"stop_ids": tuple(content["stop_ids"])},
            chat_template=template.read_bytes().decode() if template.exists() else None,
        )


def parsed(text: str):
    """The library's tokenizer of a tokenizer.json.

    Raises:
      ValueError: the library cannot read it.
    """
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"this tokenizer.json cannot be read by tokenizers {tokenizers.__version__}: {error}; "
            "fetch the file again, or update tokenizers"
        ) from error


def check_size(size: int, vocab_size: int) -> None:
    """Refuses a tokenizer that makes ids the model has no row for."""
    if size > vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocab_size={vocab_size} has no rows for the last "
            f"{size - vocab_size}; give vocab_size={size} or more, or the tokenizer that belongs to the model"
        )


def part_types(part: dict | None, inner: str) -> set[str]:
    """Types of a part of a tokenizer.json and of what it is composed of, listed under `inner`."""
    if not part:
        return set()
    return {part["type"]}.union(*(part_types(one, inner) for one in part.get(inner, ())))


def token_bytes(tokenizer, content: dict, vocab_size: int) -> np.ndarray:
    """UTF-8 bytes of text that each id stands for, int32 [vocab_size]; 0 for special tokens."""
    model, kinds = content["model"], part_types(content.get("decoder"), "decoders")
    kinds |= part_types(content.get("pre_tokenizer"), "pretokenizers")
    alphabet = byte_alphabet() if "ByteLevel" in kinds else frozenset()
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""

    def size_of(token: str) -> int:
        if model.get("byte_fallback") and BYTE_PIECE.fullmatch(token):
            return 1
        if alphabet.issuperset(token) and alphabet:
            return len(token)
        text = token.removeprefix(prefix)
        text = text.removesuffix(suffix) + " " if suffix and text.endswith(suffix) else text
        return len(text.replace(vocabularies.SPACE_MARK, " ").encode())

    sizes = np.zeros(vocab_size, np.int32)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        sizes[index] = size_of(token)
    for index, added in tokenizer.get_added_tokens_decoder().items():
        sizes[index] = 0 if added.special else len(added.content.encode())
    return sizes


@functools.cache
def byte_alphabet() -> frozenset[str]:
    """The 256 characters by which byte-level tokens spell bytes."""
    from tokenizers import pre_tokenizers

    return frozenset(pre_tokenizers.ByteLevel.alphabet())
