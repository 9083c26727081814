"""Chats as text and as ids: renders a vocabulary's chat template as transformers does.

Only the template writes control tokens. The name of one in a message ("<|im_end|>") is text: it is broken by a mark, a character
that is not in the messages, before the template is rendered, and `encode` removes the marks.

Without a template, a chat is formatted as plain lines, and the end of sequence ends the assistant's turns:

    System:            User:            Assistant:
    TEXT               TEXT             TEXT</s>User: ...
    (an empty line)    (an empty line)
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_like.data.chats import rendering
from t5x_like.data.tokenizers.literal import find_names, replace_texts, texts_of
from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.types import Vocabulary

# {"role": "system" | "user" | "assistant" | "tool", "content": text, "tool_calls": calls, "weight": 0 for an answer not to learn}
Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None  # {"type": "function", "function": {"name", "description", "parameters"}}
Masked = tuple[list[int], list[int]]  # ids, and a mask of equal length that is 1 where the loss is
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode reserves them for a program's own use
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def render_chat(
    vocabulary: Vocabulary, messages: Sequence[Message], add_generation_prompt: bool = True, tools: Tools = None
) -> str:
    """The text of a chat, names of control tokens included.

    With `add_generation_prompt` the text ends with the beginning of the assistant's turn. `tools` are those that the assistant
    may call, as JSON Schema. `prompt_ids` gives the ids of the text; those of `vocabulary.encode(text)` are the same unless a
    message or tool contains the name of a control token.

    Raises:
      ValueError: the vocabulary has no chat template, a message is invalid, or the template rejects the messages.
    """
    chat = Chat.quote(vocabulary, messages, tools)
    return chat.render(len(messages), add_generation_prompt).replace(chat.mark, "")


def prompt_ids(
    vocabulary: Vocabulary, messages: Sequence[Message], tools: Tools = None, beginning: str = ""
) -> list[int]:
    """The ids that a model reads before it writes the next turn, without a further bos.

    `beginning` is the trusted text that this turn begins with.

    Raises:
      ValueError: as `render_chat`.
    """
    chat = Chat.quote(vocabulary, messages, tools)
    return chat.encode(chat.render(len(messages), True) + beginning)


def check_template(vocabulary: Vocabulary) -> None:
    """Checks that a vocabulary has a chat template.

    Raises:
      ValueError: it has none.
    """
    if vocabulary.chat_template is None:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no chat_template, so its model was not trained on chats; use "
            "plain prompts, or put a chat_template.jinja next to its tokenizer.json"
        )


def check_messages(messages: Sequence[Message]) -> None:
    """Checks that `messages` is a non-empty list of messages.

    Raises:
      ValueError: it is not; the message names the element.
    """
    if not messages:
        raise ValueError('messages=[] is empty; give at least {"role": "user", "content": TEXT}')
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f'messages[{number}]={message!r} is not a message; need {{"role": ROLE, "content": TEXT}}')


@dataclasses.dataclass(frozen=True)
class Chat:
    """The messages and tools of a chat with `mark` in the names of control tokens, and what renders them.

    `marks` are characters that are not in them. `plain` and `plain_tools` have no marks. `rendered` keeps texts.
    """

    vocabulary: Vocabulary
    messages: Sequence[Message]
    plain: Sequence[Message]
    marks: tuple[str, ...]
    tools: Tools = None
    plain_tools: Tools = None
    rendered: dict[tuple, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def quote(cls, vocabulary: Vocabulary, messages: Sequence[Message], tools: Tools = None) -> "Chat":
        """Puts marks into the messages and tools.

        Raises:
          ValueError: the vocabulary has no chat template, or a message is invalid.
        """
        check_template(vocabulary)
        check_messages(messages)
        used = set(itertools.chain.from_iterable(texts_of([messages, tools])))
        marks = tuple(character for character in NONCHARACTERS if character not in used)[:4]
        if len(marks) < 4:
            raise ValueError(
                f"the {len(messages)} messages contain Unicode's noncharacters U+FDD0 to U+FDEF; remove them"
            )
        names = find_names(tuple(vocabulary.control_ids))
        put_marks = functools.partial(names.put_marks, marks[0])
        quoted, quoted_tools = replace_texts(messages, put_marks), replace_texts(tools, put_marks)
        return cls(vocabulary, quoted, list(messages), marks, quoted_tools, tools)

    @property
    def mark(self) -> str:
        """The mark inside of names."""
        return self.marks[0]

    @property
    def has_marks(self) -> bool:
        """Whether the template marks the assistant's text by {% generation %}."""
        return GENERATION.search(self.vocabulary.chat_template or "") is not None

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text, or of a part of it."""
        return self.vocabulary.encode(text, mark=self.mark)

    def render(self, count: int, add_generation_prompt: bool = False, marks: tuple[str, str] = ("", "")) -> str:
        """The text of the first `count` messages, names of control tokens in messages marked.

        Raises:
          ValueError: the template rejects the messages, or treats names of control tokens in them as its own.
        """
        key = count, add_generation_prompt, marks
        if key in self.rendered:
            return self.rendered[key]
        text = self.render_messages(self.messages[:count], self.tools, add_generation_prompt, marks)
        if (self.messages, self.tools) != (self.plain, self.plain_tools):
            plain = self.render_messages(self.plain[:count], self.plain_tools, add_generation_prompt, marks)
            if text.replace(self.mark, "") != plain:
                raise ValueError(
                    "the chat template looks for names of control tokens in the messages, which are text there; remove them "
                    f"from these {count} messages ({', '.join(sorted(self.names_in_messages()))})"
                )
        return self.rendered.setdefault(key, text)

    def render_prompt(self, turn: int) -> str:
        """The text that messages[turn] is generated from.

        Raises:
          ValueError: it is the first message.
        """
        if turn == 0:
            raise ValueError("messages[0] is the assistant's; begin with a message of the user or system")
        return self.render(turn, add_generation_prompt=True)

    def render_messages(
        self, messages: Sequence[Message], tools: Tools, add_generation_prompt: bool, marks: tuple[str, str] = ("", "")
    ) -> str:
        """The text of some messages and tools."""
        tokens = {
            f"{kind}_token": special_token(self.vocabulary, kind) for kind in ("bos", "eos", "unk", "pad", "mask")
        }
        variables = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **{name: text for name, text in tokens.items() if text is not None},
        }
        try:
            return rendering.render(self.vocabulary.chat_template or "", marks, variables)
        except ValueError as error:
            raise ValueError(f"the chat template cannot render these {len(messages)} messages: {error}") from error

    def names_in_messages(self) -> set[str]:
        """The names of control tokens in the messages and tools."""
        texts = list(texts_of([self.plain, self.plain_tools]))
        return {name for name in self.vocabulary.control_ids if any(name in text for text in texts)}


def special_token(vocabulary: Vocabulary, kind: str) -> str | None:
    """The text of a special token, or None if there is none."""
    index = getattr(vocabulary, kind)
    return None if index is None else vocabulary.token(index)


def count_equal(ours: Sequence, theirs: Sequence) -> int:
    """The length of the longest common prefix."""
    different = (i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    return next(different, min(len(ours), len(theirs)))


def untemplated_prompt_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> list[int]:
    """`prompt_ids` for a vocabulary without a template: how `masks.conversation_ids` begins if the next turn is the assistant's.

    Raises:
      ValueError: a message is invalid.
    """
    check_messages(messages)
    return untemplated_ids(vocabulary, [*messages, {"role": "assistant", "content": ""}])[0][:-1]


def untemplated_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> Masked:
    """`masks.conversation_ids` of a vocabulary without a template."""
    ids: list[int] = []
    mask: list[int] = []
    prompt = ""
    for message in messages:
        learned = int(message.get("weight") != 0)
        prompt += f"{message['role'].capitalize()}:\n"
        if message["role"] != "assistant":
            prompt += f"{message['content']}\n\n"
            continue
        turn = [*vocabulary.encode(message["content"], literal=True), end_id(vocabulary)]
        before = vocabulary.encode(prompt, literal=True)
        ids, mask, prompt = [*ids, *before, *turn], [*mask, *[0] * len(before), *[learned] * len(turn)], ""
    after = vocabulary.encode(prompt, literal=True)
    return ids + after, mask + [0] * len(after)
