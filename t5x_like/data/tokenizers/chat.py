"""Chats as text and as ids: a vocabulary's chat template, rendered as transformers renders it, and what of it is learnt.

A vocabulary without a template has chats as plain lines; its end of sequence ends the assistant's turns:

    System:            User:            Assistant:
    TEXT               TEXT             TEXT</s>User: ...
    (an empty line)    (an empty line)
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence

from t5x_like.data.tokenizers.vocabularies import end_id
from t5x_like.types import Vocabulary


def render_chat(vocabulary: Vocabulary, messages: Sequence[Mapping], add_generation_prompt: bool = True) -> str:
    """The text of a chat, special tokens written out; its ids are `vocabulary.encode(text)`, with nothing before them.

    `messages` are {"role": "system" | "user" | "assistant", "content": text}; `add_generation_prompt` ends with what
    begins the assistant's turn.

    Raises:
      ValueError: the vocabulary has no chat template, a message is none, or the template refuses the messages.
    """
    if vocabulary.chat_template is None:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no chat_template; it is the tokenizer of a model that was not "
            "trained on chats: give plain prompts, or put a chat_template.jinja beside its tokenizer.json"
        )
    check(messages)
    return rendered(vocabulary, messages, add_generation_prompt, ("", ""))


def rendered(vocabulary: Vocabulary, messages: Sequence[Mapping], add_generation_prompt: bool, marks) -> str:
    """A chat by the vocabulary's template, with `marks` around what stands in {% generation %}."""
    import jinja2

    texts = {f"{kind}_token": token_of(vocabulary, kind) for kind in ("bos", "eos", "unk", "pad", "mask")}
    try:
        return compiled(vocabulary.chat_template, marks).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{name: text for name, text in texts.items() if text is not None},
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template cannot render these {len(messages)} messages: {error}") from error


def check(messages: Sequence[Mapping]) -> None:
    """Refuses what is no list of messages."""
    if not messages:
        raise ValueError('messages=[] is empty; give at least {"role": "user", "content": TEXT}')
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f'messages[{number}]={message!r} is no message; need {{"role": ROLE, "content": TEXT}}')


def token_of(vocabulary: Vocabulary, kind: str) -> str | None:
    """The text of a special token."""
    index = getattr(vocabulary, kind)
    return None if index is None else vocabulary.token(index)


@functools.lru_cache(maxsize=16)
def compiled(template: str, marks: tuple[str, str]):
    """A chat template, compiled once."""
    return environment(marks).from_string(template)


def environment(marks: tuple[str, str]):
    """Jinja as transformers sets it up: a sandbox, blocks that leave no lines behind, and its four additions."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}, the assistant's words: printed between the marks."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

        def shown(self, caller) -> str:
            return caller().join(marks)

    def raise_exception(message: str):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        # Jinja's own escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return made


def conversation_ids(vocabulary: Vocabulary, messages: Sequence[Mapping]) -> tuple[list[int], list[int]]:
    """(ids, mask) of a chat, as long as each other: the mask is 1 on the assistant's words and what ends its turns, else 0.

    The ids are those of the whole text; a token that reaches over the border of a turn counts to the assistant's.

    Raises:
      ValueError: no message of the assistant, or a template that does not say where its words are: one without
        {% generation %} must render the beginning of a chat as the chat begins.
    """
    check(messages)
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError(f"the assistant says nothing in these {len(messages)} messages, so there is nothing to learn")
    if vocabulary.chat_template is None:
        return plain_ids(vocabulary, messages)
    text = render_chat(vocabulary, messages, add_generation_prompt=False)
    ids = vocabulary.encode(text)
    mask = [0] * len(ids)
    for begin, end in marked(vocabulary, messages, text) or grown(vocabulary, messages, text):
        first, last = tokens_within(vocabulary, ids, text[:begin])[0], tokens_within(vocabulary, ids, text[:end])[1]
        # What comes behind the token that ends the turn (a new line) is never generated.
        ends = [i for i in range(first, last) if ids[i] in vocabulary.stop_ids]
        if ends:
            last = ends[-1] + 1
        elif last < len(ids) and ids[last] in vocabulary.stop_ids:
            last += 1
        mask[first:last] = [1] * (last - first)
    return ids, mask


def tokens_within(vocabulary: Vocabulary, ids: list[int], beginning: str) -> tuple[int, int]:
    """How many of a text's tokens its beginning fills; with the one that reaches beyond it, where there is one."""
    alone = vocabulary.encode(beginning)
    pairs = zip(ids, alone, strict=False)
    whole = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(ids), len(alone)))
    return whole, whole + (whole < len(alone))


MARKS = ("\ufdd0", "\ufdd1")  # noncharacters: in no text
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def marked(vocabulary: Vocabulary, messages: Sequence[Mapping], text: str) -> list[tuple[int, int]]:
    """(begin, end) in `text` of what the template marks by {% generation %}; none where it has no such marks."""
    if not GENERATION.search(vocabulary.chat_template):
        return []
    begin, end = MARKS
    parts = rendered(vocabulary, messages, False, MARKS).split(begin)
    spans, place = [], len(parts[0])
    for part in parts[1:]:
        inside, _, after = part.partition(end)
        spans.append((place, place + len(inside)))
        place += len(inside) + len(after)
    turns = sum(message["role"] == "assistant" for message in messages)
    if len(spans) != turns or place != len(text):
        raise ValueError(
            f"the chat template marks {len(spans)} turns by {{% generation %}}, the assistant has {turns} in these "
            f"{len(messages)} messages; put the marks around the assistant's words alone"
        )
    return spans


def grown(vocabulary: Vocabulary, messages: Sequence[Mapping], text: str) -> list[tuple[int, int]]:
    """(begin, end) in `text` of the assistant's turns: from the prompt for each to the chat that ends with it."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if number == 0:
            raise ValueError(
                "messages[0] is the assistant's, before anything was said; begin with the user's or system's"
            )
        prompt = render_chat(vocabulary, messages[:number])
        turn = render_chat(vocabulary, messages[: number + 1], add_generation_prompt=False)
        if not (text.startswith(turn) and turn.startswith(prompt)):
            raise ValueError(
                f"the chat template renders the first {number + 1} of {len(messages)} messages otherwise than alone, so where "
                f"the words of messages[{number}] are is not known; put {{% generation %}} and {{% endgeneration %}} around the "
                "assistant's words in the template, or give chats with one turn of the assistant"
            )
        spans.append((len(prompt), len(turn)))
    return spans


def plain_ids(vocabulary: Vocabulary, messages: Sequence[Mapping]) -> tuple[list[int], list[int]]:
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
