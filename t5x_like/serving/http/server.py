"""The process of a server: its socket, uvicorn in a thread, and its orderly end."""

import asyncio
import functools
import socket
import threading
import time
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from t5x_like.serving.http.app import App
from t5x_like.serving.http.limits import Limits
from t5x_like.serving.http.service import Service

HEAD_BYTES = 64 * 1024
CLOSE_SECONDS = 10  # for clients to read their answers when the server ends
POLL_SECONDS = 0.05


class Connection(H11Protocol):
    """A connection to a client that has limited time to send the head of a request, and to read an answer.

    uvicorn limits only the time between requests.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.app_state = {**self.app_state, "abort": self.abort}  # the application reads it as scope["state"]
        self.head_timer: asyncio.TimerHandle | None = None
        self.unread = 0

    def abort(self) -> None:
        """Ends the connection, also if the client does not read."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self.await_head()

    def data_received(self, data: bytes) -> None:
        """Reads some of a request."""
        super().data_received(data)
        self.await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        if self.head_timer is not None:
            self.head_timer.cancel()

    def await_head(self) -> None:
        """Starts the time of a head that has begun, or stops that of one that is complete."""
        waiting = self.conn.their_state is h11.IDLE
        if waiting and self.head_timer is None:
            self.head_timer = self.loop.call_later(self.limits.head_seconds, self.abort)
        elif not waiting and self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection, but not before its client has read the answer, if it reads."""
        size = self.transport.get_write_buffer_size()
        if not size:
            super().timeout_keep_alive_handler()
        elif size == self.unread:
            self.abort()
        else:
            self.unread = size
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class Server:
    """Serves in a thread, from `start` to `stop`. It listens from the beginning on, and tells that the model is loading.

    Raises:
      OSError: the address cannot be listened on.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self.service = service
        self.socket = listen(host, port)
        config = uvicorn.Config(
            App(service),
            http=functools.partial(Connection, limits=service.limits),  # type: ignore[arg-type]  # it makes one
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=service.limits.idle_seconds,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, args=([self.socket],), name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self.socket.getsockname()[1]

    def start(self) -> None:
        """Begins to answer."""
        self.thread.start()
        while not self.uvicorn.started and self.thread.is_alive():
            time.sleep(POLL_SECONDS)

    def drain(self) -> None:
        """Refuses new requests, and waits until the accepted ones are answered."""
        self.service.draining = True
        time.sleep(POLL_SECONDS)  # a request that was accepted at this moment is counted
        while self.service.active and self.thread.is_alive():
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends, after the accepted requests are answered."""
        self.drain()
        self.uvicorn.should_exit = True
        self.thread.join()
        self.service.pool.shutdown(wait=False)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 is a free one.

    Raises:
      OSError: the host is unknown, or the port is in use.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening
