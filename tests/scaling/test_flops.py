"""The FLOP count against XLA's own count of the compiled forward pass."""

import jax
import pytest

from t5x_like.scaling import flops
from tests import tiny


@pytest.mark.parametrize("make, sides", [(tiny.decoder, ("decoder",)), (tiny.encoder_decoder, ("encoder", "decoder"))])
def test_forward_flops_are_those_xla_counts(make, sides):
    model, batch = make(), tiny.batch(rows=1, length=64, sides=sides)
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    counted = flops.per_row(model, boxed, {side: 64 for side in sides})
    params = tiny.init(model, batch)
    cost = jax.jit(lambda p: model.apply({"params": p}, batch)).lower(params).compile().cost_analysis()["flops"]
    causal_half = 0.5 if len(sides) == 1 else 0.75  # XLA multiplies in full; ours halves causal self-attention only
    expected = counted.weights + counted.attention * (2.0 if len(sides) == 1 else 1 / 0.8333)
    assert causal_half and expected == pytest.approx(cost, rel=0.12)  # XLA also counts norms, softmax and activations


def test_experts_cost_what_the_chosen_ones_do():
    batch = tiny.batch(rows=1)
    dense, moe = tiny.decoder(), tiny.decoder(experts=True)
    one, two = (
        flops.per_row(m, jax.eval_shape(m.init, jax.random.key(0), batch)["params"], {"decoder": 12})
        for m in (dense, moe)
    )
    mlp, router = 2 * 2 * 3 * 32 * 64 * 12, 2 * 2 * 32 * 4 * 12
    assert two.weights - one.weights == pytest.approx(mlp + router)  # two of four experts per token, and the router
    assert flops.active_experts(moe) == 2
