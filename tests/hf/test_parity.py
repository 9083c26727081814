"""Imported models give the reference library's logits: padded, packed, decoded with a cache; exports are bit-equal."""

import functools
import re

import jax
import numpy as np
import pytest

from t5x_like import hf
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy
from t5x_like.hf import modules, tensors
from tests.hf import folders
from tests.hf.folders import FIXTURES, NAMES

TOLERANCE = 3e-5  # a tenth of what an epsilon or an activation that is nearly right would change
# Those of transformers 5 and of several shards only say the same things in another way.
SAME = re.compile(r".*_v5|llama_sharded|llama_yarn_betas")
DECODING = [name for name in NAMES if "greedy" in folders.expected(name) and not SAME.fullmatch(name)]
# Its frequencies depend on the length, and keys stay in a cache as they were rotated when they were written.
# Experts of `switch_capacity` are full sooner the longer a row is.
UNCACHED = {"llama_dynamic", "switch_capacity"}
UNPACKED = {"switch_capacity"}


@functools.lru_cache(maxsize=1)
def loaded(name: str):
    """(model, params in float32, what is expected)."""
    model, params = hf.load(FIXTURES / name, dtype=np.float32)
    return model, params, folders.expected(name)


def sides(model):
    return tuple(side for side in ("encoder", "decoder") if hasattr(model, side))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_reference_s_alone_padded_and_packed(name):
    model, params, want = loaded(name)
    one = folders.batch(want, sides(model))
    real = one[f"{sides(model)[-1]}_segment_ids"] > 0
    logits = want.get("row_logits", want.get("logits", want.get("hidden")))
    got = np.asarray(jax.jit(model.apply)({"params": params}, folders.packed(one)))
    got = got[..., 0] if logits.ndim == 2 else got
    length = real.shape[1]
    np.testing.assert_allclose(got[:3, :length][real], logits[real], atol=TOLERANCE, rtol=TOLERANCE)
    if name in UNPACKED:
        return
    two = np.concatenate(folders.parts(real, logits))
    np.testing.assert_allclose(got[3, : len(two)], two, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in DECODING if name not in UNCACHED])
def test_greedy_ids_with_a_cache_are_the_reference_s(name):
    model, params, want = loaded(name)
    batch = folders.batch(want, sides(model))
    if "encoder" in sides(model):
        batch |= folders.side("decoder", want["decoder_tokens"][:, :1], np.ones((3, 1)))
    keys = np.zeros((3, 2), np.uint32)
    count = want["greedy"].shape[1]
    made = jax.jit(lambda p, b: generate(model, p, b, keys, Greedy(), count, stop_ids=()))(params, batch)
    np.testing.assert_array_equal(made.tokens_BN, want["greedy"])


@pytest.mark.parametrize("name", [name for name in NAMES if {"nsp", "pooled"} & set(folders.expected(name))])
def test_what_is_said_of_a_row_is_the_reference_s(name):
    model, params, want = loaded(name)
    kind, method = ("nsp", "classified") if "nsp" in want else ("pooled", "pooled")
    got = jax.jit(lambda p, b: model.apply({"params": p}, b, method=method))(params, folders.batch(want, sides(model)))
    np.testing.assert_allclose(got, want[kind], atol=TOLERANCE)


def test_two_streams_are_the_reference_s():
    model, params, want = loaded("xlnet")
    order = want["perm_order"].astype(np.int32)
    batch = folders.batch(want, ("encoder",)) | {"encoder_order": order}
    got = np.asarray(jax.jit(model.apply)({"params": params}, batch))
    # A query that sees no key gets the mean of all values, those of padding too, which nobody should read.
    seen = (order[:, None, :] < order[:, :, None]) & (want["mask"][:, None, :] > 0)
    read = seen.any(-1) & (want["mask"] > 0)
    np.testing.assert_allclose(got[read], want["perm_logits"][read], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_has_every_tensor_bit_for_bit(name, tmp_path):
    scan = NAMES.index(name) % 2 == 0  # both layouts, in turn
    hf.save(*hf.load(FIXTURES / name, scan=scan), tmp_path / "out", model_type=folders.config(name)["model_type"])
    before, after = tensors.list_tensors(FIXTURES / name), tensors.list_tensors(tmp_path / "out")
    assert set(after) == set(before)
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape)
        assert after[key].read().tobytes() == tensor.read().tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_an_export_s_configuration_is_the_same_model(name):
    config = folders.config(name)
    names = list(tensors.list_tensors(FIXTURES / name))
    _, model = hf.build_model(config, names=names)
    family, again = hf.build_config(model, config["model_type"])
    assert family.model_type == config["model_type"] == again["model_type"]
    assert modules.is_equivalent(hf.build_model(again, names=names)[1], model)
