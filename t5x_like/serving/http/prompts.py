"""What the engine is asked for to answer a request: ids of prompts, settings and grammars."""

import dataclasses
import functools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_like import prompt_batches
from t5x_like.data.chats import chat
from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding.grammars import Grammar
from t5x_like.serving.http import protocol
from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.http.tools import CallFormat
from t5x_like.serving.requests import Settings
from t5x_like.types import Vocabulary

COMPLETION_TOKENS = 16  # of a completion whose request does not say, as in OpenAI's API
# Fields of requests that are settings of the same name.
SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


@dataclasses.dataclass(frozen=True)
class Calls:
    """The calls that a turn may have.

    `functions` are those that the model is told of, `allowed` those that it may call, `most` times. With `forced` the turn is a
    call.
    """

    format: CallFormat
    functions: Sequence[Mapping[str, Any]]
    allowed: Sequence[Mapping[str, Any]]
    most: int | None = None
    forced: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The names of the functions that may be called."""
        return frozenset(one["name"] for one in self.allowed)

    def grammar(self) -> Grammar | None:
        """What the turn obeys: a call if it must be one, else calls of strict functions; None for any text.

        Raises:
          ValueError: a schema has an error, or the template does not tell calls from text.
        """
        if self.forced:
            return Grammar.json_schema(self.format.schema(self.allowed))
        if any(one.get("strict") for one in self.allowed):
            return self.format.grammar(self.allowed, self.most)
        return None


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Reads the prompts of requests for a model.

    Names of control tokens in texts are text, unless they are `trusted`. `max_length` is the most tokens of a prompt with its
    completion; if an encoder reads prompts, of each.
    """

    vocabulary: Vocabulary
    seq2seq: bool
    max_length: int
    trusted: bool = False

    @functools.cached_property
    def call_format(self) -> CallFormat:
        """How the chat template writes calls.

        Raises:
          ValueError: it does not.
        """
        return CallFormat.find(self.vocabulary)

    def text_ids(self, prompt: protocol.Prompt) -> list[int]:
        """The ids of a prompt that is no chat; those of ids are the same."""
        if isinstance(prompt, list):
            return prompt
        return prompt_batches.prompt_ids({"prompt": prompt}, self.vocabulary, self.seq2seq, literal=not self.trusted)

    def chat_ids(self, request: protocol.ChatRequest, calls: Calls | None) -> list[int]:
        """The ids of a chat, up to the object of a call if there must be one."""
        messages = [template_message(index, message) for index, message in enumerate(request.messages)]
        functions = calls.functions if calls else ()
        tools = [{"type": "function", "function": one} for one in functions] or None
        beginning = calls.format.beginning if calls and calls.forced else ""
        if self.trusted:
            text = chat.render_chat(self.vocabulary, messages, tools=tools)
            ids = self.vocabulary.encode(text + beginning)
        else:
            ids = chat.prompt_ids(self.vocabulary, messages, tools, beginning)
        return [*ids, vocabularies.end_id(self.vocabulary)] if self.seq2seq else ids

    def calls(self, request: protocol.ChatRequest) -> Calls | None:
        """The calls that the answer to a chat may have; None if it may have none.

        Raises:
          ApiError: the choice names no tool.
          ValueError: the chat template does not write calls.
        """
        choice = request.tool_choice
        if not request.tools:
            if choice in (None, "none"):
                return None
            raise ApiError(400, "tool_choice needs tools", "invalid_value", "tool_choice")
        if choice == "none":
            return None
        functions = [tool.function.model_dump(exclude_none=True) for tool in request.tools]
        most = 1 if request.parallel_tool_calls is False else None
        if isinstance(choice, protocol.NamedTool):
            named = [one for one in functions if one["name"] == choice.function.name]
            if not named:
                message = f"tool_choice names {choice.function.name!r}, which is none of the tools"
                raise ApiError(400, message, "invalid_value", "tool_choice")
            return Calls(self.call_format, functions, named, 1, True)
        return Calls(self.call_format, functions, functions, most, choice == "required")

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, as far as they have one."""
        known = self.vocabulary.token_bytes
        return b"".join(known[index] for index in ids if 0 <= index < len(known)).decode(errors="replace")

    def new_tokens(self, count: int, asked: int | None, parameter: str, completion: bool = False) -> int:
        """How many tokens follow a prompt of `count` tokens: as many as asked for, else all that fit, or those of a completion.

        Raises:
          ApiError: the model does not hold them.
        """
        room = self.max_length - (1 if self.seq2seq else count)
        least = 1 if asked is None else asked
        if least > room or count > self.max_length:
            wanted = f"the prompt has {count} tokens" + (f" and {parameter}={asked}" if asked else "")
            held = "a completion and as many of its prompt" if self.seq2seq else "a prompt with its completion"
            message = f"{wanted}; this model holds {self.max_length} tokens of {held}"
            raise ApiError(400, message, "context_length_exceeded", "prompt" if completion else "messages")
        if asked is not None:
            return asked
        return min(COMPLETION_TOKENS, room) if completion else room


def template_message(index: int, message: Any) -> dict[str, Any]:
    """A message as chat templates expect it: content is text, and the arguments of calls are objects.

    Raises:
      ApiError: the content has parts that are not text, or arguments are not a JSON object.
    """
    role = "system" if message.role == "developer" else message.role
    converted: dict[str, Any] = {"role": role, "content": plain_text(index, message.content)}
    if message.name is not None:
        converted["name"] = message.name
    if message.role == "tool":
        converted["tool_call_id"] = message.tool_call_id
    if message.role == "assistant" and message.tool_calls:
        converted["tool_calls"] = [
            call.model_dump() | {"function": {"name": call.function.name, "arguments": call_arguments(index, call)}}
            for call in message.tool_calls
        ]
    return converted


def plain_text(index: int, content: protocol.Content | None) -> str:
    """The text of a message's content; its parts are lines.

    Raises:
      ApiError: a part is not text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if isinstance(part, protocol.OtherPart):
            message = (
                f"messages[{index}].content[{number}] is {part.type}, but this model reads text only; leave it out"
            )
            raise ApiError(400, message, "unsupported_content", "messages")
    return "\n".join(part.text for part in content if isinstance(part, protocol.TextPart))


def call_arguments(index: int, call: protocol.ToolCall) -> dict[str, Any]:
    """The arguments of a call.

    Raises:
      ApiError: they are not a JSON object.
    """
    try:
        value = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        message = f"messages[{index}].tool_calls: the arguments of {call.function.name!r} are not a JSON object"
        raise ApiError(400, message, "invalid_value", "messages")
    return value


def make_settings(request: protocol.Generation, new_tokens: int, top: int, grammar: Grammar | None) -> Settings:
    """The settings of the first completion; the others differ in `sample`.

    Raises:
      ApiError: min_tokens above the tokens that may follow, or a key of logit_bias that is no id.
    """
    given = {name: getattr(request, name) for name in SAME if getattr(request, name) is not None}
    least = request.min_tokens or 0
    if least > new_tokens:
        message = f"min_tokens={request.min_tokens} is above the {new_tokens} tokens that may follow"
        raise ApiError(400, message, "invalid_value", "min_tokens")
    keys = request.logit_bias or {}
    if wrong := [key for key in keys if not (key.isascii() and key.isdigit())]:
        raise ApiError(400, f"logit_bias: {wrong[0]!r} is not a token id", "invalid_value", "logit_bias")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Settings(
        max_new_tokens=new_tokens,
        min_new_tokens=least,
        logit_bias={int(key): value for key, value in keys.items()},
        stop=stop,
        stop_ids=not request.ignore_eos,
        seed=secrets.randbits(63) if request.seed is None else request.seed % 2**63,
        top_log_probs=top,
        grammar=grammar,
        **{"temperature": 1.0, **given},
    )


def read_grammar(request: protocol.Generation, calls: Calls | None = None) -> Grammar | None:
    """The grammar that a request asks for, or that of a call if there must be one.

    Raises:
      ApiError: there are several, or it has an error.
    """
    formatted = None if isinstance(request.response_format, protocol.TextFormat) else request.response_format
    guided = {name: getattr(request, name) for name in GUIDED}
    asked = {"response_format": formatted, **guided, "tools": calls}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise ApiError(400, f"{given[0]} and {given[1]} exclude each other; give one", "invalid_value", given[1])
    if not given:
        return None
    try:
        return make_grammar(asked[given[0]], given[0])
    except ValueError as error:
        raise ApiError(400, f"{given[0]}: {error}", "invalid_grammar", given[0]) from error


def make_grammar(value: Any, name: str) -> Grammar | None:
    """The grammar of a field.

    Raises:
      ValueError: it has an error.
    """
    if isinstance(value, Calls):
        return value.grammar()
    if isinstance(value, protocol.ObjectFormat):
        return Grammar.json_object()
    if isinstance(value, protocol.SchemaFormat):
        return Grammar.json_schema(value.json_schema.schema_)
    return GUIDED[name](value)


def json_grammar(schema: Any) -> Grammar:
    """The grammar of a schema, which may be JSON."""
    return Grammar.json_schema(json.loads(schema) if isinstance(schema, str) else schema)


# The grammars of vLLM's fields.
GUIDED: Mapping[str, Callable[[Any], Grammar]] = {
    "guided_json": json_grammar,
    "guided_regex": Grammar.regex,
    "guided_choice": Grammar.choice,
    "guided_grammar": Grammar.lark,
}
