"""A tiny model behind the server: what clients get together is what the engine gives each request alone."""

import asyncio
import json
import random

import jax
import numpy as np
import openai
import pytest

from benchmarks.http_load import Load, Question
from t5x_like import partitioning
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.serving.engine import Engine
from t5x_like.serving.options import Options
from t5x_like.serving.reading import TextEncoder
from t5x_like.serving.requests import Settings
from tests import tiny
from tests.serving.http import servers
from tests.serving.http.servers import MODEL
from tests.serving.http.test_misuse import wait_until

VOCABULARY = ByteVocabulary()
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "yy"]}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine():
    model = tiny.decoder(scan=True)
    model = model.clone(embed=model.embed.clone(vocab_size=VOCABULARY.vocab_size))
    with Engine(model, tiny.init(model, tiny.batch()), VOCABULARY, Options(64, 4, max_waiting=40)) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine):
    with servers.serve(engine, closes=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with servers.client(server) as client:
        yield client


def ids(text):
    return [VOCABULARY.bos, *VOCABULARY.encode(text, literal=True)]


def test_answers_are_the_engines(client, engine):
    for options, settings in [
        ({"temperature": 0}, {}),
        ({"seed": 7, "temperature": 0.8, "top_p": 0.9}, {"seed": 7, "temperature": 0.8, "top_p": 0.9}),
        ({"seed": 3, "logit_bias": {"70": 100}}, {"seed": 3, "temperature": 1.0, "logit_bias": {70: 100}}),
        ({"stop": ["C"], "temperature": 0, "logit_bias": {"70": 50}}, {"stop": ["C"], "logit_bias": {70: 50}}),
        ({"temperature": 0, "frequency_penalty": 2}, {"frequency_penalty": 2}),
    ]:
        answer = client.completions.create(model=MODEL, prompt="abc", max_tokens=12, n=2, logprobs=3, **options)
        for sample, choice in enumerate(answer.choices):
            alone = engine.submit(ids("abc"), Settings(12, sample=sample, top_log_probs=3, **settings)).result()
            assert (choice.text, choice.finish_reason) == (alone.text, alone.finish_reason)
            assert choice.logprobs.token_logprobs == [token.log_prob for token in alone.tokens]
            for token, listed in zip(alone.tokens, choice.logprobs.top_logprobs, strict=True):
                assert {value for _, value in token.top} <= set(listed.values())


def test_echoed_log_probabilities_are_those_of_generating(client):
    """What was generated greedily is scored as a prompt: it has the same log-probabilities, and is the most likely."""
    made = client.completions.create(model=MODEL, prompt=ids("abc"), max_tokens=8, temperature=0, logprobs=1)
    names = {token: index for index, token in enumerate(map(token_name, range(VOCABULARY.vocab_size)))}
    whole = [*ids("abc"), *(names[token] for token in made.choices[0].logprobs.tokens)]
    scored = client.completions.create(model=MODEL, prompt=[whole] * 2, max_tokens=0, echo=True, logprobs=1)
    for choice in scored.choices:
        tail = choice.logprobs.token_logprobs[4:]
        assert tail == pytest.approx(made.choices[0].logprobs.token_logprobs, abs=1e-4)
        assert all(
            value == max(top.values()) for value, top in zip(tail, choice.logprobs.top_logprobs[4:], strict=True)
        )


def token_name(index):
    from t5x_like.serving.http.answers import token_text

    return token_text(VOCABULARY, index)[0]


def test_grammars_are_obeyed(client):
    for seed in range(3):
        answer = client.completions.create(
            model=MODEL, prompt="x", seed=seed, max_tokens=60, extra_body={"guided_json": SCHEMA}, temperature=2
        )
        if answer.choices[0].finish_reason == "stop":
            assert json.loads(answer.choices[0].text) in ({"a": "x"}, {"a": "yy"})
        digits = client.completions.create(model=MODEL, prompt="x", seed=seed, extra_body={"guided_regex": "[0-9]{5}"})
        assert len(digits.choices[0].text) == 5 and digits.choices[0].text.isdigit()


def test_what_the_engine_refuses_is_a_bad_request(client):
    for wrong in ({"prompt": [5, 384]}, {"logit_bias": {"384": 1}}, {"extra_body": {"top_k": 385}}):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**{"model": MODEL, "prompt": "x"} | wrong)
    with pytest.raises(openai.BadRequestError, match="has .* tokens, more than"):
        client.embeddings.create(model=MODEL, input="a" * 5000)


def test_a_decoder_embeds(client, engine):
    vectors = [one.embedding for one in client.embeddings.create(model=MODEL, input=["a", "bcd"]).data]
    np.testing.assert_allclose(vectors, engine.embed(["a", "bcd"]), atol=1e-6)


def test_a_sentence_encoder_embeds_and_does_nothing_else():
    model = tiny.encoder()
    model = model.clone(embed=model.embed.clone(vocab_size=VOCABULARY.vocab_size))
    params = tiny.init(model, tiny.batch(sides=("encoder",)))
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    encoder = TextEncoder(model, params, VOCABULARY, mesh, partitioning.RULES)
    texts = ["a", "a longer text", "x" * 90]
    with servers.serve(encoder) as server, servers.client(server) as client:
        answer = client.embeddings.create(model=MODEL, input=texts)
        vectors_ND = np.array([one.embedding for one in answer.data])
        with pytest.raises(openai.BadRequestError, match="no decoder"):
            client.completions.create(model=MODEL, prompt="a")
        with pytest.raises(openai.BadRequestError, match="no decoder"):
            client.completions.create(model=MODEL, prompt="a", echo=True, logprobs=1, max_tokens=0)
        with pytest.raises(openai.BadRequestError, match="3000 tokens|3001 tokens"):
            client.embeddings.create(model=MODEL, input="x" * 3000)
    for text, x_D in zip(texts, vectors_ND, strict=True):
        row = np.array([[*VOCABULARY.encode(text, literal=True), VOCABULARY.eos]])
        batch = {"encoder_input_tokens": row, "encoder_positions": np.arange(row.size)[None]}
        batch["encoder_segment_ids"] = np.ones_like(row)
        mean_D = np.asarray(model.apply({"params": params}, batch, method="hidden"))[0].mean(axis=0)
        np.testing.assert_allclose(x_D, mean_D / np.linalg.norm(mean_D), atol=1e-5)
    assert answer.usage.prompt_tokens == sum(len(text) + 1 for text in texts)


def test_many_clients_get_what_each_gets_alone(engine, server):
    draw, questions = random.Random(0), []
    for number in range(12):
        prompt = "".join(draw.choices("abc ", k=draw.randrange(1, 30)))
        length = draw.randrange(1, 30)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": length, "seed": number, "temperature": number % 2}
        settings = Settings(length, temperature=number % 2, seed=number)
        questions.append(Question("/v1/completions", body, engine.submit(ids(prompt), settings).result().text))
    load = Load(server.port, questions, 24)
    asyncio.run(load.run(5))
    assert not load.wrong, load.wrong[:3]
    assert load.outcomes["whole", "right"] > 5 and load.outcomes["stream", "right"] > 5
    wait_until(lambda: engine.statistics()["running"] == engine.statistics()["waiting"] == server.service.active == 0)
