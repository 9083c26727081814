"""Many clients at once, of whom many misbehave: every answer is right, nothing is left behind, and an end loses nothing."""

import asyncio
import gc
import os
import threading
import time

from benchmarks.http_load import WEIGHTS, Load, Question
from t5x_like.serving.http.limits import Limits
from t5x_like.serving.requests import Settings
from tests.serving import scripted
from tests.serving.http import servers
from tests.serving.http.servers import HI, MODEL
from tests.serving.http.test_misuse import wait_until


def questions(engine, count=12):
    """Completions and chats with what the engine answers, half of them cut by their length."""
    vocabulary, made = engine.vocabulary, []
    for number in range(count):
        text, length = f"question {number}", 40 + 60 * (number % 3)
        options = {"model": MODEL, "seed": number, "max_tokens": length}
        for path, body, prompt in [
            ("/v1/completions", {"prompt": text}, f"<|end|>{text}"),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": text}]},
                f"<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
            ),
        ]:
            settings = Settings(max_new_tokens=length, seed=number, temperature=1.0)
            answer = vocabulary.encode(engine.script(vocabulary.encode(prompt), settings), literal=True)[:length]
            made.append(Question(path, body | options, vocabulary.decode(answer)))
    return made


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_every_answer_is_right_and_nothing_is_left():
    engine = scripted.ScriptedEngine(tick=0.002, slots=16, max_waiting=24)
    with servers.serve(engine, Limits(head_seconds=1, body_seconds=1, idle_seconds=1)) as server:
        with servers.client(server) as client:
            client.chat.completions.create(model=MODEL, messages=HI)  # starts the process that renders templates
        before = open_files()
        load = Load(server.port, questions(engine), 64)
        asyncio.run(load.run(8))
        assert not load.wrong, load.wrong[:3]
        assert {kind for kind, _ in load.outcomes} == set(WEIGHTS)
        for kind in ("whole", "stream", "slow_reader"):
            assert load.outcomes[kind, "right"] > 5, load.outcomes
        wait_until(lambda: server.service.active == 0 and not engine.running and not engine.waiting)
        wait_until(lambda: not server.uvicorn.server_state.connections and not server.uvicorn.server_state.tasks)
        gc.collect()
        assert open_files() <= before
        assert all(ticket.done.is_set() for ticket in engine.submitted)


def test_an_end_under_load_loses_no_accepted_request():
    engine = scripted.ScriptedEngine(tick=0.002, slots=16, max_waiting=64)
    with servers.serve(engine) as server:
        load = Load(server.port, questions(engine), 32, {"whole": 2, "stream": 2, "slow_reader": 1})

        def end():
            time.sleep(2)
            load.ending = True
            server.stop()

        ending = threading.Thread(target=end)
        ending.start()
        asyncio.run(load.run(3))
        ending.join()
    assert not load.wrong, load.wrong[:3]
    right = sum(count for (_, outcome), count in load.outcomes.items() if outcome == "right")
    refused = sum(count for (_, outcome), count in load.outcomes.items() if outcome == "refused")
    assert right == len(engine.submitted) > 50 and refused > 0
    assert {ticket.finish_reason for ticket in engine.submitted} == {"stop", "length"}
