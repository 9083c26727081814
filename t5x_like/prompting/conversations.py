"""Chats from the records of files: messages whose roles are in order, tools, and an error that names what is wrong.

A record has a list of messages, in OpenAI's form ({"role", "content"}) or ShareGPT's ({"from", "value"}), or a prompt and its
completion, which are a chat of two messages.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_like.prompting import templates

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]] | None
# The roles of messages by their names in files.
ROLES = {role: role for role in ("system", "user", "assistant", "tool")}
ROLES |= {"developer": "system", "human": "user", "gpt": "assistant", "function": "tool"}
# The roles that may come before a message of a role; None is the beginning of the chat.
BEFORE = {
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


class ChatError(ValueError):
    """A record that is no chat to learn from; `rule` is what it breaks."""

    def __init__(self, rule: str, message: str):
        super().__init__(message)
        self.rule = f"chat.{rule}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the records of a file have their chats.

    Attributes:
      messages: the field with the messages; or give `prompt` and `completion`.
      prompt: the field of the user's message, or Jinja over the fields of the record.
      completion: likewise the assistant's message.
      system: the text of a system message, for chats that have none; or Jinja over the fields.
      tools: the field with the tools of a chat, which a record may lack.

    Raises:
      ValueError: neither `messages` nor both other fields are given, or Jinja that is not valid.
    """

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    system: str | None = None
    tools: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.completion is None) or (self.messages is None) == (self.prompt is None):
            raise ValueError(
                f"messages={self.messages!r}, prompt={self.prompt!r}, completion={self.completion!r}: name either the field of "
                "the messages, or the fields of a prompt and its completion"
            )
        for name in ("prompt", "completion", "system"):
            if (text := getattr(self, name)) is not None and is_jinja(text):
                wording(name, text)

    def read(self, record: Mapping[str, Any]) -> tuple[Messages, Tools]:
        """The messages and tools of a record, checked by `check_order`.

        Raises:
          ChatError: the record lacks a field, or its chat is invalid.
        """
        if self.messages is None:
            texts = (self.fill("prompt", record), self.fill("completion", record))
            messages = [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)
            ]
        else:
            messages = read_messages(self.messages, record.get(self.messages), record)
        if self.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.fill("system", record)})
        check_order(messages)
        return messages, read_tools(self.tools and record.get(self.tools))

    def fill(self, name: str, record: Mapping[str, Any]) -> str:
        """A text of a record: that of the field, or the rendered Jinja; `system` is the text itself.

        Raises:
          ChatError: the field is missing or not text, or the Jinja fails.
        """
        text = getattr(self, name)
        if is_jinja(text):
            try:
                return templates.render_part(wording(name, text), "inputs", record)
            except ValueError as error:
                raise ChatError("missing_field", str(error)) from error
        if name == "system":
            return text
        return read_text(f"{name}={text!r}", record.get(text), record)


def is_jinja(text: str) -> bool:
    """Whether a text is Jinja, not the name of a field."""
    return "{{" in text or "{%" in text


@functools.lru_cache(maxsize=64)
def wording(name: str, text: str) -> templates.Template:
    """The template of a Jinja text; cached."""
    return templates.Template(name, text, "")


def read_text(what: str, value: Any, record: Mapping[str, Any]) -> str:
    """A field that is text.

    Raises:
      ChatError: it is not.
    """
    if isinstance(value, str):
        return value
    found = "is missing" if value is None else f"is a {type(value).__name__}, not text"
    raise ChatError("missing_field", f"the field {what} {found} (found: {', '.join(record)[:200]})")


def parse_json(value: Any) -> Any:
    """A value whose JSON may be stored as text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def read_messages(field: str, value: Any, record: Mapping[str, Any]) -> Messages:
    """The messages of a field, which is a list or its JSON.

    Raises:
      ChatError: it is neither, or a message is invalid.
    """
    value = parse_json(value)
    if not isinstance(value, list) or not value:
        found = "is missing" if value is None else f"is {str(value)[:60]!r}, not a list of messages"
        raise ChatError("missing_field", f"the field {field!r} {found} (found: {', '.join(record)[:200]})")
    return [read_message(f"{field}[{number}]", message) for number, message in enumerate(value)]


def read_message(where: str, message: Any) -> dict[str, Any]:
    """A message with the names of OpenAI's form; its other fields are kept.

    Raises:
      ChatError: it has no known role, or its content is not text.
    """
    if not isinstance(message, Mapping):
        raise ChatError("message", f"{where} is {str(message)[:60]!r}, not an object with role and content")
    named = {"from": "role", "value": "content"} if "from" in message and "role" not in message else {}
    message = {named.get(key, key): value for key, value in message.items()}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ChatError("role", f"{where} has the role {role!r}; known are {', '.join(ROLES)}")
    if message.get("weight") not in (None, 0, 1):
        raise ChatError("message", f"{where} has weight={message['weight']!r}; give 0 (not learned) or 1")
    calls = read_calls(where, message.pop("tool_calls", None))
    content = message.get("content")
    if content is None and calls:
        content = ""
    if isinstance(content, list) and all(isinstance(x, Mapping) and isinstance(x.get("text"), str) for x in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ChatError("message", f"{where} has the content {str(content)[:60]!r}, which is not text")
    return {**message, "role": ROLES[role], "content": content, **({"tool_calls": calls} if calls else {})}


def read_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """The calls of tools in a message, in OpenAI's form, their arguments as objects.

    Raises:
      ChatError: a call has no name.
    """
    calls = parse_json(calls) or []
    if not isinstance(calls, list):
        raise ChatError("tools", f"{where} has tool_calls={str(calls)[:60]!r}, which is no list")
    read = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ChatError("tools", f"{where} calls {str(call)[:60]!r}, which has no name of a function")
        around = call if "function" in call else {}
        function = {**function, "arguments": parse_json(function.get("arguments", {}))}
        read.append({**around, "type": "function", "function": function})
    return read


def read_tools(tools: Any) -> Tools:
    """The tools of a chat in OpenAI's form, from a list or its JSON; None if there are none.

    Raises:
      ChatError: a tool has no name.
    """
    tools = parse_json(tools)
    if not tools:
        return None
    if not isinstance(tools, list):
        raise ChatError("tools", f"tools={str(tools)[:60]!r} is no list of functions")
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ChatError("tools", f"the tool {str(tool)[:60]!r} has no name of a function")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def check_order(messages: Sequence[Mapping[str, Any]]) -> None:
    """Checks that roles are in order, and that every answer has words or calls.

    A system message comes first; then the user's and the assistant's messages alternate, beginning with the user's; results of
    tools follow the assistant's calls. The last message may be anyone's.

    Raises:
      ChatError: they are not, or no message is the assistant's.
    """
    before: str | None = None
    called = False
    for number, message in enumerate(messages):
        role, calls = message["role"], message.get("tool_calls")
        if before not in BEFORE[role] or (role == "tool" and before == "assistant" and not called):
            follows = "comes first" if before is None else f"follows one of {before!r}"
            without = " without calls of tools" if role == "tool" and before == "assistant" else ""
            allowed = " or ".join("the beginning" if x is None else repr(x) for x in BEFORE[role])
            raise ChatError(
                "role_order",
                f"messages[{number}] of {role!r} {follows}{without}, which is out of order; it may follow {allowed}",
            )
        if role == "assistant" and not calls and not message["content"].strip():
            raise ChatError(
                "empty_completion", f"messages[{number}] of 'assistant' is empty, so there is nothing to learn"
            )
        before, called = role, bool(calls)
    if not any(message["role"] == "assistant" for message in messages):
        raise ChatError(
            "no_answer", f"none of the {len(messages)} messages is the assistant's, so there is nothing to learn"
        )
