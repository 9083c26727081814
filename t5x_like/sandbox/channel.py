"""Messages over a socket: one line of JSON each, of limited length."""

import json
import socket
from typing import Any

LONGEST = 2**23  # bytes of a message


class Channel:
    """One end of a connection.

    Raises (send):
      ValueError: the message is longer than LONGEST.
    Raises (receive):
      EOFError: the other end is closed, or its message is too long.
      ValueError, RecursionError: it is not JSON.
    """

    def __init__(self, end: socket.socket) -> None:
        self.stream = end.makefile("rwb")

    def send(self, message: Any) -> None:
        """Writes a message."""
        line = json.dumps(message).encode()
        if len(line) >= LONGEST:
            raise ValueError(f"a message of {len(line)} bytes is longer than {LONGEST}; return less")
        self.stream.write(line + b"\n")
        self.stream.flush()

    def receive(self) -> Any:
        """Reads a message."""
        line = self.stream.readline(LONGEST + 1)
        if not line.endswith(b"\n"):
            raise EOFError("the other process ended, or its message is too long")
        return json.loads(line)
