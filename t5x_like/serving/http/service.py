"""What the endpoints of a server share: the engine, who may ask it, and what is going on."""

import asyncio
import concurrent.futures
import contextlib
import functools
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from starlette.requests import Request

from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.http.keys import Keys
from t5x_like.serving.http.limits import Limits, Rates
from t5x_like.serving.http.metrics import Metrics
from t5x_like.serving.http.prompts import Prompts
from t5x_like.serving.http.streams import Mailbox

if TYPE_CHECKING:
    from t5x_like.serving.engine import Engine
    from t5x_like.serving.reading import TextEncoder

THREADS = 4  # that read prompts, and wait for embeddings and scores
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Service:
    """A model by name, served to whoever has one of the `keys` (None: to all).

    Without keys, only requests to this machine by its loopback names are answered, unless `any_host`: a page of another site that
    gives its own name this machine's address cannot ask.
    """

    def __init__(self, model: str, limits: Limits, keys: Keys | None = None, any_host: bool = False) -> None:
        self.model, self.limits, self.keys, self.any_host = model, limits, keys, any_host
        self.engine: Engine | TextEncoder | None = None
        self.prompts: Prompts | None = None
        self.draining = False
        self.active = 0
        self.created = int(time.time())
        self.metrics = Metrics(self.statistics)
        self.rates = Rates(limits.per_minute) if limits.per_minute else None
        self.pool = concurrent.futures.ThreadPoolExecutor(THREADS, "requests")

    def open(self, engine: "Engine | TextEncoder", trusted: bool = False) -> None:
        """Begins to answer by an engine; names of control tokens in prompts are text unless they are `trusted`."""
        self.prompts = Prompts(engine.vocabulary, "encoder" in engine.model.sides, engine.max_length, trusted)
        self.engine = engine

    @property
    def state(self) -> str:
        """ "loading", "ready" or "draining"."""
        if self.draining:
            return "draining"
        return "loading" if self.engine is None else "ready"

    def statistics(self) -> Mapping[str, float]:
        """The numbers of the engine; none while it loads."""
        return {} if self.engine is None else self.engine.statistics()

    def require(self) -> tuple["Engine | TextEncoder", Prompts]:
        """The engine and the reader of its prompts.

        Raises:
          ApiError: the server loads.
        """
        if self.engine is None or self.prompts is None:
            raise ApiError(503, "the model is loading", "loading", retry_after=5)
        return self.engine, self.prompts

    @contextlib.contextmanager
    def accept(self, client: str) -> Iterator[None]:
        """Accepts a request, which the server will not end before.

        Raises:
          ApiError: the server loads, drains or is full, or the client has spent its budget.
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down", "draining", retry_after=5, close=True)
        self.require()
        if self.active >= self.limits.requests:
            message = f"the server has {self.active} requests already"
            raise ApiError(429, message, "too_many_requests", retry_after=1)
        if self.rates:
            self.rates.spend(client)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def authenticate(self, request: Request) -> str:
        """Who asks: the owner of the key, or without keys the address.

        Raises:
          ApiError: no key, or an unknown one.
        """
        if self.keys is None:
            return request.client.host if request.client else ""
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            raise ApiError(401, "give a valid API key: Authorization: Bearer KEY", "invalid_api_key")
        return f"key {owner}"

    def check_host(self, request: Request) -> None:
        """Checks that a server without keys was asked by a name of this machine.

        Raises:
          ApiError: it was asked by another name.
        """
        if self.keys is None and not self.any_host and not is_loopback(host_of(request.headers.get("host", ""))):
            message = "this server answers to loopback names only; see --api_keys_file and --without_api_keys"
            raise ApiError(403, message, "unknown_host")

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Calls a function in a thread."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.pool, call)

    @functools.cached_property
    def mailbox(self) -> Mailbox:
        """The mailbox of the event loop that asks first."""
        return Mailbox(asyncio.get_running_loop())


def host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] or header if header.count(":") == 1 else header


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
