"""The functions that answer requests."""

import base64
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from t5x_like.data.chats.chat import special_token
from t5x_like.serving.http import protocol
from t5x_like.serving.http.answers import Answer, ChatChoice, Choice, CompletionChoice
from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.http.limits import read_body
from t5x_like.serving.http.page import PAGE, POLICY
from t5x_like.serving.http.prompts import Calls, Prompts, make_settings, read_grammar
from t5x_like.serving.http.service import Service
from t5x_like.serving.http.streams import Answers, EventStream, events, join, watch
from t5x_like.serving.requests import Delta, QueueFullError, Settings, Token

if TYPE_CHECKING:
    from t5x_like.serving.engine import Engine
    from t5x_like.serving.reading import TextEncoder

MOST_EMBEDDED = 2048  # texts of a request, as in OpenAI's API

Job = tuple[Sequence[int], Settings | None]  # ids to continue; without settings they are only scored
Echo = tuple[str, Sequence[Token]]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
NOTHING = Delta(finish_reason="length")


async def completions(service: Service, request: Request) -> ASGIApp:
    """POST /v1/completions."""
    query = protocol.parse(protocol.CompletionRequest, await read_body(request, service.limits))
    samples = query.n or 1
    check_generation(service, query, len(query.prompt) * samples)
    if query.suffix:
        raise ApiError(400, "suffix is not supported; leave it out", "unsupported_parameter", "suffix")
    if query.best_of not in (None, samples):
        raise ApiError(400, "best_of is not supported; ask for n completions", "unsupported_parameter", "best_of")
    if query.max_tokens == 0 and not query.echo:
        raise ApiError(400, "max_tokens=0 needs echo", "invalid_value", "max_tokens")
    engine, prompts = service.require()
    jobs, echoes = await prepare(service, plan_completions, engine, prompts, query)
    choices = [
        CompletionChoice(index, prompts.vocabulary, query.logprobs, echoes[index // samples])
        for index in range(len(jobs))
    ]
    return await respond(service, request, query, Answer("text_completion", service.model), choices, jobs)


def plan_completions(
    engine: "Engine | TextEncoder", prompts: Prompts, query: protocol.CompletionRequest
) -> tuple[list[Job], list[Echo]]:
    """What the engine is asked for, and what comes before the completion of every prompt."""
    grammar = read_grammar(query)
    jobs: list[Job] = []
    rows = [prompts.text_ids(prompt) for prompt in query.prompt]
    for ids in rows:
        new_tokens = prompts.new_tokens(len(ids), query.max_tokens, "max_tokens", completion=True)
        settings = make_settings(query, new_tokens, query.logprobs or 0, grammar) if new_tokens else None
        jobs += sampled(ids, settings, query.n or 1)
    return jobs, echoes(engine, prompts, query, rows)


def echoes(
    engine: "Engine | TextEncoder", prompts: Prompts, query: protocol.CompletionRequest, rows: Sequence[Sequence[int]]
) -> list[Echo]:
    """The texts of prompts, with tokens if log-probabilities are asked for.

    Raises:
      ValueError: an encoder reads prompts, so that their tokens have no log-probabilities.
    """
    if not query.echo:
        return [("", ())] * len(rows)
    texts = [
        prompt if isinstance(prompt, str) else prompts.text_of(ids)
        for prompt, ids in zip(query.prompt, rows, strict=True)
    ]
    if query.logprobs is None:
        return [(text, ()) for text in texts]
    scores = engine.score(rows, query.logprobs)
    return [
        (text, [Token(ids[0], math.nan, math.nan), *tokens])
        for text, ids, tokens in zip(texts, rows, scores, strict=True)
    ]


async def chat_completions(service: Service, request: Request) -> ASGIApp:
    """POST /v1/chat/completions."""
    query = protocol.parse(protocol.ChatRequest, await read_body(request, service.limits))
    samples = query.n or 1
    check_generation(service, query, samples)
    if query.top_logprobs and not query.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs", "invalid_value", "top_logprobs")
    if query.max_tokens is not None and query.max_completion_tokens not in (None, query.max_tokens):
        message = "max_tokens and max_completion_tokens exclude each other; give the latter"
        raise ApiError(400, message, "invalid_value", "max_tokens")
    _, prompts = service.require()
    jobs, calls = await prepare(service, plan_chat, prompts, query)
    choices = [ChatChoice(index, prompts.vocabulary, bool(query.logprobs), calls) for index in range(samples)]
    return await respond(service, request, query, Answer("chat.completion", service.model), choices, jobs)


def plan_chat(prompts: Prompts, query: protocol.ChatRequest) -> tuple[list[Job], Calls | None]:
    """What the engine is asked for, and the calls that the answer may have."""
    calls = prompts.calls(query)
    grammar = read_grammar(query, calls)
    ids = prompts.chat_ids(query, calls)
    name = "max_tokens" if query.max_completion_tokens is None else "max_completion_tokens"
    new_tokens = prompts.new_tokens(len(ids), getattr(query, name), name)
    settings = make_settings(query, new_tokens, query.top_logprobs or 0, grammar)
    return sampled(ids, settings, query.n or 1), calls


def sampled(ids: Sequence[int], settings: Settings | None, samples: int) -> list[Job]:
    """The jobs of several completions of a prompt."""
    if settings is None:
        return [(ids, None)] * samples
    return [(ids, dataclasses.replace(settings, sample=sample)) for sample in range(samples)]


async def prepare(
    service: Service, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Calls a function that reads a request in a thread.

    Raises:
      ApiError: the function raises ValueError.
    """
    try:
        return await service.run(function, *args, **kwargs)
    except ValueError as error:
        raise ApiError(400, str(error), "invalid_value") from error


def check_generation(service: Service, query: protocol.Generation, count: int) -> None:
    """Checks what requests for completions and chats have in common.

    Raises:
      ApiError: another model, more completions than a request may have, or options of a stream without one.
    """
    check_model(service, query.model)
    if count > service.limits.choices:
        message = f"{count} completions are more than the {service.limits.choices} that one request may have"
        raise ApiError(400, message, "too_many_choices", "n")
    if query.stream_options and not query.stream:
        raise ApiError(400, "stream_options needs stream", "invalid_value", "stream_options")


def check_model(service: Service, name: str) -> None:
    """Checks the name of the model.

    Raises:
      ApiError: it is another.
    """
    if name != service.model:
        message = f"the model {name[:200]!r} does not exist; this server has {service.model!r}"
        raise ApiError(404, message, "model_not_found", "model")


async def respond(
    service: Service,
    request: Request,
    query: protocol.Generation,
    answer: Answer,
    choices: Sequence[Choice],
    jobs: Sequence[Job],
) -> ASGIApp:
    """Gives the jobs to the engine, and answers when it has done them, or with a stream."""
    engine, _ = service.require()
    on_first = service.metrics.first_token_seconds.observe if query.stream else None
    answers = Answers(service.mailbox, len(jobs), on_first)
    answers.attach(await service.run(submit, engine, jobs, answers))
    prompt_tokens = sum(len(ids) for ids, _ in jobs[:: query.n or 1])

    def usage(completion_tokens: int) -> dict[str, Any]:
        cached = sum(ticket.cached_tokens for ticket in answers.tickets[:: query.n or 1])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    if query.stream:
        counted = usage if query.stream_options and query.stream_options.include_usage else None
        return EventStream(answers, events(answer, choices, answers, counted), service.limits)
    pieces: list[list[Delta]] = [[] for _ in jobs]
    async with watch(request.receive, answers, service.limits):
        async for arrived in answers:
            for index, delta in arrived:
                pieces[index].append(delta)
    deltas = [join(parts) for parts in pieces]
    whole = [choice.whole(delta) for choice, delta in zip(choices, deltas, strict=True)]
    return JSONResponse(answer.whole(whole, usage(sum(len(delta.tokens) for delta in deltas))))


def submit(engine: "Engine | TextEncoder", jobs: Sequence[Job], answers: Answers) -> list[Any]:
    """Submits the jobs of a request, all or none; returns their tickets.

    Raises:
      ApiError: the engine refuses one.
    """
    tickets = []
    try:
        for index, (ids, settings) in enumerate(jobs):
            if settings is None:
                answers.listener(index)(NOTHING)
            else:
                tickets.append(engine.submit(ids, settings, answers.listener(index)))
    except Exception as error:
        for ticket in tickets:
            ticket.cancel()
        if isinstance(error, QueueFullError):
            raise ApiError(429, str(error), "queue_full", retry_after=error.retry_after) from error
        if isinstance(error, ValueError):
            raise ApiError(400, str(error), "invalid_value") from error
        raise
    return tickets


async def embeddings(service: Service, request: Request) -> ASGIApp:
    """POST /v1/embeddings."""
    query = protocol.parse(protocol.EmbeddingRequest, await read_body(request, service.limits))
    check_model(service, query.model)
    texts = [text for text in query.input if isinstance(text, str)]
    if len(texts) < len(query.input):
        message = "token ids depend on the tokenizer, so only texts are embedded; give texts"
        raise ApiError(400, message, "unsupported_parameter", "input")
    if len(texts) > MOST_EMBEDDED:
        raise ApiError(400, f"input has {len(texts)} texts, more than {MOST_EMBEDDED}", "invalid_value", "input")
    engine, prompts = service.require()
    vectors_ND = await prepare(service, engine.embed, texts)
    if query.dimensions not in (None, vectors_ND.shape[1]):
        message = (
            f"dimensions={query.dimensions}, but the vectors of this model have {vectors_ND.shape[1]}; leave it out"
        )
        raise ApiError(400, message, "unsupported_parameter", "dimensions")
    tokens = await prepare(service, lambda: sum(len(prompts.text_ids(text)) for text in texts))
    packed = query.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": to_base64(x_D) if packed else x_D.tolist()}
        for index, x_D in enumerate(vectors_ND)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": service.model, "usage": usage})


def to_base64(x_D: np.ndarray) -> str:
    """A vector as base64 of little-endian float32."""
    return base64.b64encode(x_D.astype("<f4").tobytes()).decode()


async def tokenize(service: Service, request: Request) -> ASGIApp:
    """POST /tokenize, as vLLM has it: the ids of a text, which is literal unless it is the name of a control token."""
    query = protocol.parse(protocol.TokenizeRequest, await read_body(request, service.limits))
    _, prompts = service.require()

    def encode() -> list[int]:
        control = prompts.vocabulary.control_ids
        if query.prompt in control:
            return [control[query.prompt]]
        if query.add_special_tokens is False:
            return prompts.vocabulary.encode(query.prompt, literal=not prompts.trusted)
        return prompts.text_ids(query.prompt)

    ids = await prepare(service, encode)
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": prompts.max_length})


async def detokenize(service: Service, request: Request) -> ASGIApp:
    """POST /detokenize: the text of ids; control tokens have none."""
    query = protocol.parse(protocol.DetokenizeRequest, await read_body(request, service.limits))
    _, prompts = service.require()
    return JSONResponse({"prompt": await prepare(service, prompts.text_of, query.tokens)})


async def tokenizer_info(service: Service, request: Request) -> ASGIApp:
    """GET /tokenizer_info: names of special tokens, and the chat template."""
    _, prompts = service.require()
    names = {f"{kind}_token": special_token(prompts.vocabulary, kind) for kind in ("bos", "eos", "pad", "unk")}
    return JSONResponse(names | {"chat_template": prompts.vocabulary.chat_template})


def model_record(service: Service) -> dict[str, Any]:
    """What clients are told of the model; the last two fields are an extension."""
    _, prompts = service.require()
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "t5x_like",
        "max_model_len": prompts.max_length,
        "chat": prompts.vocabulary.chat_template is not None,
    }


async def models(service: Service, request: Request) -> ASGIApp:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [model_record(service)]})


async def model(service: Service, request: Request) -> ASGIApp:
    """GET /v1/models/NAME."""
    check_model(service, request.scope["path"].removeprefix("/v1/models/"))
    return JSONResponse(model_record(service))


async def health(service: Service, request: Request) -> ASGIApp:
    """GET /health: 200 if requests are accepted, else 503."""
    return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)


async def metrics(service: Service, request: Request) -> ASGIApp:
    """GET /metrics, for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page(service: Service, request: Request) -> ASGIApp:
    """GET /: the page."""
    return Response(PAGE, media_type="text/html; charset=utf-8", headers={"content-security-policy": POLICY})
