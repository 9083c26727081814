"""In-context scores of a perfect copier, a guesser, and a model's own logits."""

import jax
import numpy as np
import pytest

from t5x_like.data.rows.repeated import RepeatedTokens
from t5x_like.scaling.studies import in_context
from tests import tiny

ROWS = RepeatedTokens(length=40, shortest=8, longest=13, symbols=20)
INDEX = np.arange(64)
PERIOD = ROWS.periods(INDEX, np.zeros_like(INDEX), 0)


def test_a_perfect_copier_scores_the_entropy_and_a_guesser_zero():
    known_BL = np.arange(40) > PERIOD[:, None]
    logp_BL = np.where(known_BL, 0.0, -np.log(20))
    assert in_context.in_context_score(logp_BL, PERIOD) == pytest.approx(np.log(20))
    np.testing.assert_allclose(in_context.loss_by_copy(logp_BL, PERIOD), [np.log(20), 0, 0, 0, 0])
    assert in_context.in_context_score(np.full((64, 40), -np.log(20)), PERIOD) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="do not repeat in rows of 20"):
        in_context.in_context_score(logp_BL[:, :20], PERIOD)


def test_token_scores_match_the_logits():
    model, batch = tiny.decoder(), ROWS.fetch(INDEX[:2], np.zeros(2, np.int64), 0)
    params = tiny.init(model, batch)
    logp_BL, correct_BL = in_context.score_tokens(model.apply, params, batch)
    probs_BLV = jax.nn.log_softmax(model.apply({"params": params}, batch))
    targets_BL1 = batch["decoder_target_tokens"][..., None]
    np.testing.assert_allclose(logp_BL, np.take_along_axis(np.asarray(probs_BLV), targets_BL1, -1)[..., 0], atol=1e-5)
    np.testing.assert_array_equal(correct_BL, probs_BLV.argmax(-1) == targets_BL1[..., 0])
