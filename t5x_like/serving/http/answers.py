"""Answers in the format of OpenAI's API: choices of completions and chats, whole or in chunks, and their log-probabilities."""

import codecs
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from t5x_like.serving.http.prompts import Calls
from t5x_like.serving.http.tools import CallReader
from t5x_like.serving.requests import Delta, Token
from t5x_like.types import Vocabulary

Object = dict[str, Any]


class Choice(Protocol):
    """One completion of an answer."""

    def first(self) -> Sequence[Object]:
        """The choices of the chunks that begin a stream."""
        ...

    def chunks(self, delta: Delta) -> Iterator[Object]:
        """The choices of the chunks of a stream that say what a piece adds."""
        ...

    def whole(self, delta: Delta) -> Object:
        """The choice of an answer that is not streamed, of all its pieces as one."""
        ...


class Answer:
    """What all chunks and the whole of an answer say of it. `kind` is "text_completion" or "chat.completion"."""

    def __init__(self, kind: str, model: str) -> None:
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        self.kind, self.model = kind, model
        self.id, self.created = f"{prefix}-{secrets.token_hex(12)}", int(time.time())

    def whole(self, choices: Sequence[Object], usage: Object) -> Object:
        """The whole answer."""
        return {**self.head(self.kind), "choices": choices, "usage": usage}

    def chunk(self, choices: Sequence[Object]) -> Object:
        """A chunk of a stream."""
        return {**self.head(self.kind if self.kind == "text_completion" else f"{self.kind}.chunk"), "choices": choices}

    def head(self, kind: str) -> Object:
        """The fields that all have."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class CompletionChoice:
    """A choice of /v1/completions.

    `top` alternatives of every token are listed; None: no log-probabilities. `echo` is the prompt: its text, and its tokens if
    their log-probabilities are listed; the first has none (NaN).
    """

    def __init__(
        self, index: int, vocabulary: Vocabulary, top: int | None, echo: tuple[str, Sequence[Token]] = ("", ())
    ) -> None:
        self.index, self.vocabulary, self.top = index, vocabulary, top
        self.echo: tuple[str, Sequence[Token]] = echo
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.offset = 0

    def first(self) -> Sequence[Object]:
        """None."""
        return ()

    def chunks(self, delta: Delta) -> Iterator[Object]:
        """The choice of the one chunk of a piece."""
        yield self.whole(delta)

    def whole(self, delta: Delta) -> Object:
        """The choice of a piece."""
        (text, tokens), self.echo = self.echo, ("", ())
        listed = self.log_probs([*tokens, *delta.tokens]) if self.top is not None else None
        return {
            "index": self.index,
            "text": text + delta.text,
            "logprobs": listed,
            "finish_reason": delta.finish_reason,
        }

    def log_probs(self, tokens: Sequence[Token]) -> Object:
        """Tokens, their log-probabilities and alternatives, and where each begins in the text."""
        names, values, tops, offsets = [], [], [], []
        for token in tokens:
            name, characters = token_text(self.vocabulary, token.id)
            first = token.log_prob != token.log_prob
            alternatives: dict[str, float] = {}
            for index, value in [] if first else [*token.top, (token.id, token.log_prob)]:
                alternatives.setdefault(token_text(self.vocabulary, index)[0], value)
            names.append(name)
            values.append(None if first else token.log_prob)
            tops.append(None if first else alternatives)
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(bytes(characters or ())))
        return {"tokens": names, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


class ChatChoice:
    """A choice of /v1/chat/completions. `log_probs` tells whether log-probabilities are listed, `calls` the calls it may have."""

    def __init__(self, index: int, vocabulary: Vocabulary, log_probs: bool, calls: Calls | None) -> None:
        self.index, self.vocabulary, self.log_probs = index, vocabulary, log_probs
        self.reader = CallReader(calls.format, calls.names, calls.forced, calls.most) if calls else None
        self.waiting: list[Token] = []

    def first(self) -> Sequence[Object]:
        """The choice of the chunk with the role."""
        return [self.chunk({"role": "assistant", "content": ""})]

    def chunks(self, delta: Delta) -> Iterator[Object]:
        """The choices of the chunks of a piece; none while its text may become a call."""
        self.waiting += delta.tokens
        parts = list(self.parts(delta))
        if delta.finish_reason and not parts:
            parts = [{}]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            chunk = self.chunk(part, self.finish_reason(delta) if last else None)
            if last and self.log_probs:
                chunk["logprobs"], self.waiting = self.listed(self.waiting), []
            yield chunk

    def chunk(self, part: Object, finish_reason: str | None = None) -> Object:
        """The choice of a chunk."""
        return {"index": self.index, "delta": part, "logprobs": None, "finish_reason": finish_reason}

    def parts(self, delta: Delta) -> Iterator[Object]:
        """What a piece adds to the message."""
        if self.reader is None:
            if delta.text:
                yield {"content": delta.text}
            return
        for piece in self.reader.feed(delta.text, final=delta.finish_reason is not None):
            if piece.call is None:
                yield {"content": piece.text}
            elif piece.name is not None:
                function = {"name": piece.name, "arguments": ""}
                yield {"tool_calls": [{"index": piece.call, "id": call_id(), "type": "function", "function": function}]}
            elif piece.text:
                yield {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}

    def whole(self, delta: Delta) -> Object:
        """The choice of a whole completion."""
        content: list[str] = []
        calls: list[Object] = []
        for part in self.parts(delta):
            content.append(part.get("content", ""))
            for call in part.get("tool_calls", ()):
                if "id" in call:
                    calls.append({name: call[name] for name in ("id", "type", "function")})
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        text = "".join(content)
        message: Object = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        listed = self.listed(delta.tokens) if self.log_probs else None
        return {
            "index": self.index,
            "message": message,
            "logprobs": listed,
            "finish_reason": self.finish_reason(delta),
        }

    def finish_reason(self, delta: Delta) -> str | None:
        """Why the turn ended; None if it has not."""
        called = self.reader is not None and self.reader.calls > 0
        return "tool_calls" if called and delta.finish_reason == "stop" else delta.finish_reason

    def listed(self, tokens: Sequence[Token]) -> Object:
        """Tokens with their log-probabilities and alternatives."""

        def entry(index: int, value: float) -> Object:
            name, characters = token_text(self.vocabulary, index)
            return {"token": name, "logprob": max(value, -9999.0), "bytes": characters}  # JSON has no infinity

        content = [
            entry(token.id, token.log_prob) | {"top_logprobs": [entry(index, value) for index, value in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def call_id() -> str:
    """A new name of a call: nine letters and digits, because templates of Mistral refuse others."""
    return secrets.token_hex(5)[:9]


def token_text(vocabulary: Vocabulary, index: int) -> tuple[str, list[int] | None]:
    """The text of a token and its bytes; bytes that are no text are written out, a control token has a name and no bytes."""
    characters = vocabulary.token_bytes[index] if index < len(vocabulary.token_bytes) else b""
    if not characters:
        return (vocabulary.token(index) if index < vocabulary.vocab_size else "") or f"<{index}>", None
    try:
        return characters.decode(), list(characters)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in characters), list(characters)
