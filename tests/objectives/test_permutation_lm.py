"""Permutation language modelling: a target's loss depends only on the tokens before it in the order."""

import jax
import numpy as np

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows.permutation import PermutationLM
from t5x_like.objectives.lm import LanguageModel
from tests import tiny
from tests.gin_models import model_of

MODEL = model_of("sizes/xlnet/tiny.gin")


def test_a_loss_depends_only_on_tokens_earlier_in_the_order(tiny_root):
    rows = PermutationLM(TokenCache("tiny", "train", root=str(tiny_root)), 16)
    batch = rows.fetch(np.arange(1), np.zeros(1, int), 0)
    order, size = batch["encoder_order"][0], 16
    last = int(np.argmax(order * (batch["encoder_segment_ids"][0] == 1)))
    batch["encoder_loss_weights"][:] = 0
    middle = int(np.flatnonzero((order == order[last] // 2) & (batch["encoder_segment_ids"][0] == 1))[0])
    batch["encoder_loss_weights"][0, middle] = 1.0
    params = tiny.init(MODEL, batch)
    run = jax.jit(lambda b: LanguageModel(side="encoder")(MODEL.apply, params, b)[0])
    before = float(run(batch))
    for place in range(size):
        changed = batch["encoder_input_tokens"].copy()
        changed[0, place] = 90 if changed[0, place] != 90 else 91
        visible = order[place] < order[middle] and batch["encoder_segment_ids"][0, place] == 1
        assert (float(run(batch | {"encoder_input_tokens": changed})) != before) == visible, place


def test_the_objective_equals_the_two_stream_cross_entropy(tiny_root):
    rows = PermutationLM(TokenCache("tiny", "train", root=str(tiny_root)), 32)
    batch = rows.fetch(np.arange(4), np.zeros(4, int), 0)
    params = tiny.init(MODEL, batch)
    total, weight, _ = LanguageModel(side="encoder")(MODEL.apply, params, batch)
    logits = np.asarray(MODEL.apply({"params": params}, batch), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = np.take_along_axis(logp, batch["encoder_target_tokens"][..., None], -1)[..., 0]
    np.testing.assert_allclose(total, -(each * batch["encoder_loss_weights"]).sum(), rtol=1e-5)
    assert weight == batch["encoder_loss_weights"].sum() > 0
