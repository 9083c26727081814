"""GGUF files: a LLaMA in the format of llama.cpp equals its Hugging Face folder."""

import struct

import numpy as np
import pytest

from t5x_like import hf
from t5x_like.hf import gguf, tensors
from tests.hf import folders
from tests.hf.folders import FIXTURES

library = pytest.importorskip("gguf")

GGUF_NAMES = {name: gguf_name for gguf_name, name in gguf.TENSORS.items()}
GGUF_PARTS = {name: gguf_name for gguf_name, name in gguf.LAYER_TENSORS.items()}


def gguf_name(name: str) -> str:
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, _, number, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{number}.{GGUF_PARTS[part]}.{kind}"


def interleave_halves(x: np.ndarray, heads: int) -> np.ndarray:
    """Converts rotary halves to the adjacent pairs of llama.cpp."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(path, name="llama", kind=None, drop=(), changes=None, **fields):
    """Writes a fixture as a GGUF file with extra metadata, quantized as `kind`."""
    config = folders.config(name) | (changes or {})
    writer = library.GGUFWriter(path, "llama")
    for gguf_field, field in gguf.FIELDS.items():
        value = config[field]
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(gguf_field, value)
    for field, value in fields.items():
        writer.add_string(f"llama.{field}", value)
    for key, tensor in tensors.list_tensors(FIXTURES / name).items():
        x = tensor.read()
        for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            x = interleave_halves(x, heads) if part in key else x
        if key in drop:
            continue
        if kind is not None and x.ndim == 2 and x.shape[1] % 32 == 0:
            writer.add_tensor(gguf_name(key), library.quants.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(key), np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_equals_its_folder(tmp_path):
    write(tmp_path / "model.gguf")
    model, params = hf.load(tmp_path / "model.gguf")
    hf.save(model, params, tmp_path / "out")
    before, after = tensors.list_tensors(FIXTURES / "llama"), tensors.list_tensors(tmp_path / "out")
    assert {n: x.read().tobytes() for n, x in after.items()} == {n: x.read().tobytes() for n, x in before.items()}


def test_another_architecture_and_unknown_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"general.architecture='mamba' is not supported, only 'llama'"):
        gguf.convert_config({"general.architecture": "mamba"}, [], "x.gguf")
    write(tmp_path / "odd.gguf", **{"rope.scaling.type": "yarn"})
    with pytest.raises(ValueError, match=r"may change what the model computes: llama.rope.scaling.type='yarn'"):
        gguf.load(tmp_path / "odd.gguf")


def test_ignore_is_refused_for_gguf_files(tmp_path):
    write(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match=r"ignore=\('clip_qkv',\) names fields of a config.json.*leave it out"):
        hf.load(tmp_path / "model.gguf", ignore=("clip_qkv",))


def test_a_missing_tensor_is_named(tmp_path):
    write(tmp_path / "short.gguf", drop=("model.norm.weight",))
    with pytest.raises(ValueError, match=r"model.norm.weight: missing"):
        gguf.load(tmp_path / "short.gguf")


def test_missing_heads_are_named():
    values = {name: 4 for name in gguf.FIELDS} | {"general.architecture": "llama"}
    array = values | {"llama.attention.head_count": [4, 4]}
    with pytest.raises(ValueError, match=r"x.gguf: num_attention_heads=\[4, 4\] is not a whole number"):
        gguf.convert_config(array, [], "x.gguf")
    del values["llama.attention.head_count"]
    with pytest.raises(ValueError, match=r"x.gguf has no llama.attention.head_count; download it again"):
        gguf.convert_config(values, [], "x.gguf")


def test_a_number_of_layers_is_compared_with_the_tensors(tmp_path):
    write(tmp_path / "deep.gguf", changes={"num_hidden_layers": 9999})
    with pytest.raises(ValueError, match="num_hidden_layers=9999, but the file has only 30 tensors"):
        gguf.load(tmp_path / "deep.gguf")


HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
DAMAGED = {
    "a long array": HEADER + struct.pack("<IIQ", 9, 4, 2**40),
    "an array of arrays": HEADER + struct.pack("<IIQIQ", 9, 9, 2**40, 9, 2**40),
    "many small elements": HEADER + struct.pack("<IIQ", 9, 0, 6_000_000) + bytes(6_000_000),
    "a long text": HEADER + struct.pack("<IQ", 8, 2**60),
    "an unknown type": HEADER + struct.pack("<I", 77),
    "many tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0),
    "many dimensions": b"GGUF" + struct.pack("<IQQQI", 3, 1, 0, 0, 2**31),
    "another version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "nothing": b"",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_counts_beyond_the_file_are_refused_before_anything_is_allocated(tmp_path, case):
    (tmp_path / "x.gguf").write_bytes(DAMAGED[case])
    with pytest.raises(ValueError, match="x.gguf is damaged or not a GGUF file"):
        gguf.open_file(tmp_path / "x.gguf")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not a model, only some bytes of text that mean nothing at all")
    with pytest.raises(ValueError, match="x.gguf is damaged or not a GGUF file"):
        gguf.load(tmp_path / "x.gguf")
