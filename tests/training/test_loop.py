"""The batches that the loop's fetcher makes: NumPy arrays for one CPU device, sharded arrays for several, with equal values."""

import jax
import numpy as np
import pytest

from t5x_like import partitioning
from t5x_like.data.rows import CausalLM
from t5x_like.data.stream import Stream
from t5x_like.training.loop import fetcher
from tests import tiny_cache


@pytest.mark.parametrize("devices", [1, 8])
def test_a_batch_has_the_rows_of_the_stream(devices, tmp_path):
    stream = Stream(
        CausalLM(tiny_cache.write(tmp_path, {"targets": tiny_cache.documents(20)}), 8), batch_size=8, seed=3
    )
    mesh = partitioning.make_mesh(devices=jax.devices()[:devices])
    batch, tokens = fetcher(stream, partitioning.batch_sharding(mesh))(5)
    assert all(isinstance(x, np.ndarray if devices == 1 else jax.Array) for x in batch.values())
    for name, want in stream[5].items():
        np.testing.assert_array_equal(batch[name], want)
    assert tokens == np.sum(stream[5]["decoder_segment_ids"] > 0)
