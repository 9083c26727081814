"""Pieces of completions on their way from the engine's thread to a client: as a whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from t5x_like.serving.http.answers import Answer, Choice
from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.http.limits import Limits
from t5x_like.serving.requests import Delta

MOST_WAITING = 4096  # pieces that a client may be behind
DONE = b"data: [DONE]\n\n"
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


class Mailbox:
    """Carries what the engine's thread posts to an event loop, which is woken once for many pieces."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.posted: collections.deque[tuple[Answers, int, Delta]] = collections.deque()
        self.woken = False

    def post(self, answers: Answers, index: int, delta: Delta) -> None:
        """Hands a piece over; called in the engine's thread."""
        self.posted.append((answers, index, delta))
        if not self.woken:
            self.woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        """Gives every piece to its answers."""
        self.woken = False  # before the pieces are taken: what is posted from now on wakes the loop again
        while self.posted:
            answers, index, delta = self.posted.popleft()
            answers.put(index, delta)


class Answers:
    """The completions of one request, as they grow. `async for` gives lists of (index, piece) until all have ended.

    Each completion comes as one piece, unless there is an `on_first`, which is called with the seconds until the first piece. A
    client that does not read falls behind: at `MOST_WAITING` pieces its completions are cancelled, and so they are by `cancel`.
    """

    def __init__(self, mailbox: Mailbox, count: int, on_first: Callable[[float], None] | None = None) -> None:
        self.mailbox, self.left, self.streamed, self.on_first = mailbox, count, on_first is not None, on_first
        self.started = time.monotonic()
        self.tickets: list = []
        self.waiting: list[tuple[int, Delta]] = []
        self.changed = asyncio.Event()
        self.error: ApiError | None = None

    def listener(self, index: int) -> Callable[[Delta], None]:
        """What the engine calls with every piece of a completion."""
        if self.streamed:
            return lambda delta: self.mailbox.post(self, index, delta)
        kept: list[Delta] = []

        def receive(delta: Delta) -> None:
            kept.append(delta)
            if delta.finish_reason is not None:
                self.mailbox.post(self, index, join(kept))

        return receive

    def attach(self, tickets: Sequence) -> None:
        """Sets the engine's tickets of the completions."""
        self.tickets = list(tickets)
        if self.error is not None:  # the client went while they were submitted
            self.cancel(self.error)

    def put(self, index: int, delta: Delta) -> None:
        """Appends a piece."""
        if self.error is not None:
            return
        if self.on_first is not None:
            self.on_first(time.monotonic() - self.started)
            self.on_first = None
        self.waiting.append((index, delta))
        self.changed.set()
        if len(self.waiting) > MOST_WAITING:
            self.cancel(ApiError(499, "the client reads too slowly", "slow_reader"))

    def cancel(self, error: ApiError) -> None:
        """Ends the completions that have not ended; who waits for them gets the error."""
        if self.error is None:
            self.error = error
        self.waiting.clear()
        self.changed.set()
        for ticket in self.tickets:
            ticket.cancel()

    def __aiter__(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        return self

    async def __anext__(self) -> list[tuple[int, Delta]]:
        """The pieces that have come, those of one completion as one.

        Raises:
          ApiError: the request was cancelled, or the engine failed.
        """
        if self.left == 0:
            raise StopAsyncIteration
        await self.changed.wait()
        self.changed.clear()
        if self.error is not None:
            raise self.error
        pieces, self.waiting = merge(self.waiting), []
        for _, delta in pieces:
            self.left -= delta.finish_reason is not None
            if delta.finish_reason in ("error", "cancelled"):
                message = delta.error or "the completion was cancelled"
                error = ApiError(500, f"the engine failed: {message}", "engine_error")
                self.cancel(error)
                raise error
        return pieces


def merge(waiting: Sequence[tuple[int, Delta]]) -> list[tuple[int, Delta]]:
    """The pieces of each completion as one."""
    merged: dict[int, list[Delta]] = {}
    for index, delta in waiting:
        merged.setdefault(index, []).append(delta)
    return [(index, join(deltas)) for index, deltas in merged.items()]


def join(deltas: Sequence[Delta]) -> Delta:
    """Several pieces of a completion as one."""
    if len(deltas) == 1:
        return deltas[0]
    text = "".join(delta.text for delta in deltas)
    tokens = tuple(token for delta in deltas for token in delta.tokens)
    return dataclasses.replace(deltas[-1], text=text, tokens=tokens)


def event(content: Any) -> bytes:
    """An object as an event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def events(
    answer: Answer,
    choices: Sequence[Choice],
    answers: Answers,
    usage: Callable[[int], dict[str, Any]] | None,
) -> AsyncIterator[bytes]:
    """The events of an answer as its completions grow, or of an error. The last chunk has the `usage` of that many tokens."""
    extra = {} if usage is None else {"usage": None}

    def encode(parts: Sequence[dict[str, Any]]) -> bytes:
        return b"".join(event(answer.chunk([part]) | extra) for part in parts)

    tokens = 0
    if first := [part for choice in choices for part in choice.first()]:
        yield encode(first)
    try:
        async for arrived in answers:
            tokens += sum(len(delta.tokens) for _, delta in arrived)
            if parts := [part for index, delta in arrived for part in choices[index].chunks(delta)]:
                yield encode(parts)
    except ApiError as error:
        if error.status == 499:
            raise
        yield event(error.content)
        return
    if usage is not None:
        yield event(answer.chunk([]) | {"usage": usage(tokens)})
    yield DONE


class EventStream:
    """A response of events."""

    def __init__(self, answers: Answers, parts: AsyncIterator[bytes], limits: Limits) -> None:
        self.answers, self.parts, self.limits = answers, parts, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events.

        Raises:
          ApiError: the client has gone, or does not read.
        """
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async with watch(receive, self.answers, self.limits):
            try:
                async for part in self.parts:
                    async with asyncio.timeout(self.limits.send_seconds):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except (TimeoutError, ApiError) as error:
                # Whoever reads the rest must not take it for the whole.
                scope["state"].get("abort", lambda: None)()
                await asyncio.sleep(0)
                raise ApiError(499, "the client has gone, or does not read") from error


@contextlib.asynccontextmanager
async def watch(receive: Receive, answers: Answers, limits: Limits) -> AsyncIterator[None]:
    """Cancels completions when their client goes, when they take too long, and at an error in the block."""

    async def wait_for_end() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        answers.cancel(ApiError(499, "the client has gone"))

    message = f"the answer takes longer than {limits.request_seconds:g} s"
    late = ApiError(504, message, "timeout")
    timer = asyncio.get_running_loop().call_later(limits.request_seconds, answers.cancel, late)
    watcher = asyncio.create_task(wait_for_end())
    try:
        yield
    finally:
        timer.cancel()
        watcher.cancel()
        if answers.left:
            answers.cancel(ApiError(499, "the answer has ended"))
