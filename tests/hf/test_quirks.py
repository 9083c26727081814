"""Published folders: historical names, copied and unused tensors, fields of other programs, absent fields."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t5x_like import hf
from t5x_like.hf import families, fields, modules, tensors
from tests.hf.folders import FIXTURES, NAMES, config


def edit_fixture(name, folder, rename=lambda name: name, extra=None, drop=(), **changes):
    """Copies a fixture with changed tensors and fields."""
    arrays = {rename(key): x for key, x in load_file(FIXTURES / name / "model.safetensors").items() if key not in drop}
    save_file(arrays | (extra or {}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(name) | changes))
    return folder


def model_of(name, drop=(), **changes):
    values = {key: x for key, x in config(name).items() if key not in drop} | changes
    return families.build_model(values, names=tensors.list_tensors(FIXTURES / name))[1]


def equals_fixture(folder, name):
    """Returns whether a folder has the model and the parameters of a fixture."""
    (model, params), (original, expected) = hf.load(folder), hf.load(FIXTURES / name)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    return modules.is_equivalent(model, original)


def tensor(name, key):
    return load_file(FIXTURES / name / "model.safetensors")[key]


def old_name(name):
    """Returns the name of a norm in early BERT files."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("name", ["bert", "bert_base"])
def test_norms_called_gamma_and_beta(name, tmp_path):
    assert equals_fixture(edit_fixture(name, tmp_path, old_name), name)


def test_bare_encoder_with_its_prefix(tmp_path):
    assert equals_fixture(edit_fixture("bert_base", tmp_path, lambda name: f"bert.{name}"), "bert_base")


def test_table_stored_under_the_name_of_its_copy(tmp_path):
    table = {"encoder.embed_tokens.weight": tensor("t5", "shared.weight")}
    assert equals_fixture(edit_fixture("t5", tmp_path, extra=table, drop=["shared.weight"]), "t5")


def test_bare_model_with_a_copy_of_its_table(tmp_path):
    head = {"lm_head.weight": tensor("gpt2", "transformer.wte.weight")}
    bare = edit_fixture("gpt2", tmp_path, lambda name: name.removeprefix("transformer."), extra=head)
    assert equals_fixture(bare, "gpt2")


def test_t5_with_a_bias_for_its_cross_attention(tmp_path):
    bias = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones((8, 4), np.float32)}
    assert equals_fixture(edit_fixture("t5", tmp_path, extra=bias), "t5")


def test_quantized_tensor_is_refused(tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    quantized = {name: tensor("llama", name).astype(np.int8)}
    with pytest.raises(ValueError, match=f"{name}: stored as int8"):
        hf.load(edit_fixture("llama", tmp_path, extra=quantized))


PUBLISHED = {
    "gptj": {"rotary": True, "scale_attn_weights": True},
    "codegen": {"scale_attn_weights": True},
    "gpt2": {"n_special": 0, "predict_special_tokens": True},
    "falcon_40b": {"ff_factor": 4},
    "llama": {"max_sequence_length": 2048, "is_llama_config": True, "rope_interleaved": False},
    "qwen2": {"use_sliding_window": False, "sliding_window": 4096, "use_mrope": False},
    "qwen2_moe": {"sliding_window": 0},
    "phi3": {"attention_bias": False, "lm_head_bias": False, "interpolate_factor": 1},
    "opt": {"learned_embeddings": True, "scale_embeddings": False},
    "t5_1_1": {"scalable_attention": True, "dense_act_fn": "gelu_new", "is_gated_act": True},
    "bert": {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"},
    "bart": {"force_bos_token_to_be_generated": True, "replacing_rate": 0, "is_decoder": False},
    "switch": {"add_cross_attention": False, "tie_encoder_decoder": False},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_of_published_configurations_have_no_effect(name):
    assert modules.is_equivalent(model_of(name), model_of(name, **PUBLISHED[name]))


ABSENT = {
    "albert": ("hidden_act", "gelu_new"),
    "gemma2": ("attn_logit_softcapping", 50.0),
    "gemma2_scalar": ("query_pre_attn_scalar", 256),
    "gemma3_text": ("query_pre_attn_scalar", 256),
    "mixtral": ("rope_theta", 1e6),
    "olmo2": ("rms_norm_eps", 1e-5),
    "phi3": ("rms_norm_eps", 1e-5),
}


@pytest.mark.parametrize("case", ABSENT)
def test_an_absent_field_has_the_default_of_its_family(case):
    name, (field, value) = case.removesuffix("_scalar"), ABSENT[case]
    assert modules.is_equivalent(model_of(name, drop=[field]), model_of(name, **{field: value}))


def test_gelu_of_gemma_1_is_the_tanh_approximation():
    assert modules.is_equivalent(model_of("gemma"), model_of("gemma", hidden_act="gelu", hidden_activation=None))


def test_qwen3_moe_has_windows_in_every_layer():
    model = model_of("qwen3_moe", use_sliding_window=True, sliding_window=3, max_window_layers=1)
    assert [layer.mixer.mask.size for layer in modules.unstack_layers(model.decoder)] == [3] * 3


def test_rotary_positions_are_those_of_the_version_that_wrote_the_folder():
    new, old = {"rope_type": "default", "rope_theta": 77.0}, {"rope_theta": 55.0}
    for name in ("llama", "gpt_neox"):
        resaved_by_4 = model_of(name, rope_parameters=new, transformers_version="4.57.6")
        assert modules.is_equivalent(resaved_by_4, model_of(name))
        resaved_by_5 = model_of(name, ["rotary_emb_base"], **old, rope_parameters=new, transformers_version="5.23.0")
        assert resaved_by_5.decoder.position.base == 77.0
    del new["rope_theta"]
    assert model_of("llama", **old, rope_parameters=new, transformers_version="5.23.0").decoder.position.base == 55.0


REFUSED = {
    "gemma": {"hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3_text": {"attn_logit_softcapping": 2.0},
    "llama": {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}},
    "mistral": {"layer_types": ["full_attention"] * 3},
    "qwen2": {"layer_types": ["sliding_attention"] * 3},
    "qwen2_moe": {"use_sliding_window": True},
    "t5": {"dense_act_fn": "gelu"},
    "gpt_neox": {"rotary_emb_base": 77, "rope_theta": 10},
    "bloom": {"n_head": 6, "num_attention_heads": 3},
    "falcon_7b": {"num_hidden_layers": 3, "n_layer": 2},
    "gptj": {"scale_attn_weights": False},
    "bart": {"add_cross_attention": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_field_that_would_change_the_mathematics_is_refused_by_name(name):
    with pytest.raises(ValueError, match=next(iter(REFUSED[name])).removesuffix("_act")):
        model_of(name, **REFUSED[name])


WRONG = {
    "llama": (
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "3"},
        {"rms_norm_eps": "1e-6"},
        {"num_attention_heads": 0},
    ),
    "mistral": ({"sliding_window": 0}, {"tie_word_embeddings": "false"}),
    "gemma2": ({"layer_types": ["full_attention"]},),
    "gemma3_text_v5": ({"rope_parameters": {"rope_theta": 1.0}},),
    "bert": ({"architectures": "BertModel"},),
    "t5": ({"feed_forward_proj": 3}, {"model_type": ["t5"]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_type_is_refused_by_name(name):
    for changes in WRONG[name]:
        with pytest.raises(ValueError, match=next(iter(changes))):
            model_of(name, **changes)


def test_a_single_file_takes_precedence_over_an_index(tmp_path):
    (edit_fixture("llama", tmp_path) / tensors.INDEX_FILE).write_text("{}")
    assert equals_fixture(tmp_path, "llama")


def test_untied_gemma_2_has_a_table_inside_its_soft_cap_head(tmp_path):
    table = tensor("gemma2", "model.embed_tokens.weight")
    folder = edit_fixture("gemma2", tmp_path, extra={"lm_head.weight": 2 * table}, tie_word_embeddings=False)
    params = hf.load(folder)[1]
    np.testing.assert_array_equal(params["head"]["head"]["table"], 2 * table)


def test_gemma_3_with_dynamic_scaling_exports_its_length():
    model = model_of("gemma3_text", rope_scaling={"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=32)
    assert families.build_config(model, "gemma3_text")[1]["max_position_embeddings"] == 32


def test_switch_with_a_dense_encoder_exports_and_imports():
    model = model_of("switch", num_layers=1)
    family, values = families.build_config(model, "switch_transformers")
    assert modules.is_equivalent(family.build(fields.Fields(values)), model)


def test_an_exported_configuration_has_no_field_that_other_libraries_refuse():
    falcon = families.build_config(model_of("falcon_rw"), "falcon")[1]
    assert not {"rope_theta", "rope_scaling", "max_position_embeddings"} & set(falcon)
    assert families.build_config(model_of("phi3"), "phi3")[1]["pad_token_id"] is None
    assert families.build_config(model_of("gpt_neox"), "gpt_neox")[1]["rotary_emb_base"] == 1e4
    for name, count in {"gemma2": 4, "gemma3_text": 8}.items():
        model = model_of(name, layer_types=["full_attention"] * count)
        assert "sliding_window" not in families.build_config(model, config(name)["model_type"])[1]


def test_every_fixture_has_a_family():
    assert {config(name)["model_type"] for name in NAMES} <= set(families.FAMILIES)
