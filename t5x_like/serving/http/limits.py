"""Limits of requests: sizes, times, how many at once and per minute."""

import asyncio
import collections
import contextlib
import dataclasses
import time

from starlette.requests import Request

from t5x_like.serving.http.errors import ApiError

CLIENTS = 10_000  # whose rates are remembered
DISCARD_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
      connections: at once; more are closed as they come.
      head_seconds: for the head of a request to arrive.
      idle_seconds: between two requests of a connection.
      body_bytes: of a request.
      body_seconds: for a request to arrive, after its head.
      send_seconds: for a client to read what a stream has sent, before its request is cancelled.
      request_seconds: for an answer.
      requests: at once.
      choices: completions of one request, all prompts together.
      per_minute: requests of one client; None: any number.
    """

    connections: int = 1000
    head_seconds: float = 10.0
    idle_seconds: int = 30
    body_bytes: int = 8 * 2**20
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    request_seconds: float = 600.0
    requests: int = 256
    choices: int = 128
    per_minute: int | None = None


class Rates:
    """Counts the requests of every client: each has a budget of `per_minute`, which fills up evenly (a token bucket)."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.budgets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def spend(self, client: str, now: float | None = None) -> None:
        """Counts a request.

        Raises:
          ApiError: the client has spent its budget.
        """
        now = time.monotonic() if now is None else now
        budget, before = self.budgets.pop(client, (float(self.per_minute), now))
        budget = min(self.per_minute, budget + (now - before) * self.per_minute / 60)
        self.budgets[client] = (budget - (budget >= 1), now)
        if len(self.budgets) > CLIENTS:
            self.budgets.popitem(last=False)
        if budget < 1:
            message = f"more than {self.per_minute} requests per minute; wait"
            raise ApiError(429, message, "rate_limit_exceeded", retry_after=(1 - budget) * 60 / self.per_minute)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
      ApiError: it is not JSON by its headers, too large or too slow, or the client has gone.
    """
    # A page of another site can send only other types without asking the server.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "send JSON that is not compressed, with the header Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while not request.state.body_ended:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(499, "the client has gone")
                body += message.get("body", b"")
                request.state.body_ended = not message.get("more_body", False)
                if len(body) > limits.body_bytes:
                    raise ApiError(413, f"the body has more than {limits.body_bytes} bytes", "request_too_large")
    except TimeoutError:
        request.state.body_ended = True  # it is not waited for any longer
        late = f"the body did not arrive within {limits.body_seconds:g} s"
        raise ApiError(408, late, "timeout", close=True) from None
    return bytes(body)


async def discard_body(request: Request, limits: Limits) -> None:
    """Reads what a client still sends, so that it reads the answer: an early end of the connection would destroy it."""
    left = 4 * limits.body_bytes
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0 and not request.state.body_ended:
                message = await request.receive()
                left -= len(message.get("body", b""))
                request.state.body_ended = not message.get("more_body", False)
