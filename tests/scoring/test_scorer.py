"""Scores equal plain forward passes, whatever the lengths, the batch, the shapes and the devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from t5x_like import partitioning
from t5x_like.models import heads, positions
from t5x_like.objectives import tokens
from t5x_like.scoring.rows import causal_row, masked_rows, rolling_windows, seq2seq_row
from t5x_like.scoring.scorer import Scorer, Scores
from tests import tiny

ONE = partitioning.make_mesh(devices=jax.devices()[:1])
LIMITS = {"encoder": 999, "decoder": 999}
MASK = 2
# (ids of the context, of the targets) of ragged rows in several shapes.
SIZES = [(3, 1), (3, 5), (1, 33), (32, 2), (7, 1), (30, 4), (3, 0), (17, 17)]
KINDS = ["decoder", "prefix LM", "learned positions", "encoder-decoder", "encoder"]


def ids_of(seed, count):
    return np.random.default_rng(seed).integers(3, tiny.VOCAB, count).tolist()


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, batch):
    return model.apply({"params": params}, batch)


@functools.cache
def model_of(kind):
    """The model of a kind and its parameters."""
    if kind == "encoder":
        model, sides = tiny.encoder(), ("encoder",)
    elif kind == "encoder-decoder":
        model, sides = tiny.encoder_decoder(), ("encoder", "decoder")
    else:
        position = positions.Learned(70) if kind == "learned positions" else None
        model, sides = tiny.decoder(position=position), ("decoder",)
    return model, tiny.init(model, tiny.batch(sides=sides))


def rows_of(kind):
    """Rows of ragged pairs."""
    pairs = [(ids_of(2 * i, before), ids_of(2 * i + 1, after)) for i, (before, after) in enumerate(SIZES)]
    if kind == "encoder":
        return [row for pair in pairs[:5] for row in masked_rows(*pair, ([1], [0]), MASK, 999)]
    if kind == "encoder-decoder":
        return [seq2seq_row(*pair, 0, LIMITS) for pair in pairs]
    return [causal_row(*pair, 999, prefix=len(pair[0]) * (kind == "prefix LM")) for pair in pairs]


def plain_log_probs(model, params, row):
    """log p(token) at the positions of a row [T, V], from a forward pass of the row alone, without padding."""
    batch = {}
    for side, ids in row.inputs.items():
        batch[f"{side}_input_tokens"] = np.array([ids])
        batch[f"{side}_positions"] = np.arange(len(ids))[None]
        batch[f"{side}_segment_ids"] = np.ones((1, len(ids)), int)
    if row.prefix:
        batch["decoder_prefix"] = (np.arange(len(ids)) < row.prefix).astype(int)[None]
    logits_LV = np.asarray(forward(model, params, batch)[0], np.float64)[list(row.positions)]
    largest_L1 = logits_LV.max(axis=1, keepdims=True)
    return logits_LV - largest_L1 - np.log(np.exp(logits_LV - largest_L1).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_a_plain_forward_pass_of_each_row_alone(kind):
    model, params = model_of(kind)
    rows = rows_of(kind)
    likeliest = int(plain_log_probs(model, params, rows[0])[0].argmax())
    rows.append(dataclasses.replace(rows[0], targets=[likeliest]))
    scores = Scorer(model, ONE, batch_size=3, top=4, prefix=kind == "prefix LM")(params, rows)
    assert len(scores) == len(rows)
    for row, score in zip(rows, scores, strict=True):
        assert score.targets_N.tolist() == list(row.targets)
        log_probs_TV = plain_log_probs(model, params, row)
        targets_TV = np.eye(tiny.VOCAB, dtype=bool)[list(row.targets)].reshape(-1, tiny.VOCAB)
        np.testing.assert_allclose(score.log_probs_N, log_probs_TV[targets_TV], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(score.greedy_N, log_probs_TV.argmax(axis=1) == row.targets)
        best_TK = np.argsort(-log_probs_TV, axis=1)[:, :4]
        np.testing.assert_array_equal(score.top_ids_NK, best_TK)
        best = np.take_along_axis(log_probs_TV, best_TK, axis=1)
        np.testing.assert_allclose(score.top_log_probs_NK, best, rtol=1e-4, atol=1e-5)
        assert score.log_prob == pytest.approx(log_probs_TV[targets_TV].sum(), rel=1e-4)
    assert scores[-1].greedy and not scores[1].greedy


def test_a_prefix_is_read_bidirectionally():
    model, params = model_of("prefix LM")
    row = causal_row([5, 6, 7], [8], 9, prefix=3)
    score = Scorer(model, ONE, prefix=True)
    causal = Scorer(model, ONE)(params, [row])[0].log_prob
    assert abs(score(params, [row])[0].log_prob - causal) > 1e-3
    plain = causal_row([5, 6, 7], [8], 9)
    assert score(params, [plain])[0].log_prob == pytest.approx(causal, rel=1e-5)


@pytest.mark.parametrize("kind", ["prefix LM", "encoder-decoder", "encoder"])
def test_eight_devices_give_the_scores_of_one(kind):
    model, params = model_of(kind)
    rows, prefix = rows_of(kind), kind == "prefix LM"
    one = Scorer(model, ONE, batch_size=8, top=2, prefix=prefix)(params, rows)
    for mesh in (partitioning.make_mesh(data=8), partitioning.make_mesh(data=2, fsdp=2, tensor=2)):
        eight = Scorer(model, mesh, batch_size=5, top=2, prefix=prefix)
        for ours, theirs in zip(eight(params, rows), one, strict=True):
            np.testing.assert_allclose(ours.log_probs_N, theirs.log_probs_N, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(ours.top_ids_NK, theirs.top_ids_NK)


def test_each_shape_is_compiled_once(monkeypatch):
    traced = []
    apply = tokens.token_logps
    model, params = model_of("decoder")
    monkeypatch.setattr("t5x_like.scoring.scorer.token_logps", lambda x, y: traced.append(x.shape) or apply(x, y))
    scorer, rows = Scorer(model, ONE, batch_size=2), rows_of("decoder")
    lengths = [20, 21, 30, 31, 32, 18, 50, 60, 64, 63]
    rows = [causal_row(ids_of(i, length - 3), ids_of(i, 4), 99) for i, length in enumerate(lengths)]
    for part in (rows, rows[::-1], rows[:6], rows[6:]):
        scorer(params, part)
    assert scorer.function.jitted._cache_size() == len(traced) == 2  # of 32 and 64 ids


def test_logits_of_the_whole_batch_never_exist():
    """Only 16 of the 64 targets of each row have logits at a time, and tokens of the context have none."""
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=99))
    params = jax.eval_shape(lambda: tiny.init(model, tiny.batch()))
    scorer = Scorer(model, ONE, batch_size=2)
    batch = scorer.make_batch([causal_row(ids_of(0, 64), ids_of(1, 64), 999)] * 2, (128, 64))
    jaxpr = jax.make_jaxpr(scorer.function.function)(params, batch)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (var.aval.size for var in equation.outvars if var.aval.shape[-1:] == (99,))
            for inner in core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    assert max(sizes(jaxpr.jaxpr)) == 2 * 16 * 99


@pytest.mark.parametrize("length, overlap", [(8, 1), (8, 5)])
def test_a_document_is_the_sum_of_its_tokens_each_predicted_alone(length, overlap):
    model, params = model_of("decoder")
    ids = ids_of(0, 29)
    scorer = Scorer(model, ONE)
    windows = list(rolling_windows(ids, [0], length, overlap))
    document = Scores.join(scorer(params, [causal_row(*window, length) for window in windows]))
    assert document.targets_N.tolist() == ids
    total = 0.0
    for context, targets in windows:
        for i, target in enumerate(targets):
            single = causal_row([*context, *targets[:i]], [target], length)
            assert len(single.inputs["decoder"]) <= length
            total += float(plain_log_probs(model, params, single)[0, target])
    assert document.log_prob == pytest.approx(total, rel=1e-5)


def test_a_pseudo_log_likelihood_is_the_sum_over_texts_with_one_token_masked():
    model, params = model_of("encoder")
    ids = ids_of(0, 9)
    rows = masked_rows(ids[:3], ids[3:], ([1], [0]), MASK, 99)
    total = 0.0
    for i in range(3, 9):
        masked = np.array([[1, *ids[:i], MASK, *ids[i + 1 :], 0]])
        batch = {"encoder_input_tokens": masked, "encoder_positions": np.arange(11)[None]}
        logits = forward(model, params, batch | {"encoder_segment_ids": np.ones((1, 11), int)})
        total += float(jax.nn.log_softmax(logits)[0, i + 1, ids[i]])
    assert Scores.join(Scorer(model, ONE, batch_size=4)(params, rows)).log_prob == pytest.approx(total, rel=1e-5)


def test_models_that_predict_no_tokens_are_refused():
    with pytest.raises(ValueError, match="top=65 must be 0 to 64"):
        Scorer(tiny.decoder(), ONE, top=65)
    with pytest.raises(ValueError, match="no log-probabilities of tokens"):
        Scorer(tiny.encoder().clone(head=heads.states), ONE)


def test_a_row_beyond_the_position_table_is_refused():
    model, params = model_of("learned positions")
    with pytest.raises(ValueError, match="a length of 79 is longer than the position table"):
        Scorer(model, ONE)(params, [causal_row(ids_of(0, 70), ids_of(1, 10), 999)])
    assert Scorer(model, ONE).shape_of(causal_row(ids_of(0, 61), ids_of(1, 10), 999)) == (70, 16)
    assert np.isnan(
        Scorer(model, ONE)(jax.tree.map(lambda x: x * jnp.nan, params), [causal_row([1], [2], 9)])[0].log_prob
    )
