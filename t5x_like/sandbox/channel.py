"""Messages over a socket: one line of JSON each, of limited length."""

import json
import socket
import time
from typing import Any

LONGEST = 2**23  # bytes of a message


class Channel:
    """One end of a connection; sending or receiving a message takes at most `seconds`, None without a limit.

    Raises (send):
      ValueError: the message is longer than LONGEST.
      OSError: the other end is closed, or does not read in time.
    Raises (receive):
      EOFError: the other end is closed, or its message is too long.
      OSError: the message is not complete in time.
      ValueError, RecursionError: it is not JSON.
    """

    def __init__(self, end: socket.socket, seconds: float | None = None) -> None:
        self.end, self.seconds, self.rest = end, seconds, bytearray()

    def send(self, message: Any) -> None:
        """Writes a message."""
        line = json.dumps(message).encode()
        if len(line) >= LONGEST:
            raise ValueError(f"a message of {len(line)} bytes is longer than {LONGEST}; return less")
        self.end.settimeout(self.seconds)
        self.end.sendall(line + b"\n")

    def receive(self) -> Any:
        """Reads a message."""
        deadline, searched = time.monotonic() + (self.seconds or 0), 0
        while (stop := self.rest.find(b"\n", searched)) < 0:
            searched = len(self.rest)
            if self.seconds is not None:  # for the whole message: its parts may come slowly
                self.end.settimeout(remaining_until(deadline))
            part = self.end.recv(2**16)
            if not part or searched > LONGEST:
                raise EOFError("the other process ended, or its message is too long")
            self.rest += part
        line = bytes(self.rest[:stop])
        del self.rest[: stop + 1]
        return json.loads(line)


def remaining_until(deadline: float) -> float:
    """The seconds until a time of time.monotonic().

    Raises:
      TimeoutError: it is over.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    return remaining
