"""The HTTP server: what it costs beside the engine alone, and clients of whom many misbehave. Random weights, bytes as tokens.

64 clients ask 2 requests each, one after the other: of the engine in its process, and of the server for whole answers and for
streams from a process of their own, on the same cores; in turns. Then 64 clients ask a narrow model for a minute, of whom many
go, do not read, or send what is no request, and a SIGTERM ends the server under that load. Every answer must be the one that the
request gets alone, nothing may be left open, and every request that the engine finished must be answered.
"""

import argparse
import asyncio
import concurrent.futures
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import http_load
import jax
import train_step
from flax import linen as nn
from hand_written import random_batch

import report
from t5x_like import interrupts
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.serving.engine import Engine
from t5x_like.serving.http.limits import Limits
from t5x_like.serving.http.server import Server
from t5x_like.serving.http.service import Service
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings

CLIENTS, REQUESTS, PROMPT, NEW = 64, 2, 64, 64
TOKENS = CLIENTS * REQUESTS * NEW
MODEL, PATH = "random", "/v1/completions"
VOCABULARY = ByteVocabulary()
SIZES = {"20M": train_step.SIZES["20M"], "narrow": train_step.Size(width=64, layers=2, heads=1, mlp_dim=128)}
LIMITS = Limits(head_seconds=2, body_seconds=2, idle_seconds=2)


def build_engine(size: str, **options) -> Engine:
    """An engine of random weights."""
    model = train_step.build_model(SIZES[size])
    model = model.clone(embed=model.embed.clone(vocab_size=VOCABULARY.vocab_size))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), random_batch(1, 8))["params"])
    return Engine(model, params, VOCABULARY, Options(max_length=512, **options))


def serve(engine: Engine) -> Server:
    """A server of an engine."""
    server = Server(Service(MODEL, LIMITS), "127.0.0.1", 0)
    server.start()
    server.service.open(engine)
    return server


def request(number: int, stream: bool) -> dict:
    """A greedy request of PROMPT and NEW tokens."""
    prompt = f"request {number} ".ljust(PROMPT, "x")
    body = {"model": MODEL, "prompt": prompt, "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
    return body | ({"stream": True} if stream else {})


async def ask_all(port: int, stream: bool) -> int:
    """Asks as CLIENTS clients; returns the bytes of the answers."""

    async def ask(client: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        size = 0
        for number in range(client, CLIENTS * REQUESTS, CLIENTS):
            writer.write(http_load.request(PATH, request(number, stream)))
            status, headers = await http_load.read_head(reader)
            assert status == 200, status
            size += len(await http_load.read_body(reader, headers))
        writer.close()
        return size

    return sum(await asyncio.gather(*map(ask, range(CLIENTS))))


def ask_engine(engine: Engine) -> None:
    """Asks the engine as CLIENTS clients, in threads."""

    def ask(client: int) -> None:
        for number in range(client, CLIENTS * REQUESTS, CLIENTS):
            ids = VOCABULARY.encode(request(number, False)["prompt"], literal=True)
            ticket = engine.submit([VOCABULARY.bos, *ids], Settings(max_new_tokens=NEW, stop_ids=False))
            assert len(ticket.result().tokens) == NEW

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(CLIENTS)))


def run_client() -> None:
    """The process of the clients: a line "PORT STREAM" asks all requests, and is answered by a line."""
    for line in sys.stdin:
        port, stream = map(int, line.split())
        print(asyncio.run(ask_all(port, bool(stream))), flush=True)


def measure_cost(rounds: int) -> dict[str, float]:
    """Tokens per second of the engine alone, and of the server with whole answers and with streams."""
    engine = build_engine("20M", max_rows=CLIENTS)
    server = serve(engine)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    client = subprocess.Popen([sys.executable, __file__, "--client"], **pipes)

    def over_http(stream: int) -> None:
        client.stdin.write(f"{server.port} {stream}\n")
        client.stdin.flush()
        assert int(client.stdout.readline()) > TOKENS / 2

    sides = {
        "engine alone": lambda: ask_engine(engine),
        "whole answers": lambda: over_http(0),
        "streams": lambda: over_http(1),
    }
    seconds = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            sides[name]()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - started)
    client.stdin.close()
    client.wait()
    server.stop()
    engine.close()
    rates = {name: TOKENS / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:>14}: {rate:7.0f} tokens per second ({rate / rates['engine alone']:.3f} of the engine alone)")
    return rates


def run_server() -> int:
    """The process of the server of a narrow model: prints its port, and ends as `t5x_like serve` does."""
    engine = build_engine("narrow", max_rows=16, max_waiting=40)
    server = serve(engine)
    with interrupts.postpone() as signalled:
        print(server.port, flush=True)
        while not signalled.number:
            time.sleep(0.05)
        server.stop()
        engine.close()
    print(finished(engine.statistics()), flush=True)
    return 0


def finished(numbers: Mapping[str, float], prefix: str = "") -> int:
    """How many requests the engine has finished by its statistics."""
    return int(sum(numbers.get(f"{prefix}requests_{reason}_total", 0) for reason in ("stop", "length")))


def read_metrics(port: int) -> dict[str, float]:
    """The metrics of a server that have no labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def questions(port: int) -> list[http_load.Question]:
    """Greedy and sampled requests of several lengths, with the answers that they get alone."""
    made = []
    for number in range(24):
        body = {"model": MODEL, "prompt": f"question {number}", "max_tokens": 16 + 32 * (number % 4), "seed": number}
        body["temperature"] = number % 2
        made.append(http_load.Question(PATH, body, asyncio.run(answer(port, body))))
    return made


async def answer(port: int, body: dict) -> str:
    """The answer to a request that comes alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(http_load.request(PATH, body))
    _, headers = await http_load.read_head(reader)
    text = await http_load.read_text(reader, headers, 0)
    writer.close()
    return text


def state(process: subprocess.Popen) -> dict[str, float]:
    """Memory, files and threads of a process."""
    folder = Path(f"/proc/{process.pid}")
    pages = int((folder / "statm").read_text().split()[1])
    files = len(os.listdir(folder / "fd"))
    return {
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "files": files,
        "threads": len(os.listdir(folder / "task")),
    }


def run_load(seconds: float) -> dict[str, dict[str, float]]:
    """A minute of clients, what it leaves, and an end under load."""
    process = subprocess.Popen([sys.executable, __file__, "--server"], stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline())
    asked = questions(port)
    warm = http_load.Load(port, asked, CLIENTS, seed=1)
    asyncio.run(warm.run(seconds / 4))  # compiles what is compiled, and grows what grows once
    time.sleep(4)
    states = {"before": state(process)}
    load = http_load.Load(port, asked, CLIENTS)
    asyncio.run(load.run(seconds))
    time.sleep(4)  # connections without a request end
    states["after"] = state(process)
    for name, values in states.items():
        print(f"{name:>7}: " + ", ".join(f"{value:.0f} {unit}" for unit, value in values.items()))
    for (kind, outcome), count in sorted(load.outcomes.items()):
        print(f"{kind:>17} {outcome}: {count}")
    end = end_under_load(process, port, asked)
    wrong = [*warm.wrong, *load.wrong, *end.wrong]
    assert not wrong, wrong[:5]
    assert states["after"]["files"] <= states["before"]["files"] + 2, states
    assert states["after"]["threads"] <= states["before"]["threads"], states
    return states


def end_under_load(process: subprocess.Popen, port: int, asked: list[http_load.Question]) -> http_load.Load:
    """Clients that behave, while SIGTERM ends the server: every request that it accepted is answered."""
    load = http_load.Load(port, asked, CLIENTS, {"whole": 2, "stream": 2, "slow_reader": 1}, seed=2)
    before = finished(read_metrics(port), "t5x_like_engine_")

    async def run() -> None:
        running = asyncio.create_task(load.run(4))
        await asyncio.sleep(2)
        load.ending = True
        process.send_signal(signal.SIGTERM)
        await running

    asyncio.run(run())
    assert process.wait(60) == 0
    made = int(process.stdout.read()) - before
    right = sum(count for (_, outcome), count in load.outcomes.items() if outcome == "right")
    refused = sum(count for (_, outcome), count in load.outcomes.items() if outcome == "refused")
    print(f"SIGTERM under load: {right} answers to the {made} requests that were accepted, {refused} were refused")
    assert right == made
    return load


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of the load")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        return run_client()
    if args.server:
        sys.exit(run_server())
    print(f"{report.describe_machine()}; {CLIENTS} clients, {PROMPT} + {NEW} tokens, 20M decoder")
    rates = measure_cost(args.rounds)
    states = run_load(args.seconds)
    print(json.dumps({"tokens_per_second": rates, "load": states}))


if __name__ == "__main__":
    main()
