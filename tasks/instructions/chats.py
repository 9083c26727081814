"""Files of chats as a seqio task: records are messages or pairs, rendered by the chat template, with the loss on the answers."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio

from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped, attempt
from t5x_like.data.chats import masks
from t5x_like.data.chats.chat import Masked
from t5x_like.prompting.conversations import ChatError, Layout
from t5x_like.tasks.instructions import instruction
from t5x_like.tasks.sources.files import FileSource

KEY, CHAT = "key", "chat"


class ChatSource(FileSource):
    """Files, each a shard, whose records are chats.

    An example has `key`, JSON of the messages before the first answer, and `chat`, JSON of [[ids, mask], ...], one for each
    training example (see `masks.conversation_examples`). A record that is no chat, or cannot be rendered, is dropped.

    Args:
      split_to_patterns: see `FileSource`; so are `columns`, `max_bytes`, `strict` and `split_filter`.
      layout: where a record has its chat.
      vocabulary: has the chat template; None as template renders plain lines.

    Attributes:
      reason: what was wrong with the last dropped chat.
    """

    def __init__(
        self,
        split_to_patterns: Mapping[str, str | Path | Sequence[str | Path]],
        layout: Layout,
        vocabulary: instruction.ChatVocabulary,
        columns: Sequence[str] = (),
        max_bytes: int = reading.MAX_BYTES,
        strict: bool = False,
        split_filter: Callable[[str, Mapping], bool] | None = None,
    ):
        super().__init__(split_to_patterns, None, columns, False, max_bytes, strict, split_filter)
        self.layout, self.vocabulary, self.reason = layout, vocabulary, ""

    def inputs(self) -> dict[str, list]:
        """Returns what a token cache depends on; see `RecordSource.inputs`."""
        inputs = super().inputs()
        return inputs | {"options": [*inputs["options"], repr(self.layout), repr(self.vocabulary)]}

    def records(self, split: str, shard: str) -> Iterator[Mapping[str, Any] | Dropped]:
        """Yields the chats of one file, as JSON."""
        for record in super().records(split, shard):
            found = record if isinstance(record, Dropped) else self.read(record)
            if isinstance(found, Dropped):
                self.reason = f"{shard}: {found.detail}"
            yield found

    def read(self, record: Mapping[str, Any]) -> dict[str, str] | Dropped:
        """The chat of a record."""
        try:
            messages, tools = self.layout.read(record)
        except ChatError as error:
            return Dropped(error.rule, f"{record['id']}: {error}")
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        chat = {"messages": messages, "tools": tools, "id": record["id"]}
        return {KEY: json.dumps(messages[: answers[0]]), CHAT: json.dumps(chat)}

    def complete(self, example: dict) -> dict | Dropped:
        """The example with its training examples in place of the messages."""
        chat = json.loads(example[CHAT])
        encode = functools.partial(masks.conversation_examples, self.vocabulary.plain)
        pairs = attempt("chat.template", encode, chat["messages"], chat["tools"])
        if isinstance(pairs, Dropped):
            dropped = Dropped(pairs.rule, f"{chat['id']}: {pairs.detail}")
            self.reason = dropped.detail
            return dropped
        return example | {CHAT: json.dumps(pairs).encode()}


def add(name: str, source: ChatSource, vocabulary: seqio.Vocabulary) -> None:
    """Registers a task with the features targets and targets_mask, over the chats of a source."""
    step = functools.partial(instruction.expand_examples, read_examples)
    instruction.register(name, source, [step], instruction.make_chat_features(vocabulary), (), None)


def read_examples(example: Mapping[str, str]) -> list[Masked]:
    """The training examples in the field `chat`."""
    return [(ids, mask) for ids, mask in json.loads(example[CHAT])]
