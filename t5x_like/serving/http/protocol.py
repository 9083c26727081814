"""Requests of OpenAI's API, with the extensions that other servers have too. Every field has an effect, or is refused.

The exceptions are fields that are no settings: `user`, `metadata`, `safety_identifier`, `prompt_cache_key`.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.requests import BIASES, TOP

Prompt = str | list[int]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Top = Annotated[int, Field(ge=0, le=TOP)]
Stop = Annotated[str, Field(min_length=1)]
Request = TypeVar("Request", bound="Strict")
FIELD = re.compile(r"(?!str$)[a-z_]+")
TAGS = ("system", "developer", "user", "assistant", "tool", "text")


def read_prompts(value: Any) -> list[Prompt]:
    """The prompts of a request, which has one or a list of them.

    Raises:
      ValueError: they are no prompts.
    """

    def is_ids(part: Any) -> bool:
        return isinstance(part, list) and all(type(index) is int for index in part)

    prompts = [value] if isinstance(value, str) or (value and is_ids(value)) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) or is_ids(one) for one in prompts):
        raise ValueError("must be a text, a list of texts, a list of token ids, or a list of such lists, and not empty")
    if not all(prompts):
        raise ValueError("has an empty prompt; give at least one token (the id of bos begins a text from nothing)")
    return prompts


class Strict(BaseModel):
    """A JSON object that has no other fields than these."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream has besides its text. `include_obfuscation` is accepted as false only."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    """A JSON Schema with a name. Answers always obey it."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class Generation(Strict):
    """The fields that completions and chats share; None has the meaning of an absent field."""

    model: str
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: PositiveShare | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=BIASES)] | None = None
    user: str | None = None
    # Extensions.
    top_k: Count | None = None
    min_p: Share | None = None
    typical_p: PositiveShare | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class CompletionRequest(Generation):
    """The body of /v1/completions."""

    prompt: Annotated[list[Prompt], BeforeValidator(read_prompts)]
    max_tokens: Count | None = None
    echo: bool | None = None
    logprobs: Top | None = None
    best_of: int | None = None
    suffix: str | None = None


class TextPart(Strict):
    """Text of a message."""

    type: Literal["text"]
    text: str


class OtherPart(BaseModel):
    """A part of a message that is not text, which is refused by name."""

    type: Literal["image_url", "input_audio", "file", "refusal", "video_url", "audio_url"]


Content = str | list[Annotated[TextPart | OtherPart, Field(discriminator="type")]]


class FunctionCall(Strict):
    """A function with arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that the assistant made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Strict):
    """What the assistant is told before the chat."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Strict):
    """What the assistant said, and its calls. `refusal` and the other fields that answers have are accepted as null."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: None = None


class ToolMessage(Strict):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class Function(Strict):
    """A function that the assistant may call. With `strict` its arguments always obey `parameters`."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """A choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generation):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Count, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class EmbeddingRequest(Strict):
    """The body of /v1/embeddings."""

    model: str
    input: Annotated[list[Prompt], BeforeValidator(read_prompts)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class TokenizeRequest(Strict):
    """The body of /tokenize."""

    prompt: str
    add_special_tokens: bool | None = None
    model: str | None = None


class DetokenizeRequest(Strict):
    """The body of /detokenize."""

    tokens: list[Annotated[int, Field(ge=0)]]
    model: str | None = None


def parse(kind: type[Request], body: bytes) -> Request:
    """Reads the body of a request.

    Raises:
      ApiError: it is not JSON in UTF-8, or not such a request.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        raise ApiError(400, f"the body is not JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}", "invalid_json")
    raise describe(kind, found)


def describe(kind: type[Strict], found: Sequence[Mapping[str, Any]]) -> ApiError:
    """The error of a request that has the wrong fields `found` by pydantic."""
    unknown = [error["loc"] for error in found if error["type"] == "extra_forbidden"]
    if unknown:
        name = str(unknown[0][-1])
        known = kind.model_fields if len(unknown[0]) == 1 else {}
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return ApiError(400, f"unknown field {place(unknown[0])!r}{hint}", "unknown_parameter", name)
    # Of the branches of a union, the one that fits best fails last.
    same = [error for error in found if error["loc"][:1] == found[0]["loc"][:1]]
    worst = max(same, key=lambda error: len(error["loc"]))
    message = worst["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    parameter = str(worst["loc"][0]) if worst["loc"] else None
    return ApiError(400, f"{place(worst['loc']) or 'the body'}: {message}", "invalid_value", parameter)


def place(location: Sequence[str | int]) -> str:
    """Where an error is, such as messages[0].content: without the branches of unions in pydantic's locations."""
    text, before = "", None
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif FIELD.fullmatch(part) and not (part in TAGS and isinstance(before, int)) and before != "response_format":
            text += f".{part}" if text else part
        before = part
    return text
