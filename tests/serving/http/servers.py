"""A server of a scripted engine on a loopback port, in this process."""

import contextlib
import json
import socket

import openai

from t5x_like.serving.http.limits import Limits
from t5x_like.serving.http.server import Server
from t5x_like.serving.http.service import Service
from tests.serving import scripted

MODEL = "scripted"
HI = [{"role": "user", "content": "hi"}]


@contextlib.contextmanager
def serve(engine=None, limits=Limits(), keys=None, trusted=False, closes=True):
    """A server of an engine (by default a new scripted one), which is closed with it unless it `closes` not."""
    engine = engine or scripted.ScriptedEngine()
    service = Service(MODEL, limits, keys)
    server = Server(service, "127.0.0.1", 0)
    server.start()
    service.open(engine, trusted)
    try:
        yield server
    finally:
        server.stop()
        if closes:
            engine.close(drain=False)


def client(server, key="none"):
    """OpenAI's client of a server; it does not try again."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0, timeout=20)


def connect(server):
    """A socket."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def post(path, body, headers=""):
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def ask(server, request):
    """The status, the headers and the JSON content (None if it is none) of the answer to the bytes of a request."""
    with connect(server) as connection:
        connection.sendall(request)
        return read_answer(connection)


def read_answer(connection):
    """Reads one answer that has a Content-Length; status 0 if the connection ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return 0, {}, None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    with contextlib.suppress(ValueError):
        return int(first.split()[1]), headers, json.loads(body)
    return int(first.split()[1]), headers, None
