"""muP: fan-in from logical axes, rates and decay by width, and activations whose movement does not depend on the width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import optimizers, partitioning
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.scaling.mup import coordinate_check, lr_transfer, rules
from t5x_like.training import state
from tests import tiny

BASE = {"embed": 32, "mlp": 64, "heads": 4}
FAN_IN = {
    ("decoder/layer_0/mixer/query/kernel", ("embed", "heads", "head_dim")): ("embed",),
    ("decoder/layers/mixer/out/kernel", ("layers", "heads", "head_dim", "embed")): ("heads", "head_dim"),
    ("decoder/layer_0/mlp/down/kernel", ("mlp", "embed")): ("mlp",),
    ("decoder/layer_0/moe/up", ("expert", "embed", "mlp")): ("embed",),
    ("embed/table", ("vocab", "embed")): (),
    ("head/table", ("vocab", "embed")): ("embed",),
    ("decoder/norm/scale", ("norm",)): (),
    ("decoder/layer_0/mlp/up/bias", ("mlp",)): (),
}


@pytest.mark.parametrize("parameter, axes", FAN_IN.items())
def test_the_axes_determine_the_fan_in(parameter, axes):
    assert rules.fan_in_axes(*parameter) == axes


def test_a_matrix_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="muP has no rule for parameter a/kernel"):
        rules.fan_in_axes("a/kernel", ("mlp", "heads"))


def model(width: int, mup_init: bool, layers: int = 1, out_init=None) -> nn.Module:
    kernel = nn.initializers.variance_scaling(1.0, "fan_in", "normal") if mup_init else nn.initializers.normal(0.1)
    mixer = attention.SelfAttention(width // 8, 8, kernel_init=kernel, out_init=out_init)
    feed = mlp.Mlp(hidden_dim=2 * width, gated=True, kernel_init=kernel, out_init=out_init)
    head = heads.Untied(table_init=rules.inverse_fan_in(1.0) if mup_init else nn.initializers.normal(0.1))
    block = blocks.Block(mixer=mixer, mlp=feed)
    decoder = stack.Stack(block=block, repeats=layers, position=positions.Rope(8), scan=False)
    return architectures.DecoderOnly(linear.Embed(tiny.VOCAB, width), decoder, head)


def movements(width: int, optimizer, mup_init: bool, layers: int = 1, out_init=None):
    batch, net = tiny.batch(rows=4), model(width, mup_init, layers, out_init)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    layout = state.layout(net, optimizer, shapes, mesh)
    return coordinate_check.measure_movements(net, lm.LanguageModel(), optimizer, layout, [batch] * 3)


def slopes(optimizer, mup_init: bool) -> dict[str, float]:
    compared = coordinate_check.compare_widths({width: movements(width, optimizer, mup_init) for width in (32, 128)})
    return {movement.module: movement.slope for movement in compared}


def test_activations_move_equally_at_every_width():
    standard = slopes(optimizers.adamw(0.01, weight_decay=0.0), False)
    ours = slopes(rules.scale_by_width(optimizers.adamw(0.01, weight_decay=0.0), BASE, weight_decay=0.1), True)
    assert max(ours.values()) < 0.25
    assert standard["head"] > 0.5


def last_block_moves(layers: int, base_layers: int, depth: int) -> float:
    """Movement of the last block of a model of `depth` layers; CompleteP is given `layers`."""
    optimizer = rules.scale_by_width(
        optimizers.adamw(0.01, weight_decay=0.0), BASE, layers=layers, base_layers=base_layers
    )
    return movements(32, optimizer, True, depth, rules.inverse_depth(layers, base_layers))[f"decoder/layer_{depth - 1}"]


def test_under_complete_p_the_stream_moves_equally_at_every_depth():
    shallow = last_block_moves(2, 2, 2)
    assert last_block_moves(8, 2, 8) < 1.5 * shallow
    assert last_block_moves(2, 2, 8) > 2 * shallow


def test_rates_and_decay_by_hand():
    """Adam's first update equals the learning rate, so it shows the rate of each parameter; the decay is the same everywhere."""
    boxed = jax.eval_shape(model(128, True).init, jax.random.key(0), tiny.batch(rows=1))["params"]
    boxed = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), boxed)
    optimizer = rules.scale_by_width(
        optimizers.adamw(0.5, weight_decay=0.0, clip_norm=None), BASE, 0.1, layers=6, base_layers=2
    )
    ones = nn.unbox(boxed)
    updates, _ = jax.jit(optimizer.update)(ones, nn.unbox(optimizer.init(boxed)), ones)
    block = updates["decoder"]["layer_0"]
    decay = 0.5 * 0.1
    for update, expected in (
        (updates["embed"]["table"], 0.5 + decay),
        (updates["head"]["table"], 0.5 / 4 + decay),
        (block["mixer"]["query"]["kernel"], 0.5 / 4 + decay),
        (block["mlp"]["down"]["kernel"], 0.5 / 4 / 3 + decay),
        (updates["decoder"]["norm"]["scale"], 0.5),
    ):
        np.testing.assert_allclose(update, -expected, rtol=1e-5)


def test_parameters_without_axes_are_refused():
    with pytest.raises(ValueError, match="has none"):
        rules.scale_by_width(optimizers.adamw(0.1), BASE).init({"kernel": np.ones((2, 2))})


def test_the_best_rate_is_the_minimum_of_a_parabola():
    rates = np.geomspace(1e-3, 1e-1, 5)
    runs = [(w, rate, 2 + np.log(rate / optimum) ** 2) for w, optimum in ((64, 0.012), (128, 0.02)) for rate in rates]
    best = lr_transfer.find_best_rates([*runs, (256, 0.1, 1.0), (64, rates[0], np.nan)])
    assert [one.width for one in best] == [64, 128]
    assert [one.rate for one in best] == pytest.approx([0.012, 0.02])
    assert lr_transfer.find_best_rates([(8, rate, -rate) for rate in rates])[0].at_edge
