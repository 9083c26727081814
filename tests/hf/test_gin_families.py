"""Every gin family exports as its own model_type, with the numbers of the published config.json."""

import pytest

from t5x_like import hf
from tests.gin_models import TINY, family_of, model_of

# Families without a Hugging Face format (also GPT-3 because of its windows, and Galactica because of its norms).
UNSUPPORTED = {"chinchilla", "galactica", "glam", "gopher", "gpt1", "gpt3", "lamda", "palm"}
MODEL_TYPES = {
    "code_llama": "llama", "codegen": "codegen", "electra_discriminator": "electra", "electra_generator": "electra",
    "gemma3": "gemma3_text", "llama2": "llama", "llama3": "llama", "smollm2": "llama", "switch_t5": "switch_transformers",
    "byt5": "t5", "t5_1_1": "t5", "mt5": "t5", "ul2": "t5",
}  # fmt: skip

# From the config.json files of the released checkpoints.
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
PUBLISHED = {
    "gpt2/small": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
                   "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    "gptj/6b": {"n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400},
    "gpt_neox/20b": {"hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64, "rotary_pct": 0.25,
                     "intermediate_size": 24576, "vocab_size": 50432, "use_parallel_residual": True},
    "codegen/350m": {"n_embd": 1024, "n_layer": 20, "n_head": 16, "rotary_dim": 32, "vocab_size": 51200},
    "phi/2": {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 10240,
              "partial_rotary_factor": 0.4, "vocab_size": 51200, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
    "bloom/560m": {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880, "layer_norm_epsilon": 1e-5},
    "opt/350m": {"hidden_size": 1024, "word_embed_proj_dim": 512, "do_layer_norm_before": False, "ffn_dim": 4096,
                 "num_hidden_layers": 24, "max_position_embeddings": 2048, "vocab_size": 50272},
    "falcon/7b": {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True,
                  "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "vocab_size": 65024},
    "falcon/40b": {"hidden_size": 8192, "num_hidden_layers": 60, "num_kv_heads": 8, "new_decoder_architecture": True},
    "llama2/7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
                  "rope_theta": 1e4, "rope_scaling": None, "tie_word_embeddings": False, "vocab_size": 32000},
    "code_llama/34b": {"num_key_value_heads": 8, "rope_theta": 1e6, "intermediate_size": 22016, "vocab_size": 32000},
    "llama3/8b_3_1": {"rope_theta": 5e5, "rope_scaling": LLAMA3, "num_key_value_heads": 8, "vocab_size": 128256,
                      "intermediate_size": 14336, "rms_norm_eps": 1e-5},
    "mistral/7b": {"sliding_window": 4096, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "intermediate_size": 14336},
    "mixtral/8x7b": {"num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6, "intermediate_size": 14336,
                     "sliding_window": None, "rms_norm_eps": 1e-5},
    "smollm2/135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "rope_theta": 1e5, "tie_word_embeddings": True, "vocab_size": 49152},
    "qwen2/0_5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
                   "intermediate_size": 4864, "rope_theta": 1e6, "tie_word_embeddings": True, "vocab_size": 151936},
    "qwen3/8b": {"hidden_size": 4096, "head_dim": 128, "num_key_value_heads": 8, "intermediate_size": 12288,
                 "rope_theta": 1e6, "attention_bias": False, "tie_word_embeddings": False},
    "qwen3_moe/30b_a3b": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                          "norm_topk_prob": True, "hidden_size": 2048, "num_hidden_layers": 48, "mlp_only_layers": []},
    "olmo2/7b": {"hidden_size": 4096, "intermediate_size": 11008, "rope_theta": 5e5, "rms_norm_eps": 1e-6,
                 "vocab_size": 100352},
    "gemma/2b": {"hidden_size": 2048, "head_dim": 256, "num_key_value_heads": 1, "intermediate_size": 16384,
                 "num_hidden_layers": 18, "vocab_size": 256000},
    "gemma2/27b": {"query_pre_attn_scalar": 144, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                   "sliding_window": 4096, "head_dim": 128, "num_hidden_layers": 46},
    "gemma3/1b": {"hidden_size": 1152, "head_dim": 256, "num_hidden_layers": 26, "sliding_window": 512,
                  "rope_theta": 1e6, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256, "vocab_size": 262144},
    "t5/small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "vocab_size": 32128,
                 "feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5_1_1/xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32, "num_layers": 24, "tie_word_embeddings": False,
                  "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32},
    "byt5/small": {"d_model": 1472, "num_layers": 12, "num_decoder_layers": 4, "d_ff": 3584, "vocab_size": 384},
    "switch_t5/base_128": {"num_experts": 128, "encoder_sparse_step": 2, "num_sparse_decoder_layers": 6},
    "bart/base": {"d_model": 768, "encoder_layers": 6, "decoder_ffn_dim": 3072, "max_position_embeddings": 1024},
    "bert/base": {"hidden_size": 768, "num_hidden_layers": 12, "type_vocab_size": 2, "max_position_embeddings": 512,
                  "vocab_size": 30522, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "roberta/base": {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "vocab_size": 50265},
    "albert/xlarge": {"embedding_size": 128, "hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 30000},
    "electra_discriminator/small": {"embedding_size": 128, "hidden_size": 256, "intermediate_size": 1024},
    "xlnet/base": {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072, "ff_activation": "gelu"},
}  # fmt: skip


@pytest.mark.parametrize("size", TINY)
def test_every_family_exports_as_its_model_type(size):
    family = family_of(size)
    if family in UNSUPPORTED:
        return
    model = model_of(size)
    model_type = MODEL_TYPES.get(family, family)
    exported, _ = hf.build_config(model, model_type)  # raises unless the configuration rebuilds the model
    assert exported.model_type == model_type


def test_unsupported_families_are_refused():
    for family in sorted(UNSUPPORTED - {"gpt1", "galactica"}):
        with pytest.raises(ValueError, match="no Hugging Face family holds this model"):
            hf.build_config(model_of(f"sizes/{family}/tiny.gin"))


@pytest.mark.parametrize("size", PUBLISHED)
def test_gin_files_give_the_published_fields(size):
    family = size.partition("/")[0]
    _, config = hf.build_config(model_of(f"sizes/{size}.gin"), MODEL_TYPES.get(family, family))
    assert {name: config[name] for name in PUBLISHED[size]} == PUBLISHED[size]
