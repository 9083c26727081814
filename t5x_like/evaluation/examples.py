"""Questions for a model: the examples of a token cache, tokenized as training rows are, with their other fields."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.cache.streaming_steps import keeps_eos, noise_of
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows.chat import MASK
from t5x_like.data.tokenizers import vocabularies
from t5x_like.types import Vocabulary

Parts = tuple[list[int], int, list[int]]  # ids of the context, ids before the first answer, ids of the answer


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A text whose log-likelihood is computed: the target, or one of the choices. `correct` marks the target."""

    text: str
    ids: tuple[int, ...]
    correct: bool


@dataclasses.dataclass(frozen=True)
class Question:
    """An example of a cache: what the model reads, and the expected answer.

    Attributes:
      number: index of the document in the cache.
      context: token ids that the model reads; a decoder's begin like its training rows.
      prefix: number of leading context ids that a prefix LM reads bidirectionally.
      truncated: number of ids dropped from the context.
      target: text of the expected answer.
      continuations: texts to score.
      fields: the example's other fields.
    """

    number: int
    context: tuple[int, ...]
    prefix: int
    truncated: int
    target: str
    continuations: tuple[Continuation, ...]
    fields: Mapping[str, Any]


def read_questions(
    cache: TokenCache, seq2seq: bool, examples: int | None = None, inputs_length: int | None = None
) -> list[Question]:
    """Reads the first `examples` documents of a cache (None: all).

    Contexts are truncated to `inputs_length` ids as training rows are: an encoder's at the end, a decoder's at the start.

    Raises:
      ValueError: the features of the task do not fit the model, or a conversation has no answer.
    """
    for name, value in (("examples", examples), ("inputs_length", inputs_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give 1 or more, or None for all")
    if "targets" not in cache.features or (seq2seq and "inputs" not in cache.features):
        needed = "inputs and targets, because the model has an encoder" if seq2seq else "targets"
        raise ValueError(
            f"task {cache.task!r} has the features {cache.features}; evaluation needs {needed}; use another task"
        )
    if noise := noise_of(cache):
        raise ValueError(f"task {cache.task!r} has noise ({noise['rows']}) and no questions; evaluate another task")
    split = split_conversation if MASK in cache.features else split_pair
    documents = enumerate(itertools.islice(cache.examples(), examples))
    return [
        make_question(cache, number, fields, seq2seq, inputs_length, split(cache, number))
        for number, fields in documents
    ]


def make_question(
    cache: TokenCache,
    number: int,
    fields: Mapping[str, Any],
    seq2seq: bool,
    inputs_length: int | None,
    parts: Parts,
) -> Question:
    """Builds the question of a document from its parts."""
    context, before, answer = parts
    vocabulary = cache.vocabulary
    truncated = 0 if inputs_length is None else max(0, len(context) - inputs_length)
    if seq2seq:
        context, before = context[: len(context) - truncated], 0
        if truncated and keeps_eos(cache, "inputs"):
            context = [*context[:-1], vocabularies.end_id(vocabulary)]
    else:
        start = [] if is_rendered(cache) else [vocabularies.start_id(vocabulary)]
        context, before = [*start, *context[truncated:]], len(start) + max(0, before - truncated)
    text = fields.get("targets_pretokenized")
    target = vocabulary.decode(answer) if text is None else str(text)
    continuations = make_continuations(vocabulary, fields.get("choices"), target, answer)
    return Question(number, tuple(context), before, truncated, target, continuations, fields)


def make_continuations(
    vocabulary: Vocabulary, choices: Sequence[str] | None, target: str, answer: list[int]
) -> tuple[Continuation, ...]:
    """The choices of an example, ending as the target does; without choices, the target."""
    if choices is None:
        return (Continuation(target, tuple(answer), True),)
    end = [i for i in answer[-1:] if i in vocabulary.stop_ids]
    return tuple(
        Continuation(choice, (*vocabulary.encode(choice, literal=True), *end), choice.strip() == target.strip())
        for choice in choices
    )


def split_pair(cache: TokenCache, number: int) -> Parts:
    """The parts of a document with inputs and targets, or with targets alone."""
    context = token_ids(cache, "inputs", number) if "inputs" in cache.features else []
    return context, len(context), token_ids(cache, "targets", number)


def split_conversation(cache: TokenCache, number: int) -> Parts:
    """The parts of a conversation, whose last answer is the target.

    Raises:
      ValueError: a conversation without an answer.
    """
    ids, mask = token_ids(cache, "targets", number), np.array(token_ids(cache, MASK, number))
    mask[: is_rendered(cache)] = 0  # the first token is only read
    answered = np.flatnonzero(mask)
    if not len(answered):
        raise ValueError(
            f"document {number} of task {cache.task!r} has no answer ({MASK} is 0 everywhere); remove such documents"
        )
    end = int(answered[-1]) + 1
    begin = end - int(np.argmin(mask[:end][::-1])) if not mask[:end].all() else 0
    return ids[:begin], int(answered[0]), ids[begin:end]


def is_rendered(cache: TokenCache) -> bool:
    """Whether documents are conversations rendered by a chat template, which writes their first token."""
    return MASK in cache.features and cache.vocabulary.chat_template is not None


def token_ids(cache: TokenCache, feature: str, number: int) -> list[int]:
    """The ids of one feature of a document."""
    begin, end = cache.offsets(feature)[number : number + 2]
    return cache.tokens(feature)[begin:end].tolist()
