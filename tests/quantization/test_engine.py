"""An engine with int8 weights and cache continues requests as `loop.generate` does with the quantized model."""

import jax
import numpy as np
import pytest

from t5x_like import partitioning, prompt_batches
from t5x_like.quantization import weights
from t5x_like.serving.engine import make_key
from t5x_like.serving.options import Options
from t5x_like.serving.programs import Size
from tests.serving.tiny_engine import INT8, Hashable, alone, build, check, make_engine, shared_prompts


def test_rows_that_are_copied_and_read_in_chunks_on_eight_devices_continue_as_alone_on_one():
    prompts, settings = shared_prompts(count=4), Hashable(max_new_tokens=10)
    with make_engine(mesh=partitioning.make_mesh(data=2, fsdp=2, tensor=2), **INT8) as engine:
        found = [completions[0] for completions in engine.generate(prompts, settings)]
        scores = engine.score(prompts[:1])
        numbers, empty = engine.statistics(), engine.scheduler.programs.make_empty(Size(4, 128)).cache
    keys = jax.tree.leaves(empty["decoder"]["layer_0"]["mixer"]["key_cache"])
    assert [x.addressable_shards[0].data.shape for x in keys] == [
        (1, 2, 128, 8),
        (1, 2, 128, 1),
    ]  # of 4 rows and 4 heads
    assert all(completion.cached_tokens >= 19 for completion in found[1:])
    keys = [make_key(0, i) for i in range(len(prompts))]
    check(found, alone("int8 rope", prompts, settings, keys))
    model, params = build("rope")
    quantized = build("int8 rope")[1]
    assert numbers["parameter_bytes"] == weights.size_in_bytes(quantized) < 0.3 * weights.size_in_bytes(params)
    # Two layers have keys and values of 4 heads, each 8 bytes and a scale; positions, segments; the length of the row of 200.
    assert numbers["cache_bytes_per_token"] == 2 * 2 * 4 * (8 + 4) + 2 * 4 + 4 / 200
    # Scores have no cache.
    batch = prompt_batches.pad_rows(prompts[:1], len(prompts[0]), "decoder")
    logits = jax.jit(model.apply)({"params": weights.dequantize(quantized)}, batch)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0, :-1]
    expected = log_probs[np.arange(len(log_probs)), prompts[0][1:]]
    np.testing.assert_allclose([token.log_prob for token in scores[0]], expected, atol=1e-5)


@pytest.mark.parametrize("name", INT8)
def test_an_unknown_format_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}='int3' is not a known format; use 'int8', or None"):
        Options(**{name: "int3"})
