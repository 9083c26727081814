"""Speculative decoding: greedy ids are those of plain greedy decoding, samples have the model's distribution."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t5x_like import prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding import speculative
from t5x_like.decoding.contrastive import Contrast
from t5x_like.decoding.loop import generate
from t5x_like.decoding.processors import ForcedTokens, FrequencyPenalty, MinNewTokens, NoRepeatNGram
from t5x_like.decoding.proposers import Draft, PromptLookup
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, positions, routers, stack
from tests import tiny

PROMPTS = [[5, 6, 7, 8, 9, 5, 6], [10], [11, 12, 13, 12]]
NEW = 14
P_VALUE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Proposes generated tokens [B, N] that are known before."""

    tokens_BN: jax.Array
    tokens: int = 4
    always = True

    def start(self, batch, length, samples):
        return None

    def propose(self, state, history, most_B, keys_BG, choice):
        index_BG = history.generated_B[:, None] + jnp.arange(self.tokens)
        tokens_BG = jnp.take_along_axis(self.tokens_BN, index_BG, axis=1, mode="clip")
        return speculative.Proposal(tokens_BG, jnp.full(len(tokens_BG), 99)), state


def windowed():
    block = blocks.Block(attention.SelfAttention(tiny.HEADS, tiny.HEAD_DIM, mask=masks.Window(3)), mlp.Mlp(64))
    tower = stack.Stack(block, position=positions.Rope(tiny.HEAD_DIM), repeats=1, scan=False)
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), tower, heads.Untied())


def capacity():
    """A model whose experts take few tokens of a row, were it not decoding."""
    experts = moe.Moe(routers.TopK(4, top_k=2), 64, gated=True, dispatch=moe.Capacity(0.5))
    block = blocks.Block(attention.SelfAttention(tiny.HEADS, tiny.HEAD_DIM), experts)
    tower = stack.Stack(block, position=positions.Rope(tiny.HEAD_DIM), repeats=1, scan=False)
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, tiny.WIDTH), tower, heads.Untied())


MODELS = {
    "learned": lambda: tiny.decoder(
        repeats=1, position=positions.Learned(80, table_init=jax.nn.initializers.normal(1.0))
    ),
    "rope": lambda: tiny.decoder(repeats=1),
    "relative": lambda: tiny.decoder(position=positions.RelativeBias(tiny.HEADS), scan=True),
    "alibi": lambda: tiny.decoder(repeats=1, position=positions.Alibi(tiny.HEADS)),
    "window": windowed,
    "experts": lambda: tiny.decoder(repeats=1, experts=True),
    "capacity": capacity,
    "contrast": lambda: Contrast(
        tiny.decoder(repeats=1), tiny.decoder(repeats=1, position=positions.Alibi(tiny.HEADS))
    ),
    "encoder-decoder": lambda: tiny.encoder_decoder(position=positions.RelativeBias(tiny.HEADS), scan=True),
}


@functools.cache
def make(name):
    """(the model, a smaller one of the same kind, the parameters of both, a batch of PROMPTS)."""
    model = MODELS[name]()
    small = (tiny.encoder_decoder if model.encoder_decoder else tiny.decoder)(repeats=1)
    return model, small, (init(model, 0), init(small, 1)), prompt_batch(model, PROMPTS)


def init(model, seed):
    sides = ("encoder", "decoder") if model.encoder_decoder else ("decoder",)
    return tiny.init(model, tiny.batch(sides=sides), seed)


def prompt_batch(model, prompts, length=None):
    if model.encoder_decoder:
        return prompt_batches.encoder_batch(prompts, ByteVocabulary())
    return prompt_batches.pad_rows(prompts, length or max(map(len, prompts)), "decoder")


def keys_of(count, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(seed), jnp.arange(count))


def run(model, params, batch, sampler=Greedy(), new=NEW, stops=(1,), propose=None, keys=None, **options):
    """`generate`, or `speculate` with the proposer that `propose` makes of parameters; `params` are (the model's, its)."""
    keys = keys_of(len(batch["decoder_input_tokens"])) if keys is None else keys

    def decode(params, batch, keys):
        arguments = model, params[0], batch, keys, sampler, new, stops
        if propose is None:
            return generate(*arguments, **options)
        return speculative.speculate(*arguments, propose(params[1]), **options)

    return jax.device_get(jax.jit(decode)(params, batch, keys))


@functools.cache
def plain_greedy(name):
    """What `generate` returns."""
    model, _, params, batch = make(name)
    return run(model, params, batch)


def assert_same(speculated, plain):
    np.testing.assert_array_equal(speculated.generated.tokens_BN, plain.tokens_BN)
    np.testing.assert_array_equal(speculated.generated.lengths_B, plain.lengths_B)
    np.testing.assert_allclose(speculated.generated.log_probs_BN, plain.log_probs_BN, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_do_not_depend_on_the_guesses(name):
    model, _, params, batch = make(name)
    plain = plain_greedy(name)
    right = plain.tokens_BN
    wrong = (right + 1) % tiny.VOCAB
    mixed = np.where(np.random.default_rng(0).random(right.shape) < 0.7, right, wrong)
    results = [run(model, (params[0], jnp.asarray(x)), batch, propose=Known) for x in (right, wrong, mixed)]
    for result in results:
        assert_same(result, plain)
    # The first token is not guessed; behind 4 guesses one token is the model's own, unless the last guess ends the row.
    after = plain.lengths_B - 1
    ended = right[np.arange(3), after] == 1
    own = np.where(ended, after // 5, -(-after // 5))
    np.testing.assert_array_equal(results[0].accepted_B, after - own)
    assert not results[1].accepted_B.any() and results[1].proposed_B.all()
    assert (results[2].accepted_B > 0).all() and (results[2].accepted_B < results[2].proposed_B).all()


@pytest.mark.parametrize("name", ["rope", "capacity", "encoder-decoder"])
def test_greedy_tokens_of_each_proposer_are_those_of_plain_greedy_decoding(name):
    model, small, params, batch = make(name)
    plain = plain_greedy(name)
    for propose in (lambda _: PromptLookup(5, 3, 1), lambda params: Draft(small, params, 3)):
        result = run(model, params, batch, propose=propose)
        assert_same(result, plain)
        assert result.proposed_B.all() and (result.accepted_B <= result.proposed_B).all()


@pytest.mark.parametrize(
    "make_model, tokens, lengths", [(tiny.decoder, 1, (1, NEW)), (tiny.encoder_decoder, 4, (NEW,))]
)
def test_the_model_as_its_own_draft_is_always_right(make_model, tokens, lengths):
    model = make_model(repeats=1)
    params, batch = init(model, 0), prompt_batch(model, PROMPTS)
    plain = run(model, (params,), batch, stops=())
    for new in lengths:
        result = run(
            model, (params, params), batch, new=new, stops=(), propose=lambda params: Draft(model, params, tokens)
        )
        np.testing.assert_array_equal(result.generated.tokens_BN, plain.tokens_BN[:, :new])
        np.testing.assert_array_equal(result.accepted_B, result.proposed_B)
        assert result.accepted_B.tolist() == [new - 1 - -(-(new - 1) // (tokens + 1))] * 3


def test_a_row_ends_at_a_stop_id_among_accepted_tokens():
    model, _, params, batch = make("rope")
    tokens_BN = run(model, params, batch, stops=()).tokens_BN
    stops = tuple(tokens_BN[range(3), [2, 3, 5]].tolist())  # guesses are 1 .. 4, then comes a token of the model's own
    expected = run(model, params, batch, stops=stops)
    assert (expected.lengths_B <= [3, 4, 6]).all()
    for propose in (lambda _: PromptLookup(5, 3, 1), lambda _: Known(jnp.asarray(tokens_BN))):
        assert_same(run(model, params, batch, stops=stops, propose=propose), expected)


def test_processors_see_the_history_of_each_position():
    model, small, params, batch = make("rope")
    processors = (FrequencyPenalty(0.5), NoRepeatNGram(2), MinNewTokens(5), ForcedTokens([20, 10, 20]))
    decode = functools.partial(run, model, params, batch, processors=processors)
    plain = decode()
    assert plain.tokens_BN[:, :3].tolist() == [[20, 10, 20]] * 3
    for propose in (lambda _: PromptLookup(5, 3, 1), lambda params: Draft(small, params, 3)):
        assert_same(decode(propose=propose), plain)


def test_samples_of_a_prompt_are_those_of_its_copies():
    model, small, params, batch = make("encoder-decoder")
    decode = functools.partial(run, model, params, propose=lambda params: Draft(small, params, 3))
    several = decode(batch, Sample(0.7), samples=3)
    copies = {name: np.repeat(x, 3, axis=0) for name, x in batch.items()}
    keys = jnp.stack([jax.random.fold_in(key, s) for key in keys_of(3) for s in range(3)])
    single = decode(copies, Sample(0.7), keys=keys)
    assert several.generated.tokens_BN.shape == (3, 3, NEW) and several.accepted_B.shape == (3, 3)
    for one, other in zip(jax.tree.leaves(several), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(one.reshape(other.shape), other, atol=1e-4)


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_a_row_depends_neither_on_the_batch_nor_on_padding(kind):
    model, small, params, batch = make("rope")
    propose, sampler = {
        "lookup": (lambda _: PromptLookup(4, 3, 1), Sample(0.8, top_k=4)),
        "draft": (lambda params: Draft(small, params, 3), Sample(3.0)),
    }[kind]
    together = run(model, params, batch, sampler, propose=propose)
    assert together.accepted_B.any() and (together.accepted_B < together.proposed_B).any()
    for row, prompt in enumerate(PROMPTS):
        alone = prompt_batch(model, [prompt], length=11)
        single = run(model, params, alone, sampler, propose=propose, keys=keys_of(3)[row : row + 1])
        for one, other in zip(jax.tree.leaves(single), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one[0], other[row], atol=1e-4)


def test_log_probs_are_those_of_a_forward_pass():
    model, small, params, batch = make("alibi")
    result = run(model, params, batch, Sample(1.5, top_p=0.9), propose=lambda params: Draft(small, params, 3), stops=())
    for row, prompt in enumerate(PROMPTS):
        tokens_N = result.generated.tokens_BN[row]
        whole = prompt_batches.pad_rows([[*prompt, *tokens_N]], 7 + NEW, "decoder")
        logits_LV = jax.jit(model.apply)({"params": params[0]}, whole)[0, len(prompt) - 1 : len(prompt) - 1 + NEW]
        expected_N = jax.nn.log_softmax(logits_LV)[np.arange(NEW), tokens_N]
        np.testing.assert_allclose(result.generated.log_probs_BN[row], expected_N, atol=1e-4)


@pytest.mark.parametrize("vocab_size, sampler", [(40, Greedy()), (90, Sample(100.0))])  # the second is nearly uniform
def test_a_draft_may_have_more_or_fewer_ids(vocab_size, sampler):
    model, small, params, batch = make("rope")
    small = small.clone(embed=linear.Embed(vocab_size, tiny.WIDTH))
    params = params[0], init(small, 1)
    result = run(model, params, batch, sampler, propose=lambda params: Draft(small, params, 3))
    assert (result.generated.tokens_BN < tiny.VOCAB).all()
    if sampler == Greedy():
        assert_same(result, plain_greedy("rope"))
    else:
        assert result.accepted_B.any()


# Sampling


def chi_square(observed_N, probs_N):
    """The p-value of counts, and asserts that what has probability 0 was not drawn."""
    assert not observed_N[probs_N == 0].any()
    observed_N, probs_N = observed_N[probs_N > 0], probs_N[probs_N > 0]
    expected_N = probs_N / probs_N.sum() * observed_N.sum()
    assert expected_N.min() > 5, "too few draws for the test"
    return stats.chisquare(observed_N, expected_N).pvalue


def distribution(logits, sampler):
    """Probabilities in float64, of a sampler without restrictions or with top_k."""
    logits = np.asarray(logits, np.float64) / sampler.temperature
    if sampler.top_k:
        logits = np.where(logits < np.sort(logits)[..., -sampler.top_k, None], -np.inf, logits)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("sampler", [Sample(1.3), Sample(1.5, top_k=3)])
@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_samples_have_the_joint_distribution_of_the_model(kind, sampler):
    ids, rows, prompt = 4, 12_000, [0, 1, 2, 3, 2, 0]
    model = tiny.decoder(repeats=1)
    model = model.clone(embed=linear.Embed(ids, tiny.WIDTH))
    params = tiny.init(model, tiny.batch(), 0), tiny.init(model, tiny.batch(), 1)
    propose = {"lookup": lambda _: PromptLookup(2, 3, 1), "draft": lambda params: Draft(model, params, 2)}[kind]
    result = run(model, params, prompt_batch(model, [prompt] * rows), sampler, 5, (ids,), propose)
    assert result.accepted_B.mean() > 0.5 and (result.accepted_B < result.proposed_B).mean() > 0.5

    # The first token is the model's own, the next two are guessed.
    sequences = np.array(list(itertools.product(range(ids), repeat=3)))
    whole = prompt_batches.pad_rows([[*prompt, *rest] for rest in sequences], len(prompt) + 3, "decoder")
    logits = jax.jit(model.apply)({"params": params[0]}, whole)[:, len(prompt) - 1 : len(prompt) + 2]
    steps = np.take_along_axis(distribution(logits, sampler), sequences[..., None], 2)[..., 0]
    drawn = np.ravel_multi_index(result.generated.tokens_BN[:, :3].T, (ids,) * 3)
    observed = np.bincount(drawn, minlength=ids**3)
    assert chi_square(observed, steps.prod(axis=1)) > P_VALUE


def random_probs(*shape, seed):
    return 0.9 * np.random.default_rng(seed).dirichlet(np.full(shape[-1], 0.7), shape[:-1]) + 0.1 / shape[-1]


@pytest.mark.parametrize("drawn", [True, False])
def test_acceptance_is_the_overlap_of_the_distributions(drawn):
    """One guess x ~ q is kept with probability sum_v min(p, q), and what stays in its place has the distribution p."""
    rows, ids = 40_000, 6
    random = np.random.default_rng(2)
    p_LV, q_GV = random_probs(2, ids, seed=0), random_probs(1, ids, seed=1)
    if not drawn:
        q_GV = np.eye(ids)[[3]]
    draft_B1 = random.choice(ids, (rows, 1), p=q_GV[0])
    keys = jax.random.split(jax.random.PRNGKey(0), (rows, 2, 2))
    repeat = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (rows, *x.shape))  # noqa: E731
    kept_B, next_B = jax.jit(speculative.accept)(
        keys, draft_B1, np.ones(rows, int), repeat(p_LV), repeat(q_GV) if drawn else None
    )
    rate = np.minimum(p_LV[0], q_GV[0]).sum()
    assert abs(kept_B.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / rows)
    first_B = np.where(kept_B == 1, draft_B1[:, 0], next_B)
    assert chi_square(np.bincount(first_B, minlength=ids), p_LV[0]) > P_VALUE
    behind = np.asarray(next_B)[np.asarray(kept_B) == 1]  # of all guesses kept: a token of the model's own
    assert chi_square(np.bincount(behind, minlength=ids), p_LV[1]) > P_VALUE


def test_of_several_guesses_the_kept_ones_and_the_next_have_the_models_distribution():
    """A Markov chain: p and q depend on the token before; the number of guesses differs by row."""
    rows, ids, guesses = 60_000, 3, 3
    random = np.random.default_rng(3)
    p_VV, q_VV = random_probs(ids, ids, seed=4), random_probs(ids, ids, seed=5)
    draft_BG = np.zeros((rows, guesses), int)
    before_B = np.zeros(rows, int)
    for g in range(guesses):
        before_B = (q_VV.cumsum(1)[before_B] < random.random((rows, 1))).sum(1)
        draft_BG[:, g] = before_B
    context_BL = np.pad(draft_BG, ((0, 0), (1, 0)))
    count_B = random.integers(0, guesses + 1, rows)
    keys = jax.random.split(jax.random.PRNGKey(1), (rows, guesses + 1, 2))
    kept_B, next_B = jax.device_get(
        jax.jit(speculative.accept)(
            keys, draft_BG, count_B, p_VV[context_BL].astype(np.float32), q_VV[context_BL[:, :-1]].astype(np.float32)
        )
    )
    assert (kept_B <= count_B).all() and {*kept_B.tolist()} == set(range(guesses + 1))
    # Behind the result tokens are drawn from p, so that the first two can be counted.
    chain_BL = np.pad(draft_BG, ((0, 0), (0, 1)))
    chain_BL[np.arange(rows), kept_B] = next_B
    second_B = (p_VV.cumsum(1)[chain_BL[:, 0]] < random.random((rows, 1))).sum(1)
    second_B = np.where(kept_B >= 1, chain_BL[:, 1], second_B)
    observed = np.bincount(chain_BL[:, 0] * ids + second_B, minlength=ids**2)
    assert chi_square(observed, (p_VV[0][:, None] * p_VV).reshape(-1)) > P_VALUE


def test_guesses_with_the_models_own_distribution_are_all_kept():
    probs = random_probs(500, 4, 9, seed=6).astype(np.float32)
    probs[::2, :, :4] = 0
    draft_BG = np.array([[random.choice(9, p=p / p.sum()) for p in row[:3]] for row in probs for random in [np.random]])
    keys = jax.random.split(jax.random.PRNGKey(2), (500, 4, 2))
    kept_B, next_B = jax.jit(speculative.accept)(keys, draft_BG, np.full(500, 3), probs, probs[:, :3])
    assert (kept_B == 3).all() and (np.take_along_axis(probs[:, 3], next_B[:, None], 1) > 0).all()


def test_what_does_not_fit_is_refused():
    model, small, params, batch = make("rope")
    with pytest.raises(ValueError, match="needs the distribution of sampler=.*; use Greedy or Sample, or no proposer"):
        run(model, params, batch, lambda keys, logits: logits[:, 0], propose=lambda _: PromptLookup())
    other = tiny.encoder_decoder()
    with pytest.raises(ValueError, match="the draft model is an encoder-decoder, and the model decoder-only; give a"):
        run(model, (params[0], {}), batch, propose=lambda params: Draft(other, params))
    batch = prompt_batch(other, PROMPTS)
    with pytest.raises(ValueError, match="the draft model is decoder-only, and the model an encoder-decoder; give a"):
        run(other, (init(other, 0), params[1]), batch, propose=lambda params: Draft(small, params))
