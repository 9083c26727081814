"""The ASGI application: who may ask, which function answers, what is counted, and errors in OpenAI's format."""

import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t5x_like.serving.http import endpoints
from t5x_like.serving.http.errors import ApiError
from t5x_like.serving.http.limits import discard_body
from t5x_like.serving.http.service import Service

Endpoint = Callable[[Service, Request], Awaitable[ASGIApp]]

ENDPOINTS: Mapping[str, tuple[str, Endpoint]] = {
    "/v1/completions": ("POST", endpoints.completions),
    "/v1/chat/completions": ("POST", endpoints.chat_completions),
    "/v1/embeddings": ("POST", endpoints.embeddings),
    "/v1/models": ("GET", endpoints.models),
    "/v1/models/": ("GET", endpoints.model),
    "/tokenize": ("POST", endpoints.tokenize),
    "/detokenize": ("POST", endpoints.detokenize),
    "/tokenizer_info": ("GET", endpoints.tokenizer_info),
    "/health": ("GET", endpoints.health),
    "/metrics": ("GET", endpoints.metrics),
    "/": ("GET", endpoints.page),
}
OPEN = ("/health", "/")  # need no key
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]

logger = logging.getLogger("t5x_like.serving")


class App:
    """Answers requests by a service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is answered, not {scope['type']}")
        request = Request(scope, receive)
        request.state.body_ended = False
        path = "/v1/models/" if scope["path"].startswith("/v1/models/") else scope["path"]
        started, status = time.monotonic(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                identity = (b"x-request-id", secrets.token_hex(8).encode())
                message = {**message, "headers": [*message["headers"], *HEADERS, identity]}
            await send(message)

        try:
            endpoint, client = self.find(request, path)
            # Those who ask how the server is, or read the page, are answered while it loads and drains.
            counted = self.service.accept(client) if scope["method"] == "POST" else contextlib.nullcontext()
            with counted:
                response = await endpoint(self.service, request)
                await response(scope, receive, send_noted)
        except ApiError as error:
            if error.status == 499:
                status = 499
            else:
                await discard_body(request, self.service.limits)
                await JSONResponse(error.content, error.status, error.headers)(scope, receive, send_noted)
        except Exception as error:
            if status:
                raise
            logger.exception("a request failed")
            failure = ApiError(500, f"internal error: {type(error).__name__}", "internal_error")
            await JSONResponse(failure.content, 500)(scope, receive, send_noted)
        finally:
            self.service.metrics.count(path if path in ENDPOINTS else "other", status, time.monotonic() - started)

    def find(self, request: Request, path: str) -> tuple[Endpoint, str]:
        """The function that answers a request, and the client that asks.

        Raises:
          ApiError: there is none, or the client may not ask it.
        """
        self.service.check_host(request)
        client = "" if path in OPEN else self.service.authenticate(request)
        if path not in ENDPOINTS:
            raise ApiError(404, f"there is no {path[:200]!r} here; see {', '.join(ENDPOINTS)}", "unknown_url")
        method, endpoint = ENDPOINTS[path]
        if request.method != method and (method, request.method) != ("GET", "HEAD"):
            error = ApiError(405, f"{path} takes {method}, not {request.method}", "method_not_allowed")
            error.headers["allow"] = method
            raise error
        return endpoint, client
