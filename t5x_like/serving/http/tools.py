"""Calls of tools in the text of a model: how its chat template writes them, and reading them from text that arrives in pieces.

A call is a JSON object with a name and arguments, between texts that depend on the template: Hermes and Qwen write
<tool_call>{"name": "f", "arguments": {...}}</tool_call>, Mistral [TOOL_CALLS][{...}, {...}], Llama 3 the object alone.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from t5x_like.data.chats import chat
from t5x_like.decoding.grammars import Grammar
from t5x_like.serving.text import overlap
from t5x_like.types import Vocabulary

PROBE, ARGUMENTS = "probe_function", {"probe_argument": "probe_value"}
HEADER = re.compile(r'[\s,\[]*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
BETWEEN = re.compile(r"[\s,\]]*")
BEFORE = re.compile(r"[\s,\[]*")


@dataclasses.dataclass(frozen=True)
class CallFormat:
    """How a chat template writes a call.

    Attributes:
      beginning: the text between the beginning of the assistant's turn and the object of its first call.
      key: the name of the arguments, "arguments" or "parameters".
      marker: the last word of `beginning` as it is decoded, without control tokens; "" if the object stands alone.
      end: the first word after the object, likewise.
    """

    beginning: str
    key: str
    marker: str
    end: str

    @classmethod
    def find(cls, vocabulary: Vocabulary) -> "CallFormat":
        """The format of a vocabulary's chat template, found by rendering a call.

        Raises:
          ValueError: there is no template, or it shows no tools, or writes calls in another way than as JSON objects.
        """
        turn = render_call(vocabulary)
        for match in re.finditer(r"\{", turn):
            beginning = turn[: match.start()]
            try:
                value, end = json.JSONDecoder().raw_decode(turn, match.start())
            except ValueError:
                continue
            keys = [key for key, part in value.items() if part == ARGUMENTS]
            if value.get("name") == PROBE and keys and "{" not in beginning:
                before, after = (vocabulary.decode(vocabulary.encode(part)) for part in (beginning, turn[end:]))
                words = before.rstrip("[, \n\t").split()
                return cls(beginning, keys[0], *(words[-1:] or [""]), *(after.split()[:1] or [""]))
        raise ValueError(
            "the chat template of this model does not write calls of tools as JSON objects with a name and arguments, so they "
            "cannot be read; leave tools out"
        )

    def schema(self, functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The JSON Schema of a call of one of some functions."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": one["name"]}, self.key: one.get("parameters") or {"type": "object"}},
                "required": ["name", self.key],
                "additionalProperties": False,
            }
            for one in functions
        ]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    def grammar(self, functions: Sequence[Mapping[str, Any]], most: int | None) -> Grammar:
        """Text that may have calls; the arguments of strict functions obey their schemas, those of others are any object.

        Raises:
          ValueError: calls stand alone, so that text and calls cannot be told apart; or a schema has an error.
        """
        if not self.marker:
            raise ValueError(
                "the chat template of this model writes calls without a marker in the text, so strict functions need "
                "tool_choice='required' or a named function"
            )
        schemas = [one if one.get("strict") else {"name": one["name"]} for one in functions]
        marker, end = (re.escape(word).replace("/", r"\/") for word in (self.marker, self.end))
        again = f"(/\\s*{end}\\s*{marker}\\s*/ call)*" if most is None else ""
        return Grammar.lark(
            f"start: FREE | before SPACE call {again} END?\n"
            f"before[suffix={json.dumps(self.marker)}]: /(.|\\n)*/\n"
            f"call: %json {json.dumps(self.schema(schemas))}\n"
            f"FREE: /(.|\\n)*/ & ~/(.|\\n)*{marker}(.|\\n)*/\n"
            f"SPACE: /\\s*/\n"
            f"END: /\\s*{end}\\s*/\n"
        )


def render_call(vocabulary: Vocabulary) -> str:
    """A turn of the assistant that is a call, as the chat template writes it after its generation prompt.

    Raises:
      ValueError: there is no template, or it does not show tools.
    """
    call = {"id": "call00000", "type": "function", "function": {"name": PROBE, "arguments": ARGUMENTS}}
    tool = {"type": "function", "function": {"name": PROBE, "description": PROBE, "parameters": {"type": "object"}}}
    messages: list[chat.Message] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    prompt = chat.render_chat(vocabulary, messages[:1], True, [tool])
    if PROBE not in prompt:
        raise ValueError("the chat template of this model does not show tools, so it cannot call them; leave them out")
    text = chat.render_chat(vocabulary, messages, False, [tool])
    return text[chat.count_equal(prompt, text) :]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a turn: text, or the name of call number `call`, or more of its arguments."""

    text: str = ""
    call: int | None = None
    name: str | None = None


class CallReader:
    """Splits the text of a turn into text and calls, as it arrives. What is no call of a known function is text.

    With `forced` the text begins with the object of a call. Calls after the first `most` are left out.
    """

    def __init__(
        self, call_format: CallFormat, names: Collection[str], forced: bool = False, most: int | None = None
    ) -> None:
        self.format, self.names, self.most = call_format, names, most
        self.state = self.read_call if forced else self.read_text
        self.buffer = ""
        self.opening = ""  # what was read of a call that may be none
        self.calls = 0
        self.depth, self.quoted, self.escaped = 0, False, False

    def feed(self, text: str, final: bool = False) -> list[Piece]:
        """The pieces that are known after some more text; with `final` it is the last."""
        self.buffer += text
        pieces: list[Piece] = []
        while self.buffer:
            before = self.buffer, self.state
            pieces += self.state(final)
            if before == (self.buffer, self.state):
                break
        if final and self.opening:
            pieces += self.no_call(0)
        return pieces

    def take(self, size: int) -> str:
        """Removes the first characters of the buffer."""
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def read_text(self, final: bool) -> Iterator[Piece]:
        """Text until the marker of a call. A call without a marker is at the beginning of the turn."""
        marker = self.format.marker
        if not marker:
            begin = self.buffer.lstrip()
            if begin:
                self.state = self.read_call if begin[0] in "{[" else self.read_rest
            elif final:
                self.state = self.read_rest
            return
        found = self.buffer.find(marker)
        if found >= 0:
            text = self.take(found).rstrip()
            self.opening, self.state = self.take(len(marker)), self.read_call
        elif final:
            text = self.take(len(self.buffer))
        else:
            kept = self.buffer[: len(self.buffer) - overlap(self.buffer, marker)]
            text = self.take(len(kept.rstrip()))
        if text:
            yield Piece(text)

    def read_rest(self, final: bool) -> Iterator[Piece]:
        """Text in which no call is looked for."""
        yield Piece(self.take(len(self.buffer)))

    def read_call(self, final: bool) -> Iterator[Piece]:
        """The object of a call up to its arguments."""
        header = HEADER.match(self.buffer)
        if header and header[1] in self.names:
            self.take(header.end())
            yield Piece(call=self.calls, name=header[1])
            self.depth, self.opening, self.state = 0, "", self.read_arguments
            return
        start = BEFORE.match(self.buffer).end()  # type: ignore[union-attr]  # it matches the empty text
        if start == len(self.buffer):
            if final:
                yield from self.no_call(start)
            return
        if self.buffer[start] != "{":
            yield from self.no_call(start)
            return
        try:
            value, end = json.JSONDecoder().raw_decode(self.buffer, start)
        except ValueError:
            if final:
                yield from self.no_call(len(self.buffer))
            return
        arguments = self.arguments(value)
        if arguments is None:
            yield from self.no_call(end)
            return
        self.take(end)
        self.opening = ""
        yield Piece(call=self.calls, name=value["name"])
        yield Piece(json.dumps(arguments, ensure_ascii=False), call=self.calls)
        self.end_call()

    def arguments(self, value: Any) -> Any:
        """The arguments of an object that is a call of a known function; else None."""
        if not isinstance(value, dict) or value.get("name") not in self.names:
            return None
        found = [value[key] for key in ("arguments", "parameters") if isinstance(value.get(key), dict)]
        return found[0] if found else None

    def no_call(self, size: int) -> Iterator[Piece]:
        """Gives what was read of a call, and `size` characters more, as text."""
        yield Piece(self.opening + self.take(size))
        self.opening, self.state = "", self.read_text if self.format.marker else self.read_rest

    def read_arguments(self, final: bool) -> Iterator[Piece]:
        """The arguments, as they are written."""
        end = self.find_end(0)
        yield Piece(self.take(len(self.buffer) if end is None else end), call=self.calls)
        if end is not None:
            self.depth, self.state = 1, self.skip_object

    def skip_object(self, final: bool) -> Iterator[Piece]:
        """What follows the arguments in the object."""
        end = self.find_end(0)
        self.take(len(self.buffer) if end is None else end)
        if end is not None:
            self.end_call()
        yield from ()

    def find_end(self, start: int) -> int | None:
        """Where the depth of braces returns to 0 in the buffer, which begins at the last known depth; None if it does not."""
        for index in range(start, len(self.buffer)):
            character = self.buffer[index]
            if self.quoted:
                self.quoted = self.escaped or character != '"'
                self.escaped = not self.escaped and character == "\\"
            elif character == '"':
                self.quoted = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    return index + 1
        return None

    def end_call(self) -> None:
        """Goes on behind a call."""
        self.calls += 1
        self.state = self.drop if self.calls == self.most else self.read_between

    def drop(self, final: bool) -> Iterator[Piece]:
        """Text that is left out."""
        self.take(len(self.buffer))
        yield from ()

    def read_between(self, final: bool) -> Iterator[Piece]:
        """The end of a call and the beginning of the next one."""
        self.take(BETWEEN.match(self.buffer).end())  # type: ignore[union-attr]  # it matches the empty text
        end, marker = self.format.end, self.format.marker
        if end and self.buffer.startswith(end):
            self.take(len(end))
        elif marker and self.buffer.startswith(marker):
            self.opening, self.state = self.take(len(marker)), self.read_call
        elif self.buffer.startswith("{"):
            self.state = self.read_call
        elif final or not any(word.startswith(self.buffer) for word in (end, marker)):
            self.state = self.read_text if marker else self.read_rest
        yield from ()
