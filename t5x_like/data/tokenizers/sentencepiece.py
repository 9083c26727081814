"""The SentencePiece file of a pretrained model (T5's spiece.model, LLaMA's tokenizer.model) as a vocabulary.

Ids are those of the `sentencepiece` library, text and special tokens being told apart as transformers does: a special
token written in the text is its id, and the text on both sides of it is encoded for itself.
"""

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from t5x_like.data.tokenizers import vocabularies
from t5x_like.data.tokenizers.huggingface import TEMPLATE, check_size

MODEL = "vocabulary.model"


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model, given as its serialised bytes, with the special ids of the model it belongs to.

    `added` are (text, id) of tokens that are recognised in a text, sentinels <extra_id_i> among them, which take the
    spaces around them; those with ids above the pieces may be longer than the model knows. `legacy` begins the text
    behind a special token with a space too, as LLaMA's first tokenizers did. `add_eos` is for `encode_special` alone.

    Raises:
      ValueError: bytes that are no model, more ids than `vocab_size`, or a special id outside of it.
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
    def processor(self):
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except Exception as error:  # the library raises RuntimeError or its own
            raise ValueError(
                f"these {len(self.model)} bytes are no SentencePiece model ({error}); Llama 3's tokenizer.model is none "
                "either: give its tokenizer.json"
            ) from error

    @property
    def first_sentinel(self) -> int:
        return self.added_ids.get("<extra_id_0>", self.vocab_size - 1)

    @functools.cached_property
    def added_ids(self) -> dict[str, int]:
        return dict(self.added)

    @functools.cached_property
    def added_texts(self) -> dict[int, str]:
        return {index: text for text, index in self.added}

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that decode to nothing."""
        return frozenset({i for i in (self.pad, self.eos, self.unk, self.bos, self.mask) if i is not None}).union(
            i
            for i in range(self.processor.vocab_size())
            if self.processor.is_control(i) or self.processor.is_unknown(i)
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        ids = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "chat_template")
        }
        digest = hashlib.sha256(self.model + json.dumps(ids, sort_keys=True).encode()).hexdigest()
        return f"sentencepiece_model/{digest[:16]}"

    @functools.cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        sizes = np.zeros(self.vocab_size, np.int32)
        for i in range(self.processor.vocab_size()):
            if self.processor.is_byte(i):
                sizes[i] = 1
            elif i not in self.special_ids and not self.processor.is_unused(i):
                sizes[i] = len(self.processor.id_to_piece(i).replace(vocabularies.SPACE_MARK, " ").encode())
        return sizes

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Finds an added token; a sentinel with the spaces around it."""
        longest_first = sorted(self.added_ids, key=len, reverse=True)
        names = [re.escape(text) for text in longest_first]
        return re.compile("|".join(rf"\s*{n}\s*" if n.startswith("<extra_id_") else n for n in names) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """The library's ids, none added; special tokens that are written in the text are recognised."""
        ids, begin = [], 0
        for found in self.pattern.finditer(text):
            ids += self.encode_part(text[begin : found.start()], begin == 0)
            ids.append(self.added_ids[found.group().strip() if found.group() not in self.added_ids else found.group()])
            begin = found.end()
        return ids + self.encode_part(text[begin:], begin == 0)

    def encode_part(self, text: str, first: bool) -> list[int]:
        """Ids of text without added tokens; without the space that a model puts first where it is not to."""
        if not text:
            return []
        if first or self.legacy:
            return self.processor.encode(text)
        # The library puts its space before the first character, whatever that is: let it be one that is cut off again.
        unk = self.processor.id_to_piece(self.processor.unk_id())
        return self.processor.encode(unk + text)[len(self.processor.encode(unk)) :]

    def encode_special(self, text: str) -> list[int]:
        """`encode` with bos and eos where the model wants them."""
        begins = self.add_bos and self.bos != self.pad  # padding that T5's decoders begin with is no token of a text
        return [self.bos] * begins + self.encode(text) + [self.eos] * self.add_eos

    def decode(self, ids) -> str:
        """The text before the first stop id; special tokens, sentinels and unused ids are left out."""
        pieces = self.processor.vocab_size()
        kept = vocabularies.until(ids, self.stop_ids)
        return self.processor.decode([i for i in kept if 0 <= i < pieces and i not in self.special_ids])

    def token(self, index: int) -> str:
        if index in self.added_texts:
            return self.added_texts[index]
        return self.processor.id_to_piece(index) if index < self.processor.vocab_size() else ""

    def save(self, folder) -> None:
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        model, template = content.pop("model"), content.pop("chat_template")
        vocabularies.write_json(folder, {"kind": "sentencepiece_model"} | content)
        (Path(folder) / MODEL).write_bytes(model)
        if template is not None:
            (Path(folder) / TEMPLATE).write_bytes(template.encode())

    @classmethod
    def restored(cls, folder: Path, content: dict) -> "SentencePieceModel":
        """What `save` wrote."""
        content["added"] = tuple((text, index) for text, index in content["added"])
        content["stop_ids"] = tuple(content["stop_ids"])
        template = folder / TEMPLATE
        return cls(
            (folder / MODEL).read_bytes(),
            **content,
            chat_template=template.read_bytes().decode() if template.exists() else None,
        )
