"""Requests that are malformed, too many, too large or too slow, and clients that go or do not read."""

import contextlib
import socket
import threading
import time

import httpx
import openai
import pytest

from t5x_like.serving.http.limits import Limits, Rates
from t5x_like.serving.http.server import Server
from t5x_like.serving.http.service import Service
from t5x_like.serving.requests import Delta
from tests.serving import scripted
from tests.serving.http import servers
from tests.serving.http.servers import MODEL, ask, post

COMPLETION = {"model": MODEL, "prompt": "x"}
STREAM = COMPLETION | {"stream": True, "max_tokens": 200}


@pytest.fixture(scope="module")
def server():
    with servers.serve(limits=Limits(body_bytes=10_000, body_seconds=0.5, head_seconds=0.5, idle_seconds=1)) as server:
        yield server


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "body, code",
    [
        (b'{"model": "scripted", "prompt": "\xff"}', "invalid_json"),
        (b'{"model": "scripted", "prompt": "\\ud800"}', "invalid_json"),
        (b'{"model": "scripted", "prompt": "x"', "invalid_json"),
        (b"", "invalid_json"),
        (b"[" * 5000, "invalid_json"),
        (b"[]", "invalid_value"),
        (b"3", "invalid_value"),
        (b'{"model": "scripted", "prompt": "x", "temperature": NaN}', "invalid_value"),
        (b'{"model": "scripted", "prompt": "x", "temperature": 1e999}', "invalid_value"),
        (b'{"model": "scripted", "prompt": "x", "seed": ' + b"9" * 900 + b"}", "invalid_value"),
        (b'{"prompt": "x"}', "invalid_value"),
    ],
    ids=lambda value: "",
)
def test_bodies_that_are_no_requests(server, body, code):
    status, _, content = ask(server, post("/v1/completions", body))
    assert (status, content["error"]["code"]) == (400, code)
    assert content["error"]["type"] == "invalid_request_error" and content["error"]["message"]


def test_wrong_urls_methods_types_and_hosts(server):
    good = post("/v1/completions", COMPLETION)
    for request, expected in [
        (good, 200),
        (good.replace(b"/v1/completions", b"/v1/answers"), 404),
        (good.replace(b"/v1/completions", b"/%00/../x"), 404),
        (b"GET /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://example.com\r\n\r\n", 405),
        (b"GET /v1/models/other HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (good.replace(b"application/json", b"text/plain"), 415),
        (good.replace(b"\r\nContent-Length", b"\r\nContent-Encoding: gzip\r\nContent-Length"), 415),
        (good.replace(b"Host: localhost", b"Host: example.com:8000"), 403),
        (good.replace(b"Host: localhost", b"Host: 127.0.0.1:8000"), 200),
        (good.replace(b"Host: localhost", b"Host: [::1]:8000"), 200),
        (b"nonsense\r\n\r\n", 400),
        (good.replace(b"Host", b"X: " + b"x" * 900_000 + b"\r\nHost"), 400),
    ]:
        status, headers, _ = ask(server, request)
        assert status == expected, request[:60]
        assert not any(name.startswith("access-control") for name in headers)


def test_a_body_that_is_too_large_is_refused_and_the_refusal_arrives(server):
    status, _, content = ask(server, post("/v1/completions", COMPLETION | {"prompt": "x" * 30_000}))
    assert (status, content["error"]["code"]) == (413, "request_too_large")
    head = post("/v1/completions", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert ask(server, head + b"7530\r\n" + b" " * 0x7530 + b"\r\n0\r\n\r\n")[0] == 413


def test_a_body_that_does_not_arrive_times_out(server):
    request = post("/v1/completions", COMPLETION)
    status, headers, content = ask(server, request[:-5])
    assert (status, content["error"]["code"], headers["connection"]) == (408, "timeout", "close")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"])
def test_connections_without_a_request_are_closed(server, sent):
    with servers.connect(server) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
        assert time.monotonic() - started < 5


def test_an_idle_connection_serves_several_requests_and_is_closed(server):
    with servers.connect(server) as connection:
        for _ in range(3):
            connection.sendall(post("/v1/completions", COMPLETION))
            assert servers.read_answer(connection)[0] == 200
        assert connection.recv(1000) == b""


def test_a_client_that_goes_ends_its_request():
    engine = scripted.ScriptedEngine(tick=0.02)
    with servers.serve(engine) as server:
        for number, body in enumerate([STREAM, COMPLETION | {"max_tokens": 200, "n": 3}]):
            with servers.connect(server) as connection:
                connection.sendall(post("/v1/completions", body))
                wait_until(lambda number=number: len(engine.running) == [1, 3][number])
            wait_until(lambda: not engine.running)
            assert engine.submitted[-1].finish_reason == "cancelled"
        wait_until(lambda: server.service.active == 0)


class Flood(scripted.ScriptedEngine):
    """Its completions are long, and never end."""

    def __init__(self):
        super().__init__(lambda ids, settings: "x" * 100, tick=0.0001, max_length=10**6)

    def submit(self, prompt, settings, on_delta=None):
        ticket = super().submit(prompt, settings, on_delta)
        ticket.tokens = Endless()
        return ticket


class Endless(list):
    def __bool__(self):
        return True

    def pop(self, index):
        return 70


def test_a_client_that_does_not_read_is_dropped():
    engine = Flood()
    with servers.serve(engine, Limits(send_seconds=0.5)) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(post("/v1/completions", STREAM | {"max_tokens": 900_000, "logprobs": 20}))
        wait_until(lambda: engine.submitted and engine.submitted[-1].done.is_set(), 30)
        assert engine.submitted[-1].finish_reason == "cancelled"
        wait_until(lambda: server.service.active == 0)
        # Who reads the rest cannot take it for a whole answer.
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(10**6):
                received += part
        assert b"[DONE]" not in received and not received.endswith(b"0\r\n\r\n")


def test_a_client_that_does_not_read_a_whole_answer_is_dropped():
    engine = scripted.ScriptedEngine(max_length=10**6)
    with servers.serve(engine, Limits(idle_seconds=1)) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = COMPLETION | {"prompt": "x" * 200_000, "echo": True, "n": 50, "max_tokens": 1}
        connection.sendall(post("/v1/completions", body))
        wait_until(lambda: server.uvicorn.server_state.total_requests == 1 and server.service.active == 0, 30)
        wait_until(lambda: not server.uvicorn.server_state.connections)  # the client has not closed its own


def test_a_full_queue_answers_429_with_a_time():
    engine = scripted.ScriptedEngine(tick=0.05, slots=1, max_waiting=1)
    with servers.serve(engine) as server, servers.client(server) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model=MODEL, prompt=["a", "b", "c", "d"], max_tokens=5)
        assert caught.value.code == "queue_full" and int(caught.value.response.headers["retry-after"]) >= 3
        wait_until(lambda: not engine.running and not engine.waiting)  # all of its completions are cancelled
        assert client.completions.create(model=MODEL, prompt="a", max_tokens=2).usage.completion_tokens == 2


def test_more_requests_than_the_limit_are_refused():
    engine = scripted.ScriptedEngine(tick=0.05)
    with servers.serve(engine, Limits(requests=1)) as server, servers.client(server) as client:
        with client.completions.create(model=MODEL, prompt="a", max_tokens=200, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model=MODEL, prompt="a")
        assert caught.value.code == "too_many_requests" and "retry-after" in caught.value.response.headers
        wait_until(lambda: server.service.active == 0)


def test_rates_fill_up_evenly():
    rates = Rates(60)
    for _ in range(60):
        rates.spend("a", now=0.0)
    for client, now, allowed in [
        ("a", 0.5, False),
        ("b", 0.5, True),
        ("a", 1.25, True),
        ("a", 1.5, False),
        ("a", 2.5, True),
    ]:
        if allowed:
            rates.spend(client, now)
        else:
            with pytest.raises(Exception, match="60 requests per minute") as caught:
                rates.spend(client, now)
            assert caught.value.status == 429 and caught.value.headers["retry-after"] == "1"


def test_a_client_has_a_rate():
    with servers.serve(limits=Limits(per_minute=2)) as server:
        answers = [ask(server, post("/v1/completions", COMPLETION)) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1][1]["retry-after"]) <= 31


def test_an_answer_that_takes_too_long_is_cancelled():
    engine = scripted.ScriptedEngine(tick=0.05)
    with servers.serve(engine, Limits(request_seconds=0.3)) as server, servers.client(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model=MODEL, prompt="a", max_tokens=200)
        assert caught.value.status_code == 504 and caught.value.code == "timeout"
        with pytest.raises(openai.APIError, match="takes longer"):
            list(client.completions.create(model=MODEL, prompt="a", max_tokens=200, stream=True))
        wait_until(lambda: not engine.running)


class Failing(scripted.ScriptedEngine):
    """Fails after some tokens."""

    def submit(self, prompt, settings, on_delta=None):
        ticket = super().submit(prompt, settings, on_delta)
        step, ticket.step = ticket.step, lambda: step() if len(ticket.made) < 3 else ticket.give(failed)
        failed = Delta(finish_reason="error", error="the logits are NaN")
        return ticket


def test_a_failure_of_the_engine_is_the_servers():
    with servers.serve(Failing(tick=0.001)) as server, servers.client(server) as client:
        with pytest.raises(openai.InternalServerError, match="the logits are NaN"):
            client.completions.create(model=MODEL, prompt="a")
        with pytest.raises(openai.APIError, match="the logits are NaN"):
            list(client.completions.create(model=MODEL, prompt="a", stream=True))


class Broken(scripted.ScriptedEngine):
    """Has a defect."""

    def submit(self, prompt, settings, on_delta=None):
        raise KeyError("secret")


def test_a_defect_is_an_answer_that_tells_nothing(caplog):
    with servers.serve(Broken()) as server:
        status, _, content = ask(server, post("/v1/completions", COMPLETION))
    assert status == 500 and content["error"]["code"] == "internal_error" and "secret" not in str(content)
    assert "KeyError" in caplog.text


def test_metrics_count_requests_and_the_engine(server):
    ask(server, post("/v1/completions", COMPLETION))
    ask(server, post("/v1/completions", b"?"))
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['t5x_like_http_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(values['t5x_like_http_requests_total{path="/v1/completions",status="400"}']) >= 1
    assert float(values["t5x_like_engine_slots"]) == 8 and float(values["t5x_like_engine_requests_total"]) >= 1


def test_a_request_while_draining_is_refused_and_accepted_ones_finish():
    engine = scripted.ScriptedEngine(tick=0.01)
    with servers.serve(engine) as server:
        results = []

        def complete(number):
            with servers.client(server) as client:
                if number % 2:
                    answer = client.completions.create(model=MODEL, prompt="x", seed=number, max_tokens=60)
                    results.append((number, answer.choices[0].text))
                else:
                    chunks = client.completions.create(model=MODEL, prompt="x", seed=number, max_tokens=60, stream=True)
                    results.append((number, "".join(chunk.choices[0].text for chunk in chunks)))

        threads = [threading.Thread(target=complete, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(engine.running) == 8)
        draining = threading.Thread(target=server.drain)
        draining.start()
        wait_until(lambda: server.service.draining)
        status, headers, content = ask(server, post("/v1/completions", COMPLETION))
        assert (status, content["error"]["code"], headers["connection"]) == (503, "draining", "close")
        health = httpx.get(f"http://127.0.0.1:{server.port}/health")
        assert (health.status_code, health.json()) == (503, {"status": "draining"})
        draining.join()
        server.stop()
        for thread in threads:
            thread.join()
        texts = {ticket.settings.seed: ticket.text for ticket in engine.submitted}
        assert dict(results) == {number: texts[number] for number in range(8)}
        assert all(ticket.finish_reason == "length" for ticket in engine.submitted)


def test_a_server_that_loads_says_so():
    server = Server(Service(MODEL, Limits()), "127.0.0.1", 0)
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    assert httpx.get(f"{url}/health").json() == {"status": "loading"}
    assert httpx.get(f"{url}/").status_code == 200 and httpx.get(f"{url}/metrics").status_code == 200
    for answer in [httpx.get(f"{url}/v1/models"), httpx.post(f"{url}/v1/completions", json=COMPLETION)]:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
    engine = scripted.ScriptedEngine()
    server.service.open(engine)
    assert httpx.get(f"{url}/health").json() == {"status": "ready"}
    assert httpx.post(f"{url}/v1/completions", json=COMPLETION).status_code == 200
    server.stop()
    engine.close()


def test_a_port_in_use_is_an_error(server):
    with pytest.raises(OSError, match="in use"):
        Server(server.service, "127.0.0.1", server.port)
