"""Errors of requests, in the format of OpenAI's API."""

import math
from collections.abc import Mapping
from typing import Any

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    499: "cancelled",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """A request that is answered with an error.

    `code` names the kind of error for programs, `parameter` the field that is wrong. `retry_after` is in seconds. With `close`
    the connection is closed, because what the client still sends is not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        parameter: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.parameter = status, message, code, parameter
        self.headers = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))
        if close:
            self.headers["connection"] = "close"

    @property
    def content(self) -> Mapping[str, Any]:
        """The answer."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}
