"""The SentencePiece file of a pretrained model (T5's spiece.model, LLaMA's tokenizer.model) as a vocabulary.

Ids are those of the `sentencepiece` library. Special tokens in a text that is not literal are handled as in transformers:
each becomes its id, and the texts before and after it are encoded separately.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.data.tokenizers import model_proto, vocabularies
from t5x_like.data.tokenizers.huggingface import TEMPLATE, check_size
from t5x_like.types import PathLike

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MODEL = "vocabulary.model"


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """A serialized SentencePiece model with the special ids of the language model it belongs to.

    `added` lists (text, id) of tokens that are recognised in a text; those in `words` also in literal text, as the tokens that
    transformers calls added, but not special. Sentinels <extra_id_i> also absorb the spaces around them. Ids may be above
    those of the pieces. With `legacy`, the text after a special token begins with a space too, as
    in LLaMA's first tokenizers. `add_eos` only affects `encode_special`.

    Raises:
      ValueError: the bytes are not a model, there are more than `vocab_size` ids, or a special id is out of range.
    """

    model: bytes = dataclasses.field(repr=False)
    vocab_size: int
    pad: int | None = None
    eos: int | None = None
    unk: int | None = None
    bos: int | None = None
    mask: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    stop_ids: tuple[int, ...] = ()
    extra_ids: int = 0
    added: tuple[tuple[str, int], ...] = dataclasses.field(default=(), repr=False)
    words: tuple[str, ...] = ()
    legacy: bool = True
    chat_template: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if self.eos is not None and self.eos not in self.stop_ids:
            object.__setattr__(self, "stop_ids", (self.eos, *self.stop_ids))
        check_size(max([self.processor.vocab_size() - 1, *(i for _, i in self.added)]) + 1, self.vocab_size)
        for name in ("pad", "eos", "unk", "bos", "mask"):
            index = getattr(self, name)
            if index is not None and not 0 <= index < self.vocab_size:
                raise ValueError(
                    f"{name}={index} is not one of the vocab_size={self.vocab_size} ids; correct one of them"
                )

    @functools.cached_property
    def processor(self) -> SentencePieceProcessor:
        """The library's processor."""
        return self.load(self.model)

    @functools.cached_property
    def literal_processor(self) -> SentencePieceProcessor:
        """The library's processor of text without control tokens, which Gemma's models find in text, too."""
        hidden = {index for text, index in self.added if text not in self.words}.union(self.special_ids, self.stop_ids)
        return self.load(model_proto.hide_pieces(self.model, hidden - {self.processor.unk_id()}))

    def load(self, model: bytes) -> SentencePieceProcessor:
        """The library's processor of a serialized model.

        Raises:
          ValueError: the bytes are not a model.
        """
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # the library raises RuntimeError or its own
            raise ValueError(
                f"these {len(self.model)} bytes are not a SentencePiece model ({error}); Llama 3's tokenizer.model is not "
                "one either: use its tokenizer.json"
            ) from error

    @property
    def first_sentinel(self) -> int:
        """The id of <extra_id_0>."""
        return self.added_ids.get("<extra_id_0>", self.vocab_size - 1)

    @functools.cached_property
    def added_ids(self) -> dict[str, int]:
        """{text: id} of the added tokens."""
        return dict(self.added)

    @functools.cached_property
    def added_texts(self) -> dict[int, str]:
        """{id: text} of the added tokens."""
        return {index: text for text, index in self.added}

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that decode to nothing."""
        named = {i for i in (self.pad, self.eos, self.unk, self.bos, self.mask) if i is not None}
        return frozenset(named | vocabularies.textless_pieces(self.processor))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the ids."""
        ids = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "chat_template")
        }
        digest = hashlib.sha256(self.model + json.dumps(ids, sort_keys=True).encode()).hexdigest()
        return f"sentencepiece_model/{digest[:16]}"

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of text of each id."""
        unused = {i for i in range(self.processor.vocab_size()) if self.processor.is_unused(i)}
        return vocabularies.piece_bytes(self.processor, self.vocab_size, self.special_ids | unused)

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """UTF-8 bytes of text of each id, int32 [V]."""
        return vocabularies.sizes(self.token_bytes)

    @functools.cached_property
    def control_ids(self) -> dict[str, int]:
        """{text: id} of the added tokens that `encode` reads from a text unless it is literal."""
        return {text: index for text, index in self.added if text not in self.words}

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches an added token; a sentinel together with the spaces around it."""
        sentinels = [text for text in self.added_ids if text.startswith("<extra_id_")]
        return vocabularies.names_pattern(self.added_ids, absorbing=sentinels)

    @functools.cached_property
    def words_pattern(self) -> re.Pattern[str]:
        """Matches an added token that is not special."""
        return vocabularies.names_pattern(self.words)

    def encode(self, text: str, literal: bool = False, mark: str = "") -> list[int]:
        """The library's ids of the text alone; see `types.Vocabulary.encode`."""
        pattern = self.words_pattern if literal else self.pattern
        processor = self.literal_processor if literal or mark else self.processor

        def encode_part(part: str, first: bool) -> list[int]:
            return self.encode_part(processor, part.replace(mark, "") if mark else part, first)

        return vocabularies.encode_around(pattern, self.added_ids, text, encode_part)

    def encode_part(self, processor: SentencePieceProcessor, text: str, first: bool) -> list[int]:
        """The ids of text without added tokens; the model's leading space is omitted after a token unless `legacy`."""
        if not text:
            return []
        if first or self.legacy:
            return processor.encode(text)
        # The library always puts a space before the first character, so we encode a dummy first and cut it off.
        unk = processor.id_to_piece(processor.unk_id())
        return processor.encode(unk + text)[len(processor.encode(unk)) :]

    def encode_special(self, text: str) -> list[int]:
        """`encode` with the bos and eos that the model expects."""
        ids = self.encode(text)
        # If bos is padding, as in T5, it only starts decoders.
        if self.add_bos and self.bos is not None and self.bos != self.pad:
            ids = [self.bos, *ids]
        return [*ids, self.eos] if self.add_eos and self.eos is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first stop id; special tokens, sentinels and unused ids are left out."""
        pieces = self.processor.vocab_size()
        before_stop = vocabularies.take_until_stop(ids, self.stop_ids)
        return self.processor.decode([i for i in before_stop if 0 <= i < pieces and i not in self.special_ids])

    def token(self, index: int) -> str:
        """The piece or added token of an id; empty if it is unused."""
        if index in self.added_texts:
            return self.added_texts[index]
        return self.processor.id_to_piece(index) if index < self.processor.vocab_size() else ""

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        model, template = content.pop("model"), content.pop("chat_template")
        vocabularies.write_json(folder, {"kind": "sentencepiece_model"} | content)
        (Path(folder) / MODEL).write_bytes(model)
        if template is not None:
            (Path(folder) / TEMPLATE).write_bytes(template.encode())

    @classmethod
    def from_saved(cls, folder: Path, content: dict) -> SentencePieceModel:
        """Reads what `save` wrote; `content` is that of vocabulary.json."""
        content["added"] = tuple((text, index) for text, index in content["added"])
        content |= {name: tuple(content.get(name, ())) for name in ("stop_ids", "words")}
        template = folder / TEMPLATE
        return cls(
            (folder / MODEL).read_bytes(),
            **content,
            chat_template=template.read_bytes().decode() if template.exists() else None,
        )
