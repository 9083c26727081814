"""What is asked of a model: the examples of a token cache, with the ids that training's rows have, and their other fields."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows.chat import MASK
from t5x_like.data.tokenizers import vocabularies


@dataclasses.dataclass(frozen=True)
class Continuation:
    """An answer whose likelihood is wanted: the target, or one of the choices."""

    text: str
    ids: tuple[int, ...]
    right: bool


@dataclasses.dataclass(frozen=True)
class Question:
    """Document `number` of a cache: what the model reads (`context`), and what it should say.

    A decoder's context begins with what begins its rows; its first `prefix` ids are those that a prefix LM reads
    bidirectionally. `fields` are the example's other fields, `cut` is how many ids of the context were too many.
    """

    number: int
    context: tuple[int, ...]
    prefix: int
    cut: int
    target: str
    continuations: tuple[Continuation, ...]
    fields: Mapping[str, Any]


def questions(
    cache: TokenCache, seq2seq: bool, examples: int | None = None, inputs_length: int | None = None
) -> list[Question]:
    """The first `examples` documents of a cache (None: all); contexts are cut to `inputs_length` ids, as rows cut them.

    An encoder's are cut at their end; a decoder's at their beginning.

    Raises:
      ValueError: a task without metrics, or one whose features do not fit the model.
    """
    for name, value in (("examples", examples), ("inputs_length", inputs_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give 1 or more, or None for all")
    if "targets" not in cache.features or (seq2seq and "inputs" not in cache.features):
        wanted = "inputs and targets, for the model has an encoder" if seq2seq else "targets"
        raise ValueError(
            f"task {cache.task!r} has the features {cache.features}; to be evaluated it needs {wanted}; take another task"
        )
    read = conversation if MASK in cache.features else pair
    chosen = enumerate(itertools.islice(cache.examples(), examples))
    return [question(cache, number, fields, seq2seq, inputs_length, read(cache, number)) for number, fields in chosen]


def question(
    cache: TokenCache, number: int, fields: Mapping, seq2seq: bool, inputs_length: int | None, parts
) -> Question:
    """A document from its parts: (ids of the context, how many stand before the first answer, ids of the answer)."""
    context, before, answer = parts
    vocabulary = cache.vocabulary
    cut = 0 if inputs_length is None else max(0, len(context) - inputs_length)
    if seq2seq:
        context, before = context[: len(context) - cut], 0
    else:
        lead = [] if is_rendered(cache) else [vocabularies.start_id(vocabulary)]
        context, before = [*lead, *context[cut:]], len(lead) + max(0, before - cut)
    target = fields.get("targets_pretokenized")
    target = vocabulary.decode(answer) if target is None else str(target)
    said = continuations(vocabulary, fields.get("choices"), target, answer)
    return Question(number, tuple(context), before, cut, target, said, fields)


def continuations(vocabulary, choices, target: str, answer: list[int]) -> tuple[Continuation, ...]:
    """The target, or the choices where there are; a choice ends as the target does."""
    if choices is None:
        return (Continuation(target, tuple(answer), True),)
    end = [i for i in answer[-1:] if i in vocabulary.stop_ids]
    return tuple(
        Continuation(choice, (*vocabulary.encode(choice), *end), choice.strip() == target.strip()) for choice in choices
    )


def pair(cache: TokenCache, number: int) -> tuple[list[int], int, list[int]]:
    """The parts of a document with inputs and targets, or of one with targets alone."""
    context = ids_of(cache, "inputs", number) if "inputs" in cache.features else []
    return context, len(context), ids_of(cache, "targets", number)


def conversation(cache: TokenCache, number: int) -> tuple[list[int], int, list[int]]:
    """The parts of a conversation, whose last answer is asked for.

    Raises:
      ValueError: a conversation without an answer.
    """
    ids, mask = ids_of(cache, "targets", number), np.array(ids_of(cache, MASK, number))
    mask[: is_rendered(cache)] = 0  # the first token is read only
    said = np.flatnonzero(mask)
    if not len(said):
        raise ValueError(
            f"document {number} of task {cache.task!r} has no answer ({MASK} is 0 everywhere); leave such ones out"
        )
    end = int(said[-1]) + 1
    begin = end - int(np.argmin(mask[:end][::-1])) if not mask[:end].all() else 0
    return ids[:begin], int(said[0]), ids[begin:end]


def is_rendered(cache: TokenCache) -> bool:
    """Whether documents are chats written by a template, which begins them itself."""
    return MASK in cache.features and cache.vocabulary.chat_template is not None


def ids_of(cache: TokenCache, feature: str, number: int) -> list[int]:
    """The ids of a document."""
    begin, end = cache.offsets(feature)[number : number + 2]
    return cache.tokens(feature)[begin:end].tolist()
