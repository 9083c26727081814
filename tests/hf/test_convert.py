"""Import and export of folders: meshes, layouts, shards, and errors before anything is written."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import checkpoints, hf, partitioning
from t5x_like.hf import placing, tensors
from tests.hf import folders
from tests.hf.folders import FIXTURES


def copy_fixture(name, tmp_path):
    """Copies the folder of a fixture for changes."""
    shutil.copytree(FIXTURES / name, tmp_path / name)
    return tmp_path / name


def rewrite(folder, change):
    """Replaces the tensors of a folder by `change(tensors)`."""
    before = {name: tensor.read() for name, tensor in tensors.list_tensors(folder).items()}
    after = {n: tensors.StoredTensor(x.shape, x.dtype, make=lambda x=x: x) for n, x in change(dict(before)).items()}
    for path in folder.glob("model*"):
        path.unlink()
    tensors.write_tensors(folder, after, 10**9, lambda names, total: names)


def assert_equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom", "gemma3_text", "phi3"])
def test_large_parameters_are_assembled_on_devices(name, monkeypatch):
    _, small = hf.load(FIXTURES / name)
    monkeypatch.setattr(placing, "MAX_HOST_SIZE", 0)
    _, large = hf.load(FIXTURES / name)
    assert_equal(small, large)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("limit", [0, 2**20])
def test_parameters_are_sharded_over_eight_devices(monkeypatch, scan, limit):
    monkeypatch.setattr(placing, "MAX_HOST_SIZE", limit)
    mesh = partitioning.make_mesh(data=1, fsdp=4, tensor=2)
    _, sharded = hf.load(FIXTURES / "llama", mesh, scan=scan, rules=[*partitioning.RULES, ("vocab", None)])
    _, whole = hf.load(FIXTURES / "llama", partitioning.make_mesh(devices=jax.devices()[:1]), scan=scan)
    assert_equal(sharded, whole)
    kernels = {n: x for n, x in checkpoints.leaves_by_name(sharded).items() if n.endswith("mlp.up.kernel")}
    for kernel in kernels.values():
        assert kernel.addressable_shards[0].data.size == kernel.size // 8


def test_scanned_and_unrolled_layers_are_equal():
    model, params = hf.load(FIXTURES / "gemma3_text")
    unrolled, unrolled_params = hf.load(FIXTURES / "gemma3_text", scan=False)
    batch = folders.batch(folders.expected("gemma3_text"), ("decoder",))
    logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(jax.jit(unrolled.apply)({"params": unrolled_params}, batch), logits, atol=1e-5)


def test_dtypes_are_stored_or_requested():
    stored = {x.dtype for x in jax.tree.leaves(hf.load(FIXTURES / "llama_bf16")[1])}
    requested = {x.dtype for x in jax.tree.leaves(hf.load(FIXTURES / "llama_bf16", dtype=jnp.float32)[1])}
    assert (stored, requested) == ({jnp.dtype(jnp.bfloat16)}, {jnp.dtype(jnp.float32)})


def test_shards_equal_a_single_file(tmp_path):
    model, params = hf.load(FIXTURES / "llama")
    hf.save(model, params, tmp_path / "one")
    hf.save(model, params, tmp_path / "many", shard_bytes=10_000)
    shards = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    one, many = tensors.list_tensors(tmp_path / "one"), tensors.list_tensors(tmp_path / "many")
    assert {n: x.read().tobytes() for n, x in one.items()} == {n: x.read().tobytes() for n, x in many.items()}
    index = json.loads((tmp_path / "many" / tensors.INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(tensors.byte_size(x) for x in one.values())


def test_the_safetensors_library_reads_exported_files(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    hf.save(*hf.load(FIXTURES / "gpt2"), tmp_path / "out")
    theirs = safetensors_numpy.load_file(tmp_path / "out" / tensors.SINGLE_FILE)
    ours = tensors.list_tensors(tmp_path / "out")
    assert set(theirs) == set(ours)
    for name, x in theirs.items():
        np.testing.assert_array_equal(x, ours[name].read())


def test_a_failed_export_leaves_no_files(tmp_path):
    model, params = hf.load(FIXTURES / "llama")

    def full(folder):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        hf.save(model, params, tmp_path / "out", finish=full)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(FileExistsError, match="out already exists; give a new folder"):
        hf.save(*hf.load(FIXTURES / "llama"), tmp_path / "out")


def test_progress_reports_every_tensor(tmp_path):
    seen = []
    model, params = hf.load(FIXTURES / "llama", progress=lambda names, total: seen.append(total) or names)
    hf.save(model, params, tmp_path / "out", progress=lambda names, total: seen.append(total) or names)
    assert seen == [len(tensors.list_tensors(FIXTURES / "llama"))] * 2


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    folder = copy_fixture("llama", tmp_path)

    def change(content):
        content["model.extra"] = content.pop("model.norm.weight")
        content["lm_head.weight"] = content["lm_head.weight"][1:]
        return content

    rewrite(folder, change)
    with pytest.raises(ValueError) as error:
        hf.load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert "model.norm.weight: missing" in message and "model.extra: (24,), not a tensor of this model" in message
    assert "lm_head.weight: shape (60, 24) in the file, (61, 24) by the configuration" in message


def test_a_copy_of_a_tied_table_must_equal_it(tmp_path):
    folder = copy_fixture("gpt2", tmp_path)
    table = "transformer.wte.weight"
    rewrite(folder, lambda content: content | {"lm_head.weight": content[table].copy()})
    assert_equal(hf.load(folder)[1], hf.load(FIXTURES / "gpt2")[1])
    rewrite(folder, lambda content: content | {"lm_head.weight": content[table] + 1})
    with pytest.raises(ValueError, match=r"lm_head.weight differs from transformer.wte.weight"):
        hf.load(folder)


@pytest.mark.parametrize("cut", [4, 100, -8])
def test_a_truncated_file_is_refused(tmp_path, cut):
    folder = copy_fixture("llama", tmp_path)
    path = folder / tensors.SINGLE_FILE
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*; download or copy it again"):
        hf.load(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = copy_fixture("llama_sharded", tmp_path)
    missing = sorted(folder.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"names {missing.name}, which does not exist"):
        hf.load(folder)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "a/../../x", ".hidden", ["a"], {"a": 1}, 3, None, ""]
)
def test_an_index_names_files_of_its_own_folder_only(tmp_path, shard):
    folder = copy_fixture("llama_sharded", tmp_path)
    (tmp_path / "x.safetensors").write_bytes((FIXTURES / "llama" / tensors.SINGLE_FILE).read_bytes())
    index = json.loads((folder / tensors.INDEX_FILE).read_text())
    first = next(iter(index["weight_map"]))
    (folder / tensors.INDEX_FILE).write_text(json.dumps(index | {"weight_map": index["weight_map"] | {first: shard}}))
    with pytest.raises(ValueError, match=r"names the file .* same folder|is not an index"):
        hf.load(folder)


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', '{"weight_map": {"a": "b"', "[" * 100_000])
def test_a_damaged_index_is_refused(tmp_path, index):
    folder = copy_fixture("llama_sharded", tmp_path)
    (folder / tensors.INDEX_FILE).write_text(index)
    with pytest.raises(ValueError, match="is not an index"):
        hf.load(folder)


@pytest.mark.parametrize("name", ["config.json", tensors.SINGLE_FILE])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, name):
    folder = copy_fixture("llama", tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        hf.load(folder)


@pytest.mark.parametrize("content", [b'{"model_type": "ll\xe4ma"}' + b" " * 10**5, b"[" * 10**5, b"[]", b"{}", b"nul"])
def test_a_damaged_configuration_is_refused_in_one_short_line(tmp_path, content):
    folder = copy_fixture("llama", tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is not a model's configuration") as error:
        hf.load(folder)
    assert len(str(error.value)) < 300 + len(str(folder))


def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path):
    folder = copy_fixture("llama", tmp_path)
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert_equal(hf.load(folder)[1], hf.load(FIXTURES / "llama")[1])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["llama", "llama_bf16"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name, value):
    folder = copy_fixture(name, tmp_path)

    def change(content):
        content["model.layers.1.mlp.up_proj.weight"][2, 3:5] = value
        return content

    rewrite(folder, change)
    with pytest.raises(
        ValueError, match=r"layers.1.mlp.up_proj.weight has 2 values that are NaN or infinite; to import"
    ):
        hf.load(folder)
    _, params = hf.load(folder, allow_nonfinite=True)
    assert sum(int((~np.isfinite(np.asarray(x, np.float32))).sum()) for x in jax.tree.leaves(params)) == 2


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_only_nan_and_infinity_are_not_finite(dtype):
    limits = [float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).min)]
    x = np.array([0, -1, 1e-8, *limits, np.nan, np.inf, -np.inf, -np.nan], dtype)
    assert tensors.count_nonfinite(np.tile(x, (7, 40_000))) == 4 * 7 * 40_000


def test_pickles_are_refused_with_conversion_instructions(tmp_path):
    folder = copy_fixture("llama", tmp_path)
    (folder / tensors.SINGLE_FILE).rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin is not read.*save_pretrained\(OUT, safe_serial"):
        hf.load(folder)


def test_an_unknown_family_is_refused(tmp_path):
    folder = copy_fixture("llama", tmp_path)
    (folder / "config.json").write_text(json.dumps(folders.config("llama") | {"model_type": "llamba"}))
    with pytest.raises(ValueError, match=r"model_type='llamba' is not supported; supported are albert, bart"):
        hf.load(folder)


def test_an_unknown_field_is_refused_unless_it_is_ignored(tmp_path):
    folder = copy_fixture("llama", tmp_path)
    (folder / "config.json").write_text(json.dumps(folders.config("llama") | {"clip_qkv": 8.0}))
    with pytest.raises(ValueError, match=r"may change what the model computes: clip_qkv=8.0"):
        hf.load(folder)
    assert_equal(hf.load(folder, ignore=("clip_qkv",))[1], hf.load(FIXTURES / "llama")[1])


def test_a_model_without_a_family_is_refused_with_its_differences():
    model, _ = hf.load(FIXTURES / "llama")
    odd = model.copy(embed=model.embed.copy(scale=3.0))
    with pytest.raises(ValueError, match=r"no Hugging Face family holds this model; as '\w+' it would differ"):
        hf.build_config(odd)
