"""Cached generation equals a full forward pass per token, independently of the rest of the batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import ForcedTokens, FrequencyPenalty, MinNewTokens, NoRepeatNGram
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.models import positions
from tests import tiny

POSITIONS = {
    "learned": lambda: positions.Learned(64, table_init=jax.nn.initializers.normal(1.0)),
    "sinusoidal": positions.Sinusoidal,
    "rope": lambda: positions.Rope(tiny.HEAD_DIM),
    "relative": lambda: positions.RelativeBias(tiny.HEADS),
    "alibi": lambda: positions.Alibi(tiny.HEADS),
}
VOCABULARY = ByteVocabulary()
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
NEW = 6


def decode(model, params, prompts, sampler=Greedy(), new=NEW, prefix=False, seed=0, numbers=None, processors=()):
    batch = prompt_batches.decoder_batch([[0, *prompt] for prompt in prompts], prefix)
    batch = {name: x[:, : 1 + max(map(len, prompts))] for name, x in batch.items()}  # the minimal length
    return run(model, params, batch, len(prompts), sampler, new, seed, numbers, processors)


def run(model, params, batch, count, sampler, new, seed=0, numbers=None, processors=()):
    numbers = np.arange(count) if numbers is None else np.asarray(numbers)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(seed), numbers)
    generated = jax.jit(lambda p, b, k: generate(model, p, b, k, sampler, new, (1,), processors))(params, batch, keys)
    return jax.device_get(generated)


def generate_without_cache(
    model, params, prompt, new=NEW, prefix=False, encoder=None, process=lambda logits, *_: logits
):
    """Returns greedy tokens and log-probabilities; runs the whole sequence for each token, without a cache.

    `process` gets logits [V], the tokens so far, and how many of them were generated.
    """
    tokens, log_probs = [0, *prompt], []
    forward = jax.jit(lambda b: model.apply({"params": params}, b))
    for _ in range(new):
        padded = prompt_batches.pad_rows([tokens], 1 + len(prompt) + new, "decoder")  # one shape, compiled once
        if prefix:
            padded["decoder_prefix"] = (np.arange(padded["decoder_positions"].shape[1]) <= len(prompt))[None].astype(
                np.int32
            )
        logits = forward(padded | (encoder or {}))[0, len(tokens) - 1]
        tokens.append(int(np.argmax(process(np.asarray(logits), tokens, len(tokens) - 1 - len(prompt)))))
        log_probs.append(float(jax.nn.log_softmax(logits)[tokens[-1]]))
        if tokens[-1] == 1:
            break
    return tokens[1 + len(prompt) :], log_probs


def check(generated, row, expected):
    tokens, log_probs = expected
    assert generated.tokens_BN[row, : generated.lengths_B[row]].tolist() == tokens
    np.testing.assert_allclose(generated.log_probs_BN[row, : len(log_probs)], log_probs, atol=1e-4)
    assert not generated.tokens_BN[row, generated.lengths_B[row] :].any()


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_ragged_prompts_match_generation_without_a_cache(position, scan):
    model = tiny.decoder(position=POSITIONS[position](), scan=scan)
    params = tiny.init(model, tiny.batch())
    generated = decode(model, params, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        check(generated, row, generate_without_cache(model, params, prompt))


def test_experts_and_prefixes_match_generation_without_a_cache():
    model = tiny.decoder(experts=True)
    params = tiny.init(model, tiny.batch())
    generated, with_prefix = decode(model, params, PROMPTS), decode(model, params, PROMPTS, prefix=True)
    for row, prompt in enumerate(PROMPTS):
        check(generated, row, generate_without_cache(model, params, prompt))
        check(with_prefix, row, generate_without_cache(model, params, prompt, prefix=True))
    assert not np.array_equal(generated.log_probs_BN, with_prefix.log_probs_BN)


def test_encoder_decoders_match_generation_without_a_cache():
    model = tiny.encoder_decoder(position=None)
    params = tiny.init(model, tiny.batch(sides=("encoder", "decoder")))
    generated = run(model, params, prompt_batches.encoder_batch(PROMPTS, VOCABULARY), 3, Greedy(), NEW)
    for row, prompt in enumerate(PROMPTS):
        encoder = {
            k: x for k, x in prompt_batches.encoder_batch([prompt], VOCABULARY).items() if k.startswith("encoder")
        }
        check(generated, row, generate_without_cache(model, params, [], encoder=encoder))


def test_samples_do_not_depend_on_the_batch():
    model = tiny.decoder()
    params = tiny.init(model, tiny.batch())
    sampler = Sample(temperature=1.5)
    batched = decode(model, params, PROMPTS, sampler)
    for row in range(3):
        single = decode(model, params, PROMPTS[row : row + 1], sampler, numbers=[row])
        np.testing.assert_array_equal(single.tokens_BN[0], batched.tokens_BN[row])
    other = decode(model, params, PROMPTS, sampler, seed=1)
    assert not np.array_equal(other.tokens_BN, batched.tokens_BN)


def test_a_row_ends_at_eos_and_the_others_continue():
    model = tiny.decoder()
    params = tiny.init(model, tiny.batch())

    def sampler(keys_B, logits_BV):
        return jnp.where(jnp.arange(3) == 0, 1, 7).astype(jnp.int32)

    generated = decode(model, params, PROMPTS, sampler)
    assert generated.lengths_B.tolist() == [1, NEW, NEW]
    assert generated.tokens_BN.tolist() == [[1, 0, 0, 0, 0, 0], [7] * NEW, [7] * NEW]
    assert not generated.log_probs_BN[0, 1:].any()


def test_a_row_ends_at_any_of_the_stop_ids():
    model = tiny.decoder()
    params = tiny.init(model, tiny.batch())

    def sampler(keys_B, logits_BV):
        return jnp.array([9, 1, 7], jnp.int32)

    batch = prompt_batches.decoder_batch([[0, *prompt] for prompt in PROMPTS])
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    ends = {
        stops: generate(model, params, batch, keys, sampler, 3, stops).lengths_B.tolist()
        for stops in ((9, 7), (), (1,))
    }
    assert ends == {(9, 7): [1, 3, 1], (): [3, 3, 3], (1,): [3, 1, 3]}


def no_repeats(logits, tokens, generated):
    """The logits without tokens that repeat two neighbours, less 0.5 for each time a token was generated."""
    logits = logits.copy()
    if generated < 2:
        logits[:] = np.where(np.arange(len(logits)) == (20, 10)[generated], 0, -np.inf)
        return logits
    np.subtract.at(logits, tokens[len(tokens) - generated :], 0.5)
    logits[[b for a, b in itertools.pairwise(tokens) if a == tokens[-1]]] = -np.inf
    if generated < 5:
        logits[1] = -np.inf
    return logits


PROCESSORS = (FrequencyPenalty(0.5), NoRepeatNGram(2), MinNewTokens(5), ForcedTokens([20, 10]))


@pytest.mark.parametrize("prompts", [PROMPTS, [[20, 10, 4], [20, 10, 20], [10]]])
def test_processors_read_the_prompt_and_the_generated_tokens_of_their_row(prompts):
    model = tiny.decoder()
    params = tiny.init(model, tiny.batch())
    generated = decode(model, params, prompts, processors=PROCESSORS)
    for row, prompt in enumerate(prompts):
        check(generated, row, generate_without_cache(model, params, prompt, process=no_repeats))
    assert generated.tokens_BN[:, :2].tolist() == [[20, 10]] * 3


def test_processors_of_encoder_decoders_read_the_decoder_alone():
    model = tiny.encoder_decoder(position=None)
    params = tiny.init(model, tiny.batch(sides=("encoder", "decoder")))
    batch = prompt_batches.encoder_batch(PROMPTS, VOCABULARY)
    generated = run(model, params, batch, 3, Greedy(), NEW, processors=PROCESSORS)
    for row, prompt in enumerate(PROMPTS):
        encoder = {
            k: x for k, x in prompt_batches.encoder_batch([prompt], VOCABULARY).items() if k.startswith("encoder")
        }
        check(generated, row, generate_without_cache(model, params, [], encoder=encoder, process=no_repeats))


def test_a_processor_may_end_a_row_and_the_others_continue():
    model = tiny.decoder()
    params = tiny.init(model, tiny.batch())

    def end_the_first(logits_BV, history):
        stop_BV = (jnp.arange(logits_BV.shape[1]) == 1) & (jnp.arange(3) == 0)[:, None]
        expected_B = history.length_B - jnp.array([6, 2, 4])
        failed_BV = (history.generated_B != expected_B)[:, None]
        return jnp.where(failed_BV, jnp.nan, jnp.where(stop_BV, 1e9, logits_BV.at[:, 1].set(-jnp.inf)))

    generated = decode(model, params, PROMPTS, processors=[end_the_first])
    plain = decode(model, params, PROMPTS)
    assert generated.lengths_B.tolist() == [1, NEW, NEW]
    np.testing.assert_array_equal(generated.log_probs_BN[1:, 0], plain.log_probs_BN[1:, 0])


@pytest.mark.parametrize("make", [tiny.decoder, tiny.encoder_decoder])
def test_samples_of_a_prompt_are_those_of_its_copies(make):
    model = make(scan=True)
    batch = prompt_batches.decoder_batch(PROMPTS)
    if model.encoder_decoder:
        batch = prompt_batches.encoder_batch(PROMPTS, VOCABULARY)
    params = tiny.init(model, batch)
    keys = jax.random.split(jax.random.PRNGKey(3), 3)
    draw = lambda batch, keys, samples: jax.jit(  # noqa: E731
        lambda p, b, k: generate(model, p, b, k, Sample(1.5), NEW, (1, 9), (NoRepeatNGram(2),), samples)
    )(params, batch, keys)
    several = draw(batch, keys, 4)
    assert several.tokens_BN.shape == (3, 4, NEW) and several.lengths_B.shape == (3, 4)
    copies = {name: np.repeat(x, 4, axis=0) for name, x in batch.items()}
    single = draw(copies, jnp.stack([jax.random.fold_in(key, s) for key in keys for s in range(4)]), 1)
    np.testing.assert_array_equal(several.tokens_BN.reshape(12, NEW), single.tokens_BN)
    np.testing.assert_allclose(several.log_probs_BN.reshape(12, NEW), single.log_probs_BN, atol=1e-5)
    assert len({tuple(row) for row in several.tokens_BN[0].tolist()}) > 1
