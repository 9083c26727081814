"""LoRA over kernels of 4 bits: the start is the rounded base, merged equals unmerged, and runs are saved and read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import parameters, partitioning
from t5x_like.models.nf4 import Nf4, to_nf4
from t5x_like.peft.lora import LoRA
from t5x_like.precision import Precision
from t5x_like.quantization.weights import size_in_bytes
from tests import tiny
from tests.peft.test_runs import base, read, tune  # noqa: F401 - a fixture
from tests.peft.test_transforms import KINDS, boxed_params, moved
from tests.training.test_trainer import arrays, logged

QLORA = LoRA(("(mixer|mlp)/.*kernel$",), rank=2, base_format=to_nf4)


def nodes(tree):
    return [x for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Nf4)) if isinstance(x, Nf4)]


@pytest.mark.parametrize("kind", ["decoder", "experts", "encoder_decoder"])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_the_start_is_the_rounded_base_and_merged_equals_unmerged(kind, magnitudes):
    model, sides = KINDS[kind]
    batch, boxed = tiny.batch(2, sides=sides), boxed_params(kind)
    targets = ("mixer/.*kernel$", "mlp/(up|down)$") if kind == "experts" else QLORA.targets
    transform = LoRA(targets, rank=2, base_format=to_nf4, magnitudes=magnitudes)
    trained, frozen = nn.unbox(transform.split(boxed, jax.random.key(1)))
    stored = nodes(frozen)
    assert len(stored) >= 7
    rounded = parameters.plain(frozen)
    logits = jax.jit(lambda params: model.apply({"params": Precision().to_compute_dtype(params)}, batch))
    expected = logits(rounded)
    scale = float(jnp.max(jnp.abs(expected)))
    assert float(jnp.max(jnp.abs(expected - logits(nn.unbox(boxed))))) > 1e-3 * scale
    np.testing.assert_allclose(logits(transform.merge(trained, frozen)), expected, atol=5e-6 * scale)
    view = transform.merge(moved(trained), frozen)
    np.testing.assert_allclose(logits(view), logits(parameters.plain(view)), atol=2e-5 * scale)
    assert jax.tree.structure(parameters.plain(view)) == jax.tree.structure(nn.unbox(boxed))
    low = Precision(compute_dtype=jnp.bfloat16).to_compute_dtype(view)
    assert {x.dtype for x in nodes(low)} == {jnp.dtype(jnp.bfloat16)} and nodes(low)[0].ranges.dtype == jnp.float32


def test_a_run_keeps_the_rounded_base_beside_its_checkpoints(tiny_root, base, tmp_path):  # noqa: F811
    tune(tiny_root, base, tmp_path / "whole", transform=QLORA)
    tune(tiny_root, base, tmp_path / "parts", transform=QLORA, steps=2)
    tune(tiny_root, base, tmp_path / "parts", transform=QLORA)
    whole, parts = arrays(tmp_path / "whole"), arrays(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    mesh = partitioning.make_mesh(data=2, fsdp=2, tensor=2)
    tune(tiny_root, base, tmp_path / "split", transform=QLORA, mesh=mesh)
    losses = [list(logged(tmp_path / name).values()) for name in ("split", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert all("@lora" in name for name in whole if name.startswith("params."))
    (tmp_path / "whole").rename(tmp_path / "moved")
    before, after = arrays(base), read(tmp_path / "moved", QLORA)
    name = "decoder.layer_0.mixer.query.kernel"
    rounded = to_nf4(jnp.asarray(before[f"params.{name}"])).astype(jnp.float32)
    assert 0 < np.abs(after[name] - rounded).max() < 0.1
    np.testing.assert_array_equal(after["embed.table"], jnp.asarray(before["params.embed.table"]).astype(jnp.bfloat16))


def test_the_base_of_a_large_model_takes_little_more_than_half_a_byte_a_weight():
    model = tiny.decoder(scan=True)
    block = model.decoder.block
    block = block.clone(mlp=block.mlp.clone(hidden_dim=4096))
    wide = model.clone(decoder=model.decoder.clone(block=block))
    shapes = jax.eval_shape(wide.init, jax.random.key(0), tiny.batch(1))["params"]
    _, frozen = parameters.split_abstract(QLORA, shapes)
    mlp = nodes(frozen["decoder"]["layers"]["mlp"])
    assert sum(map(size_in_bytes, mlp)) / sum(2 * 32 * 4096 for _ in mlp) < 0.52
