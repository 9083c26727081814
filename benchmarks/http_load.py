"""Clients of a server that ask all at once, and of whom many misbehave: they go, do not read, or send what is no request."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import random
from collections.abc import Mapping, Sequence

# How often a client does each thing.
WEIGHTS = {
    "whole": 6,
    "stream": 6,
    "slow_reader": 1,
    "leaves_early": 2,
    "leaves_stream": 3,
    "oversized_prompt": 1,
    "bad_json": 1,
    "bad_utf8": 1,
    "unknown_field": 1,
    "half_head": 1,
    "half_body": 1,
}


@dataclasses.dataclass(frozen=True)
class Question:
    """A request to a path, and the text that the engine answers alone."""

    path: str
    body: dict
    answer: str


@dataclasses.dataclass
class Load:
    """The clients of a server; `outcomes` counts what came of their requests by kind, `wrong` says what should not have come.

    After `ending` is set, connections may be refused, ended before an answer, or answered 503; that no accepted request is lost
    then is seen by comparing the right answers with the completions that the engine made.
    """

    port: int
    questions: Sequence[Question]
    clients: int
    weights: Mapping[str, int] = dataclasses.field(default_factory=lambda: WEIGHTS)
    seed: int = 0
    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    ended: bool = False
    ending: bool = False

    async def run(self, seconds: float) -> None:
        """Runs the clients for some time; each finishes what it has begun."""
        clients = [asyncio.create_task(self.client(random.Random(self.seed + i))) for i in range(self.clients)]
        await asyncio.sleep(seconds)
        self.ended = True
        await asyncio.gather(*clients)

    async def client(self, draw: random.Random) -> None:
        """One client."""
        while not self.ended:
            kind = draw.choices(list(self.weights), list(self.weights.values()))[0]
            question = draw.choice(self.questions)
            outcome = await self.attempt(kind, question, draw)
            self.outcomes[kind, outcome] += 1
            if outcome in ("busy", "refused"):
                await asyncio.sleep(draw.uniform(0.01, 0.1))

    async def attempt(self, kind: str, question: Question, draw: random.Random) -> str:
        """What came of a request."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return self.refuse(kind, "no connection")
        try:
            async with asyncio.timeout(60):
                return await getattr(self, kind)(reader, writer, question, draw)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            return self.refuse(kind, repr(error))
        except TimeoutError:
            return self.fail(kind, "no answer in 60 s")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def fail(self, kind: str, message: str) -> str:
        """Notes what should not have come."""
        self.wrong.append(f"{kind}: {message}")
        return "wrong"

    def refuse(self, kind: str, message: str) -> str:
        """Notes a request that was not answered, which may be so once the server ends."""
        return "refused" if self.ending else self.fail(kind, message)

    async def ask(self, reader, writer, question: Question, stream: bool) -> tuple[int, dict]:
        """Sends a question; returns the status and the headers of the answer."""
        writer.write(request(question.path, question.body | {"stream": stream}))
        await writer.drain()
        return await read_head(reader)

    async def compare(self, kind: str, reader, writer, question: Question, stream: bool, pause: float = 0.0) -> str:
        """Asks a question and compares the answer."""
        status, headers = await self.ask(reader, writer, question, stream)
        if status == 200:
            text = await read_text(reader, headers, pause)
            return "right" if text == question.answer else self.fail(kind, f"{text!r}, not {question.answer!r}")
        if status == 429 and "retry-after" in headers:
            return "busy"
        return self.refuse(kind, f"status {status}") if status == 503 else self.fail(kind, f"status {status}")

    async def whole(self, reader, writer, question, draw) -> str:
        return await self.compare("whole", reader, writer, question, False)

    async def stream(self, reader, writer, question, draw) -> str:
        return await self.compare("stream", reader, writer, question, True)

    async def slow_reader(self, reader, writer, question, draw) -> str:
        return await self.compare("slow_reader", reader, writer, question, True, pause=draw.uniform(0, 0.05))

    async def leaves_early(self, reader, writer, question, draw) -> str:
        writer.write(request(question.path, question.body))
        await asyncio.sleep(draw.uniform(0, 0.3))
        writer.transport.abort()
        return "left"

    async def leaves_stream(self, reader, writer, question, draw) -> str:
        await self.ask(reader, writer, question, True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(draw.uniform(0, 0.3)):
                await reader.read(draw.randrange(1, 4000))
        return "left"

    async def expect(self, kind: str, reader, writer, data: bytes, expected: int) -> str:
        """Sends bytes; the answer must have the status `expected`."""
        writer.write(data)
        await writer.drain()
        status, headers = await read_head(reader)
        content = json.loads(await read_body(reader, headers))
        if status == expected and content["error"]["message"]:
            return "refused rightly"
        if status == 429:
            return "busy"
        return self.refuse(kind, f"status {status}") if status == 503 else self.fail(kind, f"status {status}")

    async def oversized_prompt(self, reader, writer, question, draw) -> str:
        body = {"model": question.body["model"], "prompt": "x " * 50_000}
        return await self.expect("oversized_prompt", reader, writer, request("/v1/completions", body), 400)

    async def bad_json(self, reader, writer, question, draw) -> str:
        data = json.dumps(question.body).encode()
        cut = data[: draw.randrange(len(data) - 1)]
        return await self.expect("bad_json", reader, writer, request(question.path, cut), 400)

    async def bad_utf8(self, reader, writer, question, draw) -> str:
        data = json.dumps(question.body).encode().replace(b'"', b'"\xff', 1)
        return await self.expect("bad_utf8", reader, writer, request(question.path, data), 400)

    async def unknown_field(self, reader, writer, question, draw) -> str:
        data = request(question.path, question.body | {"temprature": 1})
        return await self.expect("unknown_field", reader, writer, data, 400)

    async def half_head(self, reader, writer, question, draw) -> str:
        return await self.half(reader, writer, request(question.path, question.body)[: draw.randrange(60)], draw)

    async def half_body(self, reader, writer, question, draw) -> str:
        return await self.half(reader, writer, request(question.path, question.body)[:-10], draw)

    async def half(self, reader, writer, data: bytes, draw) -> str:
        """Sends a part of a request, and waits for the server to end the connection, or goes before."""
        writer.write(data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(draw.uniform(0, 3)):
                await reader.read(100)
        return "left"


def request(path: str, body: dict | bytes) -> bytes:
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str], pause: float = 0.0) -> bytes:
    """The body of an answer, read with pauses between chunks."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
        await asyncio.sleep(pause)
    return body


async def read_text(reader: asyncio.StreamReader, headers: dict[str, str], pause: float) -> str:
    """The text of a completion or chat, streamed or not; a stream that is not whole is an error."""
    body = (await read_body(reader, headers, pause)).decode()
    if "content-length" in headers:
        (choice,) = json.loads(body)["choices"]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    events = [event.removeprefix("data: ") for event in body.split("\n\n")[:-1]]
    if events[-1] != "[DONE]":
        raise ConnectionError(f"the stream ended with {events[-1]!r}")
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)
