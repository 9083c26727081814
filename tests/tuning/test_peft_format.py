"""Adapters of the PEFT library: logits, merged logits and gradients are its own, and what is written can be read by it."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from t5x_like import hf, parameters
from t5x_like.hf import families
from t5x_like.peft import lora, selection
from t5x_like.tuning import exporting, importing
from t5x_like.tuning.names import Names

BASES, FOLDER = Path(__file__).parents[1] / "hf" / "fixtures", Path(__file__).parent / "fixtures"
ADAPTERS = sorted(path.name for path in FOLDER.iterdir())
FUSED = ("gpt2_lora", "gpt2_ia3")  # one tensor of the file is three kernels, each with a copy of A


def load(name, scan=True):
    """(names, base parameters, adapter, the arrays of expected.npz)."""
    config = json.loads((FOLDER / name / "adapter_config.json").read_text())
    folder = BASES / config["base_model_name_or_path"]
    model, base = hf.load(folder, scan=scan)
    family = json.loads((folder / "config.json").read_text())["model_type"]
    names = Names(families.FAMILIES[family], model)
    return names, base, importing.read(FOLDER / name, names, base), dict(np.load(FOLDER / name / "expected.npz"))


def batch_of(model, expected):
    batch = {}
    for side, tokens in zip(model.sides[::-1], (expected.get("decoder_tokens"), expected["tokens"]), strict=False):
        tokens = expected["tokens"] if tokens is None else tokens
        batch |= {
            f"{side}_input_tokens": jnp.asarray(tokens, jnp.int32),
            f"{side}_positions": jnp.arange(tokens.shape[1], dtype=jnp.int32)[None],
            f"{side}_segment_ids": jnp.ones(tokens.shape, jnp.int32),
        }
    return batch


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_and_gradients_are_those_of_the_library(name, tmp_path):
    names, base, adapter, expected = load(name)
    model, batch = adapter.model, batch_of(names.model, expected)
    frozen = base
    if model is names.model:
        _, frozen = parameters.nn.unbox(adapter.transform.split(parameters.box(names.boxed, base), jax.random.key(0)))
    weights = jnp.asarray(expected["weights"], jnp.float32)

    def run(trained):
        logits = model.apply({"params": adapter.transform.merge(trained, frozen)}, batch)
        return jnp.sum(weights * logits), logits

    trained = jax.tree.map(jnp.asarray, adapter.trained)
    (_, logits), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(trained)
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5 * scale)
    if "merged" in expected:
        plain = parameters.plain(adapter.transform.merge(trained, frozen))
        merged = jax.jit(model.apply)({"params": plain}, batch)
        np.testing.assert_allclose(merged, expected["merged"], atol=1e-5 * scale)
    exporting.write(tmp_path, names, adapter.transform, trained, base, "somewhere")
    compare_files(FOLDER / name, tmp_path)
    if name not in FUSED:
        compare_gradients(names, adapter, gradients, base, expected, tmp_path / "gradients")


def compare_files(theirs, ours):
    """The written tensors are those that were read, but for copies of the base's weights."""
    read = [safetensors_numpy.load_file(folder / "adapter_model.safetensors") for folder in (theirs, ours)]
    extra = set(read[0]) - set(read[1])
    assert all("base_layer" in name or "decoder.bias" in name for name in extra) and set(read[1]) <= set(read[0])
    for name, x in read[1].items():
        np.testing.assert_array_equal(x, read[0][name], err_msg=name)
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (theirs, ours)]
    for field in ("peft_type", "use_dora", "use_rslora", "bias", "task_type"):
        assert configs[1].get(field, False) == configs[0].get(field, False), field


def compare_gradients(names, adapter, gradients, base, expected, folder):
    """The norm of every tensor's gradient; a gradient is written as the parameters are."""
    folder.mkdir()
    exporting.write(folder, names, adapter.transform, gradients, base, "somewhere")
    found = safetensors_numpy.load_file(folder / "adapter_model.safetensors")
    wanted = {name.removeprefix("gradient/"): x for name, x in expected.items() if name.startswith("gradient/")}
    largest = max(float(x) for x in wanted.values())
    assert len(found) == len(wanted) or set(wanted) > set(found)
    for name, x in found.items():
        assert np.linalg.norm(x) == pytest.approx(float(wanted[name]), rel=1e-4, abs=1e-6 * largest), name


def changed(tmp_path, name, config=None, remove=(), **values):
    """A copy of a fixture with other settings and tensors."""
    folder = shutil.copytree(FOLDER / name, tmp_path / "changed")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    tensors = safetensors_numpy.load_file(folder / "adapter_model.safetensors") | values
    kept = {key: x for key, x in tensors.items() if not any(part in key for part in remove)}
    safetensors_numpy.save_file(kept, folder / "adapter_model.safetensors")
    return folder


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(config={"peft_type": "OFT"}), "peft_type='OFT' is not supported; supported are LORA, IA3"),
        (dict(config={"lora_bias": True}), "lora_bias=True is not supported, only False or None"),
        (dict(config={"init_lora_weights": "pissa"}), "init_lora_weights='pissa' is not supported"),
        (dict(config={"lora_alpha": 0}), "lora_alpha=0 is not a positive number"),
        (dict(remove=("layers.1",)), "not all layers of decoder/layers/.* have an adapter .*import with --unrolled"),
        (dict(remove=("lora_B",)), "has no lora_B"),
        ({A: np.zeros((3, 25), np.float32)}, r"A \(3, 25\) and B .* do not fit the weight \(32, 24\) of the base"),
        ({"base_model.model.other": np.zeros(2, np.float32)}, "base_model.model.other .* is no tensor of this model"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    model, base = hf.load(BASES / "llama")
    names = Names(families.FAMILIES["llama"], model)
    with pytest.raises(ValueError, match=message):
        importing.read(changed(tmp_path, "llama_lora", **change), names, base)


def test_an_adapter_for_another_base_is_refused(tmp_path):
    """By the hash in the file, or by the copies of the base's weights that PEFT writes."""
    names, base, adapter, _ = load("llama_rslora")
    other = jax.tree.map(lambda x: x + 1e-3, base)
    with pytest.raises(
        ValueError, match=r"differs from (lm_head|model.embed_tokens).weight of the base: the adapter is for another"
    ):
        importing.read(FOLDER / "llama_rslora", names, other)
    names, base, adapter, _ = load("llama_lora")
    exporting.write(tmp_path, names, adapter.transform, adapter.trained, base, "somewhere")
    importing.read(tmp_path, names, jax.tree.map(lambda x: x.astype(jnp.float32), base))
    with pytest.raises(ValueError, match="is for another base: its weights have the sha256"):
        importing.read(tmp_path, names, other)


def test_layers_with_different_ranks_need_unrolled_layers(tmp_path):
    ranks = {"rank_pattern": {"layers.1.mlp.down_proj": 1}}
    values = {
        f"base_model.model.model.layers.1.mlp.down_proj.lora_{name}.weight": np.ones(shape, np.float32)
        for name, shape in (("A", (1, 40)), ("B", (24, 1)))
    }
    folder = changed(tmp_path, "llama_lora", ranks, **values)
    model, base = hf.load(BASES / "llama")
    with pytest.raises(ValueError, match="have different ranks; import with --unrolled"):
        importing.read(folder, Names(families.FAMILIES["llama"], model), base)
    model, base = hf.load(BASES / "llama", scan=False)
    adapter = importing.read(folder, Names(families.FAMILIES["llama"], model), base)
    added = adapter.trained["decoder"]["layer_1"]["mlp"]["down"]["kernel@lora"]
    assert added["a"].shape == (40, 1)


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    names, base, _, _ = load("llama_lora")
    for transform, message in (
        (parameters.Freeze(), "the format of PEFT holds no Freeze"),
        (selection.Train(("mixer",)), "is no norm that is trained as a whole"),
    ):
        trained, _ = transform.split(base, jax.random.key(0))
        with pytest.raises(ValueError, match=message):
            exporting.write(tmp_path, names, transform, trained, base, "somewhere")


def test_kernels_of_one_tensor_with_different_a_are_written_with_the_sum_of_their_ranks(tmp_path):
    """GPT-2 stores queries, keys and values as one tensor; read again, they are the same updates."""
    names, base, _, _ = load("gpt2_lora")
    transform = lora.LoRA(("mixer/(query|value)/kernel$",), rank=2, alpha=3.0)
    boxed = parameters.box(names.boxed, base)
    trained, _ = parameters.nn.unbox(transform.split(boxed, jax.random.key(0)))
    trained = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), trained)
    exporting.write(tmp_path, names, transform, trained, base, "somewhere")
    again = importing.read(tmp_path, names, base)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4
    plain = [parameters.plain(t.merge(x, base)) for t, x in ((transform, trained), (again.transform, again.trained))]
    for ours, theirs in zip(*map(jax.tree.leaves, plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
