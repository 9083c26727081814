"""Grammars: which tokens may come next so that a text matches a JSON schema, a regular expression or a context-free grammar.

`Grammar` is what a text must match, `TokenTable` a vocabulary as the library llguidance reads it, and `Matcher` the place of one
text in a grammar. `processors.apply_mask` applies the masks of matchers to logits. The text of tokens is what
`Vocabulary.decode` returns: a space that it drops at the beginning is no part of it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, end_id
from t5x_like.types import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_SIZE = 1 << 16  # characters; the library compiles an object in time that grows with the square of its properties
# Of the library. Ambiguous grammars take time that grows with the square of the items: 40 ms for a mask at 1000.
LIMITS = {"max_items_in_row": 1000, "max_lexer_states": 50_000, "verbose_errors": False}
MOST_SHOWN = 300  # characters of the library's messages, which may repeat a whole grammar
JSON_SPACE = r"[ \n\r\t]{0,20}"  # bounded, so that a model cannot write spaces until it runs out of tokens
NO_TOKEN = "no token of the vocabulary continues it"
# Otherwise the library allows only one way to tokenize what the grammar leaves no choice about.
ROOT = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: @main'}


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What a text must match, in the library's format; the class methods make it.

    Raises:
      ValueError: the grammar has an error or is too large, or no text matches it.
    """

    source: str

    def __post_init__(self) -> None:
        if len(self.source) > MAX_SIZE:
            raise ValueError(f"the grammar has {len(self.source)} characters, more than {MAX_SIZE}; simplify it")
        Matcher(byte_table(), self)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> Grammar:
        """JSON that is valid under a JSON Schema (draft 2020-12), with the properties of an object in the schema's order.

        Keywords that the library does not implement are an error; its documentation (docs/json_schema.md) lists the others.
        """
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the JSON schema is not JSON: {error}") from error
        space = {"whitespace_pattern": JSON_SPACE} if text.startswith("{") else None
        return cls.from_library(import_library().LLMatcher.grammar_from_json_schema(text, space))

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Texts that a regular expression (Rust's syntax: neither look-around nor back references) matches as a whole."""
        return cls.from_library(import_library().LLMatcher.grammar_from_regex(pattern))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        """One of several texts."""
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"choice={texts!r:.{MOST_SHOWN}} is not a list of texts; give at least one")
        return cls.regex("|".join(map(re.escape, texts)))

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """A context-free grammar in the library's dialect of Lark (its docs/syntax.md)."""
        return cls(json.dumps({"grammars": [ROOT, {"name": "main", "lark_grammar": text}]}))

    @classmethod
    def from_library(cls, source: str) -> Grammar:
        """The grammar of one that the library made."""
        (main,) = json.loads(source)["grammars"]
        return cls(json.dumps({"grammars": [ROOT, main | {"name": "main"}]}))


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """The tokens of a vocabulary, as the library reads them; `tokenizer_of` makes it.

    Attributes:
      library: the library's tokenizer. Its ids are the vocabulary's, and above them texts that tokens have at the beginning.
      vocab_size: ids are 0 .. vocab_size - 1.
      stop_ids: ids that end a text.
      first_V: the library's id for each id at the beginning of a text; -1 if it has no text there.
      drops_all: whether `decode` drops spaces until the first other text; else it drops only the first.
    """

    library: LLTokenizer
    vocab_size: int
    stop_ids: tuple[int, ...]
    first_V: np.ndarray
    drops_all: bool

    @functools.cached_property
    def stops_V(self) -> np.ndarray:
        """Whether an id is a stop id."""
        return np.isin(np.arange(self.vocab_size), self.stop_ids)

    @functools.cached_property
    def stops_W(self) -> np.ndarray:
        """The mask of the stop ids, uint32."""
        return pack(self.stops_V)

    @functools.cached_property
    def texts_W(self) -> np.ndarray:
        """The mask of the other ids, uint32."""
        return pack(~self.stops_V)


def tokenizer_of(vocabulary: Vocabulary, vocab_size: int | None = None) -> TokenTable:
    """The tokens of a vocabulary for matchers. It decodes each token: keep the result.

    `vocab_size` is the model's, if its embedding table has more rows than the vocabulary has ids.

    Raises:
      ValueError: the vocabulary has no end of sequence, or tokens whose text depends on their neighbours.
    """
    library = import_library()
    stop_ids = tuple(dict.fromkeys((end_id(vocabulary), *vocabulary.stop_ids)))
    size = max(vocabulary.vocab_size, vocab_size or 0)
    texts = [b"" if i in stop_ids else text for i, text in enumerate(vocabulary.token_bytes)]
    texts += [b""] * (size - len(texts))
    first_V, beginnings, drops_all = find_beginnings(vocabulary, texts)
    wrapper = library.TokenizerWrapper(LibraryInput(texts + beginnings, stop_ids))
    return TokenTable(library.LLTokenizer(wrapper, eos_token=list(stop_ids)), size, stop_ids, first_V, drops_all)


class LibraryInput:
    """A tokenizer with the attributes that the library reads."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], stop_ids: Sequence[int]):
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, list(stop_ids), stop_ids[0]

    def __call__(self, text: bytes) -> list[int]:
        """The library would encode text only to force tokens, see `ROOT`."""
        return []


def find_beginnings(vocabulary: Vocabulary, texts: Sequence[bytes]) -> tuple[np.ndarray, list[bytes], bool]:
    """What tokens stand for at the beginning of a text: `TokenTable.first_V`, its texts above the ids, and `drops_all`.

    Raises:
      ValueError: the text of tokens depends on their neighbours.
    """
    first_V = np.arange(len(texts))
    ids = {text: i for i, text in enumerate(texts) if text}
    characters = [i for i, text in enumerate(texts) if text and text.decode(errors="ignore").encode() == text]
    beginnings: list[bytes] = []
    for i in characters:
        text = vocabulary.decode([i]).encode()
        if text and text not in ids:
            ids[text] = len(texts) + len(beginnings)
            beginnings.append(text)
        if text != texts[i]:
            first_V[i] = ids[text] if text else -1
    spaces = [i for i in characters if first_V[i] < 0]
    others = [i for i in characters if first_V[i] >= 0]
    decoded = vocabulary.decode([*others[:1], *characters])
    if decoded != vocabulary.decode(others[:1]) + b"".join(texts[i] for i in characters).decode():
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} does not decode tokens one by one (WordPiece puts spaces between words), "
            "so no grammar can be applied to them; use a byte-level or SentencePiece vocabulary"
        )
    cut = [i for i in others if first_V[i] != i]
    drops_all = bool(spaces and cut) and vocabulary.decode([spaces[0], cut[0]]) == vocabulary.decode([cut[0]])
    return first_V, beginnings, drops_all


class Matcher:
    """The place of one text in a grammar.

    `error` tells why a text that does not match yet cannot go on: the library reached a limit, or the vocabulary lacks a token.
    `mask` or `consume` sets it; then only stop ids are allowed.

    Raises:
      ValueError: no text of the vocabulary matches the grammar.
    """

    def __init__(self, table: TokenTable, grammar: Grammar):
        library = import_library()
        limits = library.LLParserLimits(**LIMITS)
        self.table = table
        self.state = library.LLMatcher(table.library, grammar.source, log_level=0, limits=limits)
        self.fresh = self.state.deep_copy()
        self.read: list[int | None] = []  # the library's ids; None for tokens that it does not read
        self.error: str | None = None
        if self.state.is_error():
            self.error = self.library_error
        else:
            self.mask()
        if self.error == NO_TOKEN:
            raise ValueError("no text of the vocabulary matches the grammar; change the grammar, or the vocabulary")
        if self.error:
            raise ValueError(f"the grammar cannot be used: {self.error}")

    @property
    def begins(self) -> bool:
        """Whether the next token is at the beginning of the text."""
        return not self.read or (self.table.drops_all and all(i is None for i in self.read))

    @property
    def is_finished(self) -> bool:
        """Whether the text has ended: by a stop id, because nothing but one may follow, or with an `error`."""
        return self.error is not None or self.state.is_stopped()

    def mask(self) -> np.ndarray:
        """The ids that may come next, uint32 [W]: bit b of word w is id 32 w + b. Stop ids may where the text may end."""
        table = self.table
        if self.is_finished and (self.error or self.may_end):
            return table.stops_W.copy()
        bits_W = np.frombuffer(self.state.compute_bitmask(), np.uint32)
        if self.begins:
            bits_W = pack(self.may_begin(np.unpackbits(bits_W.view(np.uint8), bitorder="little").astype(bool)))
        texts_W = bits_W[: len(table.texts_W)] & table.texts_W
        if not self.may_end and not texts_W.any():
            self.error = self.library_error or NO_TOKEN
            return table.stops_W.copy()
        return texts_W | table.stops_W if self.may_end else texts_W

    @property
    def library_error(self) -> str | None:
        """The error of the library, in which it stays."""
        message = self.state.get_error().replace("<non-verbose/>", "").strip()
        return NO_TOKEN if message.startswith("NoExtension") else f"{message:.{MOST_SHOWN}}" or None

    @property
    def may_end(self) -> bool:
        """Whether the text matches, or has ended."""
        return self.state.is_accepting() or self.state.stop_reason() == "EndOfSentence"

    def may_begin(self, allowed: np.ndarray) -> np.ndarray:
        """Whether an id may begin the text, bool [V], where the library allows the ids `allowed`."""
        table = self.table
        empty_V = table.first_V < 0
        allowed_V = allowed[table.first_V] & ~empty_V
        following_V = allowed_V if table.drops_all else allowed[: table.vocab_size]
        # One token without text may come first, if another can follow it.
        return allowed_V | empty_V if not self.read and np.any(following_V & ~table.stops_V) else allowed_V

    def consume(self, token: int) -> None:
        """Appends a token.

        Raises:
          ValueError: the token is not allowed; the matcher is unchanged.
        """
        if not self.allows(token):
            raise ValueError(f"token {token} is not allowed after {len(self.read)} tokens; sample with the mask")
        index = int(self.table.first_V[token]) if self.begins else token
        is_read = index >= 0 and self.error is None and self.state.stop_reason() != "EndOfSentence"
        if is_read and not self.state.consume_token(index):
            self.error = self.library_error
        self.read.append(index if is_read else None)

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        if not 0 <= token < self.table.vocab_size:
            return False
        if self.table.stops_V[token]:
            return self.error is not None or self.may_end
        index = int(self.table.first_V[token]) if self.begins else token
        return not self.read if index < 0 else not self.is_finished and self.state.validate_tokens([index]) == 1

    def rollback(self, count: int) -> None:
        """Removes the last `count` tokens.

        Raises:
          ValueError: there are fewer.
        """
        kept = len(self.read) - count
        if not 0 <= kept <= len(self.read):
            raise ValueError(f"cannot remove {count} of {len(self.read)} tokens")
        if self.state.is_error():  # for good
            self.state = self.fresh.deep_copy()
            self.state.consume_tokens([i for i in self.read[:kept] if i is not None])
        else:
            self.state.rollback(sum(i is not None for i in self.read[kept:]))
        del self.read[kept:]
        self.error = None

    def copy(self) -> Matcher:
        """A matcher at the same place that goes on by itself. It is much cheaper than a new one: nothing is compiled."""
        other = copy.copy(self)
        other.state, other.read = self.state.deep_copy(), list(self.read)
        return other


def fill_masks(matchers: Sequence[Matcher | None], masks_SW: np.ndarray) -> None:
    """Writes the mask of every matcher into its row of a uint32 array; all ids where there is none."""
    for row_W, matcher in zip(masks_SW, matchers, strict=True):
        row_W[:] = 0xFFFFFFFF if matcher is None else matcher.mask()


def pack(allowed_V: np.ndarray) -> np.ndarray:
    """The mask of allowed ids, bool [V] to uint32 [W]."""
    padded = np.zeros(-(-len(allowed_V) // 32) * 32, bool)
    padded[: len(allowed_V)] = allowed_V
    return np.packbits(padded, bitorder="little").view(np.uint32)


@functools.cache
def byte_table() -> TokenTable:
    """A table of all bytes, which can write any text."""
    return tokenizer_of(ByteVocabulary(extra_ids=0))


def import_library() -> ModuleType:
    """llguidance.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import llguidance
    except ImportError as error:
        raise ImportError("grammars need the library llguidance: pip install 't5x_like[grammars]'") from error
    return llguidance
