"""Values of config.json out of their range are refused in one line, before anything is built or read."""

import random

import pytest

from t5x_like import hf
from t5x_like.hf import fields
from tests.hf import folders
from tests.hf.folders import NAMES, config

NAN, INFINITY = float("nan"), float("inf")
REFUSED = {
    "llama": [
        ("rope_theta", 0), ("rope_theta", -1e4), ("rope_theta", INFINITY), ("rms_norm_eps", -1e-6), ("rms_norm_eps", NAN),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}), ("rope_scaling", {"rope_type": "linear", "factor": "2"}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 0.5}), ("rope_scaling", ["linear"]), ("head_dim", 0), ("head_dim", 7),
        ("head_dim", 10**9),
        ("num_hidden_layers", 10**9), ("num_hidden_layers", True), ("hidden_size", 10**12), ("vocab_size", [61]),
        ("num_attention_heads", 0), ("num_key_value_heads", 3), ("attention_dropout", 2), ("tie_word_embeddings", "no"),
    ],
    "llama3": [
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32}),
    ],
    "llama3_v5": [("rope_parameters", {"rope_type": "default", "rope_theta": -1.0}), ("rope_parameters", 3)],
    "gpt2": [("n_embd", 25), ("n_layer", 10**9), ("layer_norm_epsilon", -1), ("n_inner", 0), ("activation_function", 3)],
    "gptj": [("rotary_dim", 7), ("rotary_dim", 10**6)],
    "gpt_neox": [("rotary_pct", 0), ("rotary_pct", 1.5), ("rotary_emb_base", 0)],
    "bloom": [("n_layer", 10**9), ("n_head", 10**9), ("hidden_size", 25)],
    "falcon_7b": [("num_hidden_layers", 10**9), ("num_attention_heads", 5)],
    "opt": [("max_position_embeddings", 2**31 - 1), ("num_hidden_layers", 10**9), ("word_embed_proj_dim", 0)],
    "t5": [("num_layers", 10**9), ("num_decoder_layers", 10**9), ("layer_norm_epsilon", -1e-6), ("d_kv", 0),
           ("relative_attention_num_buckets", -8), ("transformers_version", 5)],
    "switch": [("num_experts", 10**9), ("encoder_sparse_step", -1), ("expert_capacity", 0)],
    "mixtral": [("num_local_experts", 10**9), ("num_experts_per_tok", 0), ("sliding_window", -1)],
    "qwen3_moe": [("num_experts", 10**9), ("mlp_only_layers", ["a"]), ("mlp_only_layers", 3)],
    "gemma2": [("attn_logit_softcapping", 0), ("query_pre_attn_scalar", -1), ("layer_types", [[]]), ("layer_types", [1])],
    "bart": [("encoder_layers", 10**9), ("decoder_attention_heads", 5), ("max_position_embeddings", 0)],
    "bert": [("num_hidden_layers", 10**9), ("architectures", [1]), ("id2label", 3), ("layer_norm_eps", -1)],
    "roberta": [("max_position_embeddings", 1), ("pad_token_id", -1)],
    "albert": [("num_hidden_layers", 10**9), ("embedding_size", 0)],
    "xlnet": [("n_layer", 10**9), ("d_model", 25), ("d_model", 2**30)],
}  # fmt: skip


def refusal(name, field, value):
    """Returns the message for a fixture with one changed field."""
    values = {key: x for key, x in config(name).items() if not (name == "xlnet" and key == "d_head")}
    with pytest.raises(ValueError) as error:
        hf.build_model(values | {field: value}, "x/config.json", names=folders.tensor_names(name))
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_out_of_range_is_refused_by_name(name):
    for field, value in REFUSED[name]:
        message = refusal(name, field, value)
        assert message.startswith("x/config.json: ") and "\n" not in message and len(message) < 300
        assert field in message or "numbers of each head are rotated" in message, message


def test_a_number_of_layers_is_compared_with_the_tensors():
    message = refusal("llama", "num_hidden_layers", 1000)
    assert message == f"x/config.json: num_hidden_layers=1000, but the file has only {3 * 9 + 3} tensors"
    with pytest.raises(ValueError, match="num_hidden_layers=1000000000 is not a whole number from 1 to 10000"):
        hf.build_model(config("llama") | {"num_hidden_layers": 10**9})  # without names of tensors


def test_a_refusal_has_the_value_and_the_range():
    assert refusal("llama", "rms_norm_eps", -1) == "x/config.json: rms_norm_eps=-1 is not a number from 0 to 1"
    assert refusal("llama", "head_dim", 0) == "x/config.json: head_dim=0 is not a whole number from 1 to 1073741824"
    long = fields.format_json(list(range(1000)))
    assert len(long) == 80 and long.endswith("...")


VALUES = [
    0, -1, 1, 3, 7, 10**9, 2**63, 1e300, 1e-300, NAN, INFINITY, -0.5, 0.5, "", "x", "3", "gelu", None, True, False, [], [1],
    [None], [[]], {}, {"a": 1}, {"rope_type": "yarn"}, {"type": "linear", "factor": -2.0}, {"rope_type": ["x"]}, "5.1.0",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted({config(name)["model_type"]: name for name in reversed(NAMES)}.values()))
def test_any_change_of_a_configuration_is_read_or_refused(name):
    rng, names, original = random.Random(name), folders.tensor_names(name), config(name)
    for _ in range(40):
        values = original | {rng.choice(sorted(original)): rng.choice(VALUES) for _ in range(rng.choice((1, 1, 2)))}
        for key in rng.sample(sorted(set(values) - {"model_type"}), rng.choice((0, 0, 1))):
            del values[key]
        try:
            hf.build_model(values, names=names)
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith("config.json")
