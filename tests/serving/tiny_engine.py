"""Small engines, and what a request gets alone: the continuation of `loop.generate`."""

import functools
import random

import jax
import numpy as np

from t5x_like import partitioning, prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import (
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    PresencePenalty,
    RepetitionPenalty,
)
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.models import positions
from t5x_like.quantization import cache, weights
from t5x_like.serving.engine import Engine, make_key
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings
from tests import tiny

VOCABULARY = ByteVocabulary()
MODELS = {
    "rope": lambda: tiny.decoder(),
    "scanned": lambda: tiny.decoder(scan=True),
    "learned": lambda: tiny.decoder(position=positions.Learned(256, table_init=jax.nn.initializers.normal(1.0))),
    "relative": lambda: tiny.decoder(position=positions.RelativeBias(tiny.HEADS)),
    "alibi": lambda: tiny.decoder(position=positions.Alibi(tiny.HEADS)),
    "experts": lambda: tiny.decoder(experts=True),
    "encoder-decoder": lambda: tiny.encoder_decoder(position=positions.RelativeBias(tiny.HEADS)),
    "scanned encoder-decoder": lambda: tiny.encoder_decoder(scan=True),
}
LENGTHS = [1, 16, 17, 40, 70, 9]
SAMPLED = {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "min_p": 0.01}


INT8 = {"quantization": "int8", "kv_cache_dtype": "int8"}


@functools.cache
def build(name):
    """(model, parameters); of "int8 NAME" both are quantized."""
    model = MODELS[name.removeprefix("int8 ")]()
    params = tiny.init(model, tiny.batch(sides=model.sides))
    return (cache.quantize(model), weights.quantize(model, params)) if name.startswith("int8 ") else (model, params)


def make_engine(name="rope", mesh=None, **options):
    """A small engine on one device, which compiles few programs."""
    mesh = mesh or partitioning.make_mesh(devices=jax.devices()[:1])
    sizes = {"max_length": 200, "max_rows": 4, "chunk": 16, "kept_rows": 2}
    return Engine(*build(name), VOCABULARY, Options(**sizes | options), mesh)


def make_prompts(seed=0, lengths=LENGTHS):
    draw = random.Random(seed)
    return [draw.choices(range(3, tiny.VOCAB), k=length) for length in lengths]


def shared_prompts(seed=0, count=12):
    """Prompts that begin alike: the same 40 tokens, then others; some are another's beginning, or the same."""
    draw = random.Random(seed)
    common = draw.choices(range(3, tiny.VOCAB), k=40)
    return [
        common[: draw.choice([20, 40, 40])] + draw.choices(range(3, tiny.VOCAB), k=draw.randint(0, 30))
        for _ in range(count)
    ]


@functools.cache
def reference_program(name, settings, prefix):
    model, _ = build(name)
    sampler = Greedy()
    if settings.temperature:
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        sampler = Sample(*(getattr(settings, name) for name in names))
    processors = [
        RepetitionPenalty(settings.repetition_penalty),
        FrequencyPenalty(settings.frequency_penalty),
        PresencePenalty(settings.presence_penalty),
        *([LogitBias(dict(settings.logit_bias))] if settings.logit_bias else []),
        MinNewTokens(settings.min_new_tokens),
    ]
    stops = VOCABULARY.stop_ids if settings.stop_ids else ()
    most = settings.max_new_tokens
    return jax.jit(lambda p, b, k: generate(model, p, b, k, sampler, most, stops, processors))


class Hashable(Settings):
    """Settings by which programs are cached."""

    __hash__ = object.__hash__


def alone(name, prompts, settings, keys, prefix=False):
    """(tokens, log-probabilities) of every prompt, by `loop.generate`."""
    model, params = build(name)
    batch = prompt_batches.make_prompt_batch(VOCABULARY, model.encoder_decoder, prefix, prompts)
    found = jax.device_get(reference_program(name, settings, prefix)(params, batch, np.stack(keys)))
    rows = zip(found.tokens_BN, found.log_probs_BN, found.lengths_B, strict=True)
    return [(tokens_N[:n].tolist(), log_probs_N[:n].tolist()) for tokens_N, log_probs_N, n in rows]


def check(completions, expected):
    for completion, (tokens, log_probs) in zip(completions, expected, strict=True):
        assert completion.error is None
        assert completion.ids == tokens
        np.testing.assert_allclose([token.log_prob for token in completion.tokens], log_probs, atol=2e-4)
        ended = tokens[-1] in VOCABULARY.stop_ids
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.text == VOCABULARY.decode(tokens)


def check_generate(name, prompts, settings, **options):
    with make_engine(name, **options) as engine:
        found = [completions[0] for completions in engine.generate(prompts, settings)]
        assert set(engine.scheduler.programs.traced.values()) == {1}
    keys = [make_key(settings.seed, i) for i in range(len(prompts))]
    check(found, alone(name, prompts, settings, keys, options.get("prefix", False)))
    return found
