"""Literal text: the names of control tokens in it are encoded as any other text.

The libraries can ignore special tokens in a text (`encode_special_tokens`), but a Unigram model that has "</s>" among its
pieces finds it there nevertheless. Here the control tokens get secret names instead, by which a trusted text can still
write them. `model_proto.hide_pieces` does the same for SentencePiece models. In a text that is trusted in parts, marks break the
names in the other parts (`Names.put_marks`), and `encode` removes the marks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.data.tokenizers.vocabularies import names_pattern

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class LiteralTokenizer:
    """A tokenizer whose control tokens have other `names`, {name in the tokenizer.json: name here}; its ids are the same."""

    tokenizer: Tokenizer
    names: Mapping[str, str]

    @classmethod
    def build(cls, text: str, control_ids: Mapping[str, int]) -> LiteralTokenizer:
        """Renames the control tokens {text: id} of a tokenizer.json."""
        from tokenizers import Tokenizer

        # Nobody can write a name that is drawn anew in every process.
        secret = secrets.token_hex(16)
        new_names = {index: f"<{secret}{index}>" for index in control_ids.values()}
        tokenizer = Tokenizer.from_str(json.dumps(rename(json.loads(text), new_names)))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, {name: new_names[index] for name, index in control_ids.items()})


def rename(content: dict, new_names: Mapping[int, str]) -> dict:
    """The content of a tokenizer.json with new names of some ids, {id: name}, and without its post-processor."""
    model = content["model"]
    added = [
        token | {"content": new_names.get(token["id"], token["content"])} for token in content.get("added_tokens") or ()
    ]
    if isinstance(model["vocab"], list):  # Unigram: ids are places in the list
        pieces = [[new_names.get(index, piece), score] for index, (piece, score) in enumerate(model["vocab"])]
        return content | {"post_processor": None, "added_tokens": added, "model": model | {"vocab": pieces}}
    table = {new_names.get(index, token): index for token, index in model["vocab"].items()}
    renamed = {token: new_names[index] for token, index in model["vocab"].items() if index in new_names}
    changed = {"vocab": table, "unk_token": renamed.get(model.get("unk_token"), model.get("unk_token"))}
    if "merges" in model:
        changed["merges"] = [merge for merge in model["merges"] if renamed.keys().isdisjoint(merge_tokens(merge))]
    return content | {"post_processor": None, "added_tokens": added, "model": model | changed}


def merge_tokens(merge: str | list[str]) -> tuple[str, str, str]:
    """The two tokens of a merge, and the token that it makes."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(texts_of, itertools.chain(value, value.values())))
    elif isinstance(value, Sequence):
        yield from itertools.chain.from_iterable(map(texts_of, value))


def replace_texts(value: Any, replace: Callable[[str], str]) -> Any:
    """A JSON value with every text replaced, as dictionaries and lists."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, Mapping):
        return {replace_texts(key, replace): replace_texts(part, replace) for key, part in value.items()}
    return [replace_texts(part, replace) for part in value] if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True)
class Names:
    """Finds names of control tokens: `start` matches the first character of one, `beginnings` are those of all names."""

    start: re.Pattern[str]
    beginnings: frozenset[str]
    longest: int

    def put_marks(self, mark: str, text: str) -> str:
        """The text with a mark after the first character of every name, and of the beginning of a name at its end."""
        marked = self.start.sub(lambda match: match.group() + mark, text)
        # A template may append another text, which completes the name.
        stripped = marked.rstrip()
        for begin in range(max(0, len(stripped) - self.longest), len(stripped)):
            if stripped[begin:] in self.beginnings:
                return marked[: begin + 1] + mark + marked[begin + 1 :]
        return marked


@functools.lru_cache(maxsize=16)
def find_names(names: tuple[str, ...]) -> Names:
    """The finder of some names; the result is cached."""
    start = re.compile(f"(?={names_pattern(names).pattern}).", re.DOTALL)
    beginnings = frozenset(name[:size] for name in names for size in range(1, len(name)))
    return Names(start, beginnings, max(map(len, names), default=0))
