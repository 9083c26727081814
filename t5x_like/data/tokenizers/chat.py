"""Chats as text and as ids: renders a vocabulary's chat template as transformers does, and marks the assistant's tokens.

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

from t5x_like.data.tokenizers import rendering
from t5x_like.data.tokenizers.literal import find_names, replace_texts, texts_of
from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.types import Vocabulary

Message = Mapping[str, Any]  # {"role": "system" | "user" | "assistant" | "tool", "content": text, "tool_calls": calls}
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


def conversation_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> Masked:
    """(ids, mask) of a whole chat: the mask is 1 on the assistant's tokens and on the ends of its turns, else 0.

    The ids are those of the whole text; a token that crosses the border of a turn belongs to the assistant.

    Raises:
      ValueError: no message is the assistant's, or the template does not show its content.
    """
    turns = assistant_turns(messages)
    if vocabulary.chat_template is None:
        return untemplated_ids(vocabulary, messages)
    return masked_ids(Chat.quote(vocabulary, messages), len(messages), turns)


def conversation_examples(vocabulary: Vocabulary, messages: Sequence[Message]) -> list[Masked]:
    """The chat as training examples (ids, mask): each assistant turn is learned once, after the text it is generated from.

    Most templates render the first messages of a chat as a prefix of the whole, and there is one example,
    `conversation_ids`. Others leave the thoughts of earlier turns out; then the chat is several examples, each with the
    messages up to a turn as the template renders them at inference.

    Raises:
      ValueError: no message is the assistant's, or the template does not render a turn after its own generation prompt.
    """
    turns = assistant_turns(messages)
    if vocabulary.chat_template is None:
        return [untemplated_ids(vocabulary, messages)]
    chat = Chat.quote(vocabulary, messages)
    texts = {turn: chat.render(turn + 1) for turn in turns}
    if not chat.has_marks:
        check_prompts(chat, texts)
    whole, examples = chat.render(len(messages)), []
    count = len(messages) if whole.startswith(texts[turns[-1]]) else turns[-1] + 1
    while turns:
        text = texts[turns[-1]]
        together = [turn for turn in turns if text.startswith(texts[turn])]
        examples.append(masked_ids(chat, count, together))
        turns = [turn for turn in turns if turn not in together]
        count = turns[-1] + 1 if turns else 0
    return examples[::-1]


def assistant_turns(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's messages.

    Raises:
      ValueError: a message is invalid, or none is the assistant's.
    """
    check_messages(messages)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise ValueError(f"none of these {len(messages)} messages is the assistant's, so there are no targets; add one")
    return turns


def check_prompts(chat: "Chat", texts: Mapping[int, str]) -> None:
    """Checks that the texts up to the assistant's turns, by turn, begin with the prompts that they are generated from.

    Raises:
      ValueError: one does not.
    """
    for turn, text in texts.items():
        if not text.startswith(chat.render_prompt(turn)):
            raise ValueError(
                f"the chat template renders messages[{turn}] otherwise than after its own generation prompt, so what is trained "
                "would not be what the model generates; put {% generation %} and {% endgeneration %} around the assistant's "
                "text in the template"
            )


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


def masked_ids(chat: Chat, count: int, turns: Sequence[int]) -> Masked:
    """(ids, mask) of the first `count` messages, with the mask on `turns`."""
    text = chat.render(count)
    ids = chat.encode(text)
    mask = [0] * len(ids)
    marked = marked_spans(chat, count, text)
    stop_ids = chat.vocabulary.stop_ids
    for turn in turns:
        begin, end = marked[turn] if marked else find_span(chat, count, text, turn)
        first, last = count_tokens(chat, ids, text[:begin])[0], count_tokens(chat, ids, text[:end])[1]
        # Text after the token that ends the turn (a newline) is never generated.
        ends = [i for i in range(first, last) if ids[i] in stop_ids]
        if ends:
            last = ends[-1] + 1
        elif last < len(ids) and ids[last] in stop_ids:
            last += 1
        mask[first:last] = [1] * (last - first)
    return ids, mask


def count_tokens(chat: Chat, ids: list[int], prefix: str) -> tuple[int, int]:
    """How many of a text's tokens lie inside its prefix, and that number including a token that crosses its end."""
    alone = chat.encode(prefix)
    inside = count_equal(ids, alone)
    return inside, inside + (inside < len(alone))


def count_equal(ours: Sequence, theirs: Sequence) -> int:
    """The length of the longest common prefix."""
    different = (i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    return next(different, min(len(ours), len(theirs)))


def marked_spans(chat: Chat, count: int, text: str) -> dict[int, tuple[int, int]]:
    """(begin, end) in `text` of the template's {% generation %} blocks, by turn; {} if it has no such blocks.

    Raises:
      ValueError: the blocks are not the assistant's turns.
    """
    if not chat.has_marks:
        return {}
    begin, end = chat.marks[1:3]
    parts = chat.render(count, marks=(begin, end)).split(begin)
    spans, position = [], len(parts[0])
    for part in parts[1:]:
        inside, _, after = part.partition(end)
        spans.append((position, position + len(inside)))
        position += len(inside) + len(after)
    turns = assistant_turns(chat.plain[:count])
    if len(spans) != len(turns) or position != len(text):
        raise ValueError(
            f"the chat template marks {len(spans)} turns by {{% generation %}}, the assistant has {len(turns)} in these "
            f"{count} messages; mark exactly the assistant's text"
        )
    return dict(zip(turns, spans, strict=True))


def find_span(chat: Chat, count: int, text: str, turn: int) -> tuple[int, int]:
    """(begin, end) of messages[turn] in the text of the first `count` messages.

    It lies between the texts of the messages before it and up to it, where these are prefixes of `text`. Where the template
    renders earlier turns otherwise, it is what changes if the content of the message is replaced.

    Raises:
      ValueError: the template does not show the content.
    """
    prompt, so_far = chat.render_prompt(turn), chat.render(turn + 1)
    if text.startswith(so_far) and so_far.startswith(prompt):
        begin, end = len(prompt), len(so_far)
    else:
        other = [*chat.messages[:count]]
        other[turn] = {**other[turn], "content": chat.marks[3]}
        changed = chat.render_messages(other, chat.tools, False)
        begin = count_equal(text, changed)
        end = len(text) - count_equal(text[begin:][::-1], changed[begin:][::-1])
        begin = min(len(prompt), end) if text.startswith(prompt) else begin
    if begin == end:
        raise ValueError(
            f"the chat template does not show messages[{turn}] of {count}, so it cannot be learned; remove the message, or put "
            "{% generation %} and {% endgeneration %} around the assistant's text in the template"
        )
    return begin, end


def untemplated_prompt_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> list[int]:
    """`prompt_ids` for a vocabulary without a template: how `conversation_ids` begins if the next turn is the assistant's.

    Raises:
      ValueError: a message is invalid.
    """
    check_messages(messages)
    return untemplated_ids(vocabulary, [*messages, {"role": "assistant", "content": ""}])[0][:-1]


def untemplated_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> Masked:
    """`conversation_ids` of a vocabulary without a template."""
    ids: list[int] = []
    mask: list[int] = []
    prompt = ""
    for message in messages:
        prompt += f"{message['role'].capitalize()}:\n"
        if message["role"] != "assistant":
            prompt += f"{message['content']}\n\n"
            continue
        turn = [*vocabulary.encode(message["content"], literal=True), end_id(vocabulary)]
        before = vocabulary.encode(prompt, literal=True)
        ids, mask, prompt = [*ids, *before, *turn], [*mask, *[0] * len(before), *[1] * len(turn)], ""
    after = vocabulary.encode(prompt, literal=True)
    return ids + after, mask + [0] * len(after)
