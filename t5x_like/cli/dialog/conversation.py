"""The state of a chat in the terminal, and the commands that change it."""

import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t5x_like.data.chats import chat
from t5x_like.decoding.grammars import Grammar
from t5x_like.files import atomic, lines
from t5x_like.serving.requests import Settings

Message = dict[str, Any]


@dataclasses.dataclass
class Conversation:
    """The messages of a chat, the settings of its answers, and how often the last answer has been tried again."""

    settings: Settings
    messages: list[Message] = dataclasses.field(default_factory=list)
    retries: int = 0

    @property
    def waits(self) -> bool:
        """Whether the last message has no answer."""
        return bool(self.messages) and self.messages[-1]["role"] == "user"

    @property
    def answer_settings(self) -> Settings:
        """The settings of the next answer; another try has other random numbers."""
        return dataclasses.replace(self.settings, sample=self.settings.sample + self.retries)

    def say(self, text: str) -> None:
        """Adds a message of the user."""
        self.messages.append({"role": "user", "content": text})
        self.retries = 0

    def run(self, line: str) -> str:
        """Runs a command, such as "/set top_p=0.9", and returns what it reports.

        Raises:
          ValueError: there is no such command, or it cannot be run.
          OSError: a file cannot be read or written.
        """
        name, _, argument = line.removeprefix("/").partition(" ")
        if name not in COMMANDS:
            raise ValueError(f"there is no /{name}; /help lists the commands. A space before / makes it a message")
        return COMMANDS[name](self, argument.strip())

    def help(self, _: str) -> str:
        """Lists the commands."""
        return HELP

    def reset(self, _: str) -> str:
        """Forgets all messages but the system's."""
        self.messages = [message for message in self.messages[:1] if message["role"] == "system"]
        return "the chat is empty"

    def system(self, text: str) -> str:
        """Replaces the system message."""
        rest = self.messages[bool(self.messages) and self.messages[0]["role"] == "system" :]
        self.messages = [{"role": "system", "content": text}] * bool(text) + rest
        return "the system message is set" if text else "there is no system message"

    def retry(self, _: str) -> str:
        """Removes the last answer, so that its message waits for another one."""
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant" or self.messages[-2]["role"] != "user":
            raise ValueError("there is no answer to try again; write a message")
        self.messages.pop()
        self.retries += 1
        same = self.settings.temperature == 0
        return "temperature=0 gives the same answer again; /set temperature=0.7 samples" if same else ""

    def undo(self, _: str) -> str:
        """Removes the last message of the user and its answer."""
        turns = [number for number, message in enumerate(self.messages) if message["role"] == "user"]
        if not turns:
            raise ValueError("there is no message to remove")
        del self.messages[turns[-1] :]
        return f"removed; {len(self.messages)} messages are left"

    def save(self, path: str) -> str:
        """Writes the messages to a file, one JSON object per line."""
        if not path:
            raise ValueError("/save needs the name of a file")
        text = "".join(json.dumps(message, ensure_ascii=False) + "\n" for message in self.messages)
        with atomic.new_file(Path(path).expanduser()) as file:
            file.write(text.encode("utf-8"))
        return f"{len(self.messages)} messages are in {path}"

    def load(self, path: str) -> str:
        """Replaces the messages by those of a file."""
        if not path:
            raise ValueError("/load needs the name of a file")
        self.messages, self.retries = read_messages(path), 0
        return f"read {len(self.messages)} messages"

    def set(self, text: str) -> str:
        """Changes settings: NAME=VALUE, as in Python."""
        self.settings = dataclasses.replace(self.settings, **dict([parse_setting(text, self.settings)]))
        return text

    def show(self, _: str) -> str:
        """The settings and the messages."""
        fields = ((field.name, getattr(self.settings, field.name)) for field in dataclasses.fields(self.settings))
        shown = [" ".join(f"{name}={value!r}" for name, value in fields)]
        return "\n".join(shown + [f"{message['role']}: {message['content']}" for message in self.messages])


COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "help": Conversation.help,
    "reset": Conversation.reset,
    "system": Conversation.system,
    "retry": Conversation.retry,
    "undo": Conversation.undo,
    "save": Conversation.save,
    "load": Conversation.load,
    "set": Conversation.set,
    "show": Conversation.show,
}
HELP = """\
/reset               forget the messages, but the system's
/system TEXT         replace the system message; without TEXT, remove it
/retry               answer the last message again
/undo                remove the last message and its answer
/save FILE           write the messages as JSON lines
/load FILE           read them
/set NAME=VALUE      change a setting: /set temperature=0.7, /set stop=["\\n\\n"], /set grammar=REGEX
/show                show the settings and the messages
/quit, Ctrl-D        end
Ctrl-C stops an answer. A message that begins with / needs a space before it."""


def parse_setting(text: str, settings: Settings) -> tuple[str, Any]:
    """The name and value of "NAME=VALUE", a field of the settings; a grammar is a regular expression.

    Raises:
      ValueError: it is not one.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    names = [field.name for field in dataclasses.fields(settings)]
    if name not in names or not value:
        raise ValueError(f"/set {text} is not NAME=VALUE with one of the names {', '.join(names)}")
    if name == "grammar" and value != "None":
        return name, Grammar.regex(value)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value  # a text, which the settings check


def read_messages(path: str) -> list[Message]:
    """The messages of a file of JSON lines.

    Raises:
      ValueError: a line is not a message, with its number.
      OSError: the file cannot be read.
    """
    messages = []
    for number, line in enumerate(lines.read_lines(Path(path).expanduser()), 1):
        try:
            message = json.loads(line)
            chat.check_messages([message])
            if not isinstance(message["role"], str) or not isinstance(message["content"], str):
                raise ValueError('"role" and "content" must be texts')
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {error}; got {line[:60]!r}") from error
        messages.append(message)
    return messages
