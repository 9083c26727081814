"""Changed bodies of requests to the server: each is answered, or refused as a mistake of the client in OpenAI's format."""

import json

import httpx
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from tests.fuzz import mutations
from tests.serving import scripted
from tests.serving.http import servers
from tests.serving.http.servers import MODEL

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
FUNCTION = {"name": "add", "description": "adds", "parameters": SCHEMA, "strict": True}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SAMPLER = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 1, "stop": ["x"], "logit_bias": {"5": 1}}
BODIES = {
    "/v1/completions": [
        {"model": MODEL, "prompt": "x", "max_tokens": 4, "n": 2, "logprobs": 1, "echo": True, **SAMPLER},
        {"model": MODEL, "prompt": [[1, 2], [3]], "max_tokens": 2, "stream": True, "guided_regex": "[ab]+"},
        {"model": MODEL, "prompt": "x", "guided_json": SCHEMA, "stream_options": None, "min_tokens": 1},
        {"model": MODEL, "prompt": "x", "guided_grammar": 'start: "a" | "b" start', "guided_choice": None},
    ],
    "/v1/chat/completions": [
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "2", "tool_call_id": "c"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "required",
            "max_tokens": 4,
        },
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "a"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            "logprobs": True,
            "top_logprobs": 2,
            "stream": False,
        },
    ],
    "/v1/embeddings": [{"model": MODEL, "input": ["a", "b"], "encoding_format": "float"}],
    "/tokenize": [{"prompt": "a", "add_special_tokens": False}],
    "/detokenize": [{"tokens": [1, 2, 70]}],
}
CASES = [(path, body) for path, bodies in BODIES.items() for body in bodies]


@pytest.fixture(scope="module")
def client():
    with servers.serve(scripted.ScriptedEngine(max_length=1024)) as server, httpx.Client(timeout=30) as client:
        client.base_url = f"http://127.0.0.1:{server.port}"
        yield client


def check(client, path, body):
    """Sends a body; returns the status."""
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (answer.status_code, body[:300])
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and error["type"]
    elif "text/event-stream" in answer.headers["content-type"]:
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        answer.json()
    return answer.status_code


@pytest.mark.parametrize("path, body", CASES)
def test_the_bodies_themselves_are_answered(client, path, body):
    assert check(client, path, json.dumps(body).encode()) == 200


@given(st.sampled_from(CASES).flatmap(lambda case: st.tuples(st.just(case[0]), mutations.json_like(case[1]))))
def test_changed_values_are_mistakes_of_the_client(client, case):
    path, value = case
    try:
        body = json.dumps(value).encode()
    except ValueError:  # a value that contains itself
        reject()
    check(client, path, body)


@given(
    st.sampled_from(CASES).flatmap(
        lambda case: st.tuples(st.just(case[0]), mutations.bytes_like(json.dumps(case[1]).encode()))
    )
)
def test_changed_bytes_are_mistakes_of_the_client(client, case):
    check(client, *case)
