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

TOLERANCE = 3e-5  # a tenth of the effect of a slightly wrong epsilon or activation
# Fixtures of transformers 5 and sharded ones hold the same models in another format.
SAME = re.compile(r".*_v5|llama_sharded|llama_yarn_betas")
DECODING = [name for name in NAMES if "greedy" in folders.expected(name) and not SAME.fullmatch(name)]
# The frequencies of `llama_dynamic` depend on the length, but cached keys keep their rotation.
# Experts of `switch_capacity` drop more tokens in longer rows.
UNCACHED = {"llama_dynamic", "switch_capacity"}
UNPACKED = {"switch_capacity"}


@functools.lru_cache(maxsize=1)
def load_fixture(name: str):
    """Returns (model, params in float32, reference arrays)."""
    model, params = hf.load(FIXTURES / name, dtype=np.float32)
    return model, params, folders.expected(name)


def sides(model):
    return tuple(side for side in ("encoder", "decoder") if hasattr(model, side))


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_reference_padded_and_packed(name):
    model, params, reference = load_fixture(name)
    one = folders.batch(reference, sides(model))
    real = one[f"{sides(model)[-1]}_segment_ids"] > 0
    logits = reference.get("row_logits", reference.get("logits", reference.get("hidden")))
    got = np.asarray(jax.jit(model.apply)({"params": params}, folders.pack_rows(one)))
    got = got[..., 0] if logits.ndim == 2 else got
    length = real.shape[1]
    np.testing.assert_allclose(got[:3, :length][real], logits[real], atol=TOLERANCE, rtol=TOLERANCE)
    if name in UNPACKED:
        return
    two = np.concatenate(folders.real_parts(real, logits))
    np.testing.assert_allclose(got[3, : len(two)], two, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in DECODING if name not in UNCACHED])
def test_greedy_ids_with_a_cache_equal_the_reference(name):
    model, params, reference = load_fixture(name)
    batch = folders.batch(reference, sides(model))
    if "encoder" in sides(model):
        batch |= folders.side("decoder", reference["decoder_tokens"][:, :1], np.ones((3, 1)))
    keys = np.zeros((3, 2), np.uint32)
    count = reference["greedy"].shape[1]
    output = jax.jit(lambda p, b: generate(model, p, b, keys, Greedy(), count, stop_ids=()))(params, batch)
    np.testing.assert_array_equal(output.tokens_BN, reference["greedy"])


@pytest.mark.parametrize("name", [name for name in NAMES if {"nsp", "pooled"} & set(folders.expected(name))])
def test_row_outputs_equal_the_reference(name):
    model, params, reference = load_fixture(name)
    kind, method = ("nsp", "classify") if "nsp" in reference else ("pooled", "pool")
    got = jax.jit(lambda p, b: model.apply({"params": p}, b, method=method))(
        params, folders.batch(reference, sides(model))
    )
    np.testing.assert_allclose(got, reference[kind], atol=TOLERANCE)


def test_the_query_stream_equals_the_reference():
    model, params, reference = load_fixture("xlnet")
    order = reference["perm_order"].astype(np.int32)
    batch = folders.batch(reference, ("encoder",)) | {"encoder_order": order}
    got = np.asarray(jax.jit(model.apply)({"params": params}, batch))
    # A query without keys gives the mean of all values, including padding.
    seen = (order[:, None, :] < order[:, :, None]) & (reference["mask"][:, None, :] > 0)
    read = seen.any(-1) & (reference["mask"] > 0)
    np.testing.assert_allclose(got[read], reference["perm_logits"][read], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_bit_equal_for_every_tensor(name, tmp_path):
    scan = NAMES.index(name) % 2 == 0  # alternates between both layouts
    hf.save(*hf.load(FIXTURES / name, scan=scan), tmp_path / "out", model_type=folders.config(name)["model_type"])
    before, after = tensors.list_tensors(FIXTURES / name), tensors.list_tensors(tmp_path / "out")
    if name == "mt5_v5":  # its table is also the head's, which transformers 4 only reads from a copy
        before["lm_head.weight"] = before["shared.weight"]
    assert set(after) == set(before)
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape)
        assert after[key].read().tobytes() == tensor.read().tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_configuration_gives_the_same_model(name):
    config = folders.config(name)
    names = list(tensors.list_tensors(FIXTURES / name))
    _, model = hf.build_model(config, names=names)
    family, rebuilt = hf.build_config(model, config["model_type"])
    assert family.model_type == config["model_type"] == rebuilt["model_type"]
    assert modules.is_equivalent(hf.build_model(rebuilt, names=names)[1], model)
