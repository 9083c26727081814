"""Chats as text and as ids: renders a vocabulary's chat template as transformers does, and marks the assistant's tokens.

Without a template, a chat is formatted as plain lines, and the end of sequence ends the assistant's turns:

    System:            User:            Assistant:
    TEXT               TEXT             TEXT</s>User: ...
    (an empty line)    (an empty line)
"""

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.types import Vocabulary

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

Message = Mapping[str, Any]  # {"role": "system" | "user" | "assistant", "content": text}
MARKS = ("\ufdd0", "\ufdd1")  # Unicode noncharacters, which occur in no text
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def render_chat(vocabulary: Vocabulary, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """The text of a chat, special tokens included; its ids are `vocabulary.encode(text)`, without a further bos.

    With `add_generation_prompt` the text ends with the beginning of the assistant's turn.

    Raises:
      ValueError: the vocabulary has no chat template, a message is invalid, or the template rejects the messages.
    """
    if vocabulary.chat_template is None:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no chat_template, so its model was not trained on chats; use plain "
            "prompts, or put a chat_template.jinja next to its tokenizer.json"
        )
    check_messages(messages)
    return render_template(vocabulary, messages, add_generation_prompt, ("", ""))


def render_template(
    vocabulary: Vocabulary, messages: Sequence[Message], add_generation_prompt: bool, marks: tuple[str, str]
) -> str:
    """Renders a chat with the vocabulary's template, with `marks` around the content of {% generation %} blocks.

    Raises:
      ValueError: the template rejects the messages.
    """
    import jinja2

    texts = {f"{kind}_token": special_token(vocabulary, kind) for kind in ("bos", "eos", "unk", "pad", "mask")}
    try:
        return compile_template(vocabulary.chat_template or "", marks).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{name: text for name, text in texts.items() if text is not None},
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template cannot render these {len(messages)} messages: {error}") from error


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


def special_token(vocabulary: Vocabulary, kind: str) -> str | None:
    """The text of a special token, or None if there is none."""
    index = getattr(vocabulary, kind)
    return None if index is None else vocabulary.token(index)


@functools.lru_cache(maxsize=16)
def compile_template(template: str, marks: tuple[str, str]) -> "Template":
    """Compiles a chat template; the result is cached."""
    return make_environment(marks).from_string(template)


def make_environment(marks: tuple[str, str]) -> "Environment":
    """Jinja configured as in transformers: sandboxed, whitespace around blocks trimmed, and four extensions."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Prints the content of {% generation %} ... {% endgeneration %}, the assistant's text, between the marks."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("render"), [], [], body).set_lineno(line)

        def render(self, caller: Callable[[], str]) -> str:
            return caller().join(marks)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment


def conversation_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """(ids, mask) of a chat, of equal length: the mask is 1 on the assistant's tokens and on the ends of its turns, else 0.

    The ids are those of the whole text; a token that crosses the border of a turn belongs to the assistant.

    Raises:
      ValueError: no message is the assistant's, or its turns cannot be located: a template without {% generation %} must
        render the first messages of a chat as a prefix of the whole.
    """
    check_messages(messages)
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError(f"none of these {len(messages)} messages is the assistant's, so there are no targets; add one")
    if vocabulary.chat_template is None:
        return untemplated_ids(vocabulary, messages)
    text = render_chat(vocabulary, messages, add_generation_prompt=False)
    ids = vocabulary.encode(text)
    mask = [0] * len(ids)
    for begin, end in marked_spans(vocabulary, messages, text) or prefix_spans(vocabulary, messages, text):
        first, last = count_tokens(vocabulary, ids, text[:begin])[0], count_tokens(vocabulary, ids, text[:end])[1]
        # Text after the token that ends the turn (a newline) is never generated.
        ends = [i for i in range(first, last) if ids[i] in vocabulary.stop_ids]
        if ends:
            last = ends[-1] + 1
        elif last < len(ids) and ids[last] in vocabulary.stop_ids:
            last += 1
        mask[first:last] = [1] * (last - first)
    return ids, mask


def count_tokens(vocabulary: Vocabulary, ids: list[int], prefix: str) -> tuple[int, int]:
    """How many of a text's tokens lie inside its prefix, and that number including a token that crosses its end."""
    alone = vocabulary.encode(prefix)
    pairs = zip(ids, alone, strict=False)
    inside = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(ids), len(alone)))
    return inside, inside + (inside < len(alone))


def marked_spans(vocabulary: Vocabulary, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
    """(begin, end) in `text` of the template's {% generation %} blocks; none if it has no such blocks.

    Raises:
      ValueError: the blocks are not the assistant's turns.
    """
    if not GENERATION.search(vocabulary.chat_template or ""):
        return []
    begin, end = MARKS
    parts = render_template(vocabulary, messages, False, MARKS).split(begin)
    spans, position = [], len(parts[0])
    for part in parts[1:]:
        inside, _, after = part.partition(end)
        spans.append((position, position + len(inside)))
        position += len(inside) + len(after)
    turns = sum(message["role"] == "assistant" for message in messages)
    if len(spans) != turns or position != len(text):
        raise ValueError(
            f"the chat template marks {len(spans)} turns by {{% generation %}}, the assistant has {turns} in these "
            f"{len(messages)} messages; mark exactly the assistant's text"
        )
    return spans


def prefix_spans(vocabulary: Vocabulary, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
    """(begin, end) in `text` of the assistant's turns, found by rendering the messages before and up to each of them.

    Raises:
      ValueError: the first message is the assistant's, or the rendered messages are not prefixes of `text`.
    """
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if number == 0:
            raise ValueError("messages[0] is the assistant's; begin with a message of the user or system")
        prompt = render_chat(vocabulary, messages[:number])
        turn = render_chat(vocabulary, messages[: number + 1], add_generation_prompt=False)
        if not (text.startswith(turn) and turn.startswith(prompt)):
            raise ValueError(
                f"the chat template renders the first {number + 1} of {len(messages)} messages differently on their own, so "
                f"the text of messages[{number}] cannot be located; put {{% generation %}} and {{% endgeneration %}} around the "
                "assistant's text in the template, or use chats with one turn of the assistant"
            )
        spans.append((len(prompt), len(turn)))
    return spans


def untemplated_ids(vocabulary: Vocabulary, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """`conversation_ids` of a vocabulary without a template."""
    ids: list[int] = []
    mask: list[int] = []
    prompt = ""
    for message in messages:
        prompt += f"{message['role'].capitalize()}:\n"
        if message["role"] != "assistant":
            prompt += f"{message['content']}\n\n"
            continue
        before, turn = vocabulary.encode(prompt), [*vocabulary.encode(message["content"]), end_id(vocabulary)]
        ids, mask, prompt = [*ids, *before, *turn], [*mask, *[0] * len(before), *[1] * len(turn)], ""
    after = vocabulary.encode(prompt)
    return ids + after, mask + [0] * len(after)
