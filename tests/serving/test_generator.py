"""Prompts that share rows: each gets what `loop.generate` gives it alone, and the same to the last bit beside any others."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_like import partitioning, prompt_batches
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import ForcedLastToken, FrequencyPenalty, NoRepeatNGram
from t5x_like.decoding.sampling import Sample
from t5x_like.decoding.slots import Strategy
from t5x_like.serving import generator
from t5x_like.serving.engine import make_key
from t5x_like.serving.generator import Generator, Prompt
from t5x_like.serving.requests import Settings
from t5x_like.serving.scheduler import SHARED
from tests.serving.tiny_engine import VOCABULARY, build, make_prompts

NEW = 10
LENGTHS = [40, 5, 17, 1, 9, 33]
LIGHT = Strategy(Sample(1.3), [NoRepeatNGram(2)])  # compiles fast
EVERYTHING = Strategy(
    Sample(1.3, 40, 0.95, eta=0.02), [*LIGHT.processors, FrequencyPenalty(0.5), ForcedLastToken(5, NEW)]
)


def make(name="rope", strategy=LIGHT, new=NEW, **options):
    settings = Settings(max_new_tokens=new, seed=3)
    arguments = {"rows": 3, "mesh": partitioning.make_mesh(devices=jax.devices()[:1]), **options}
    return Generator(*build(name), VOCABULARY, settings, strategy, **arguments)


def run(prompts, made, numbers=None):
    """[(tokens, log-probabilities)] of every sample of every prompt."""
    numbers = range(len(prompts)) if numbers is None else numbers
    results = made([Prompt(prompts[i], i) for i in numbers])
    found = [[(one.ids, [token.log_prob for token in one.tokens]) for one in completions] for _, completions in results]
    assert set(made.programs.traced.values()) == {1}
    return found


def alone(name, prompts, strategy, new, samples=1, prefix=False):
    """The same by `loop.generate`."""
    model, params = build(name)
    batch = prompt_batches.make_prompt_batch(VOCABULARY, model.encoder_decoder, prefix, prompts)
    keys = np.stack([make_key(3, i) for i in range(len(prompts))])
    stops, choices = VOCABULARY.stop_ids, (strategy.sampler, new)
    made = jax.jit(lambda p, b, k: generate(model, p, b, k, *choices, stops, strategy.processors, samples))
    found = jax.device_get(made(params, batch, keys))
    rows = (len(prompts), samples)
    tokens, log_probs = (x.reshape(*rows, -1) for x in (found.tokens_BN, found.log_probs_BN))
    lengths = found.lengths_B.reshape(rows)
    return [
        [(tokens[i, s, :n].tolist(), log_probs[i, s, :n].tolist()) for s, n in enumerate(lengths[i])]
        for i in range(len(prompts))
    ]


def check(found, expected):
    assert [[ids for ids, _ in samples] for samples in found] == [[ids for ids, _ in one] for one in expected]
    flat = [[value for samples in side for _, values in samples for value in values] for side in (found, expected)]
    np.testing.assert_allclose(*flat, atol=2e-4)


@pytest.mark.parametrize(
    "name, strategy, samples, prefix",
    [
        ("rope", EVERYTHING, 1, False),
        ("rope", LIGHT, 3, True),
        ("encoder-decoder", LIGHT, 3, False),
    ],
)
def test_prompts_continue_as_alone_and_are_read_once_for_all_samples(name, strategy, samples, prefix):
    prompts = make_prompts(lengths=LENGTHS)
    made = make(name, strategy, samples=samples, prefix=prefix)
    check(run(prompts, made), alone(name, prompts, strategy, NEW, samples, prefix))
    again = [len(prompt) if len(prompt) <= SHARED else 1 for prompt in prompts]
    assert made.scheduler.counts["prompt_tokens_total"] == sum(LENGTHS) + (samples - 1) * sum(again)


def test_a_result_is_the_same_to_the_last_bit_beside_any_others(monkeypatch):
    """Prompts that begin alike are copied in whole chunks, in which each is read alone too. Rows have one of two sizes."""
    monkeypatch.setattr(generator, "CHUNK", 16)
    common = make_prompts(7, [36])[0]
    prompts = [common[: 36 * (i % 2)] + prompt for i, prompt in enumerate(make_prompts(lengths=LENGTHS * 2))]
    prompts += [common, common]
    made = make(samples=2)
    whole = run(prompts, made)
    assert made.scheduler.counts["cached_prompt_tokens_total"]
    for numbers in ([13], range(3, 14), [1, 3, 12]):
        assert run(prompts, made, numbers) == [whole[i] for i in numbers]


def test_rows_are_refilled_while_others_go_on():
    """One completion of 64 tokens beside 8 of a few: the rows of a static batch would wait for it four times."""
    prompts = make_prompts(lengths=[20] * 9)
    made = make(strategy=Strategy(lambda keys, logits: jax.numpy.full(len(logits), 5)), new=64)
    steps = []
    decode = made.programs.decode
    made.programs.decode = lambda live_B, *rest: steps.append(int(live_B.sum())) or decode(live_B, *rest)
    jobs = [made.make_job(Prompt(ids, i)) for i, ids in enumerate(prompts)]
    for job, most in zip(jobs, [64] + [8] * 8, strict=True):
        job.works[0].settings = dataclasses.replace(made.settings, max_new_tokens=most)
    while left := [job for job in jobs if not job.is_done]:
        made.advance(left)
    assert [len(job.works[0].tokens) for job in jobs] == [64] + [8] * 8
    assert steps == [3] * 4 + [1] * 4
