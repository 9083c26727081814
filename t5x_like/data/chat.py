"""Chats as text: a vocabulary's chat template, rendered as transformers renders it."""

import datetime
import json
from collections.abc import Mapping, Sequence

from t5x_like.data.vocabularies import Vocabulary


def render_chat(vocabulary: Vocabulary, messages: Sequence[Mapping], add_generation_prompt: bool = True) -> str:
    """The text of a chat, special tokens written out; its ids are `vocabulary.encode(text)`, with nothing before them.

    `messages` are {"role": "system" | "user" | "assistant", "content": text}; `add_generation_prompt` ends with what
    begins the assistant's turn.

    Raises:
      ValueError: the vocabulary has no chat template, a message is none, or the template refuses the messages.
    """
    import jinja2

    if vocabulary.chat_template is None:
        raise ValueError(
            f"the vocabulary {vocabulary.fingerprint} has no chat_template; it is the tokenizer of a model that was not "
            "trained on chats: give plain prompts, or put a chat_template.jinja beside its tokenizer.json"
        )
    check(messages)
    texts = {f"{kind}_token": token_of(vocabulary, kind) for kind in ("bos", "eos", "unk", "pad", "mask")}
    try:
        return (
            environment()
            .from_string(vocabulary.chat_template)
            .render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{name: text for name, text in texts.items() if text is not None},
            )
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


def environment():
    """Jinja as transformers sets it up: a sandbox, blocks that leave no lines behind, and its four additions."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}, which marks the assistant's words for training, and prints them."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

        def shown(self, caller) -> str:
            return caller()

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
