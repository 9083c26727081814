"""The tiny models of the fixtures: name -> (Hugging Face model class, configuration)."""

VOCAB = 61  # odd and different from every other dimension, so that a transposed table fails

_IDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
_GPTJ = _IDS | {"n_positions": 24, "n_layer": 2, "n_inner": 40}
_NEOX = _IDS | {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40, "rotary_pct": 0.25,
    "max_position_embeddings": 32,
}  # fmt: skip
_OPT = _IDS | {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 40, "max_position_embeddings": 24,
    "pad_token_id": 0,
}  # fmt: skip
_FALCON = _IDS | {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_hidden_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_LLAMA = _IDS | _HEADS | {
    "hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 40, "max_position_embeddings": 32,
    "pad_token_id": 0,
}  # fmt: skip
_HEAD_8 = _LLAMA | {"head_dim": 8}
_HEAD_16 = _LLAMA | {"head_dim": 16, "num_hidden_layers": 2}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
_QWEN_MOE = _LLAMA | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_QWEN3_MOE = _QWEN_MOE | {"head_dim": 8}
_T5 = {
    "vocab_size": VOCAB, "d_model": 16, "d_kv": 6, "d_ff": 28, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}  # fmt: skip
_SWITCH = _T5 | {
    "d_ff": 12, "num_layers": 4, "num_decoder_layers": 4, "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 2, "num_experts": 4, "expert_capacity": 64,
}  # fmt: skip
_BART = {
    "vocab_size": VOCAB, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36, "max_position_embeddings": 16,
}  # fmt: skip
_BERT = {
    "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 16,
}  # fmt: skip
_NARROW = _BERT | {"embedding_size": 16}
_GEMMA2 = {
    "num_hidden_layers": 4, "sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    "query_pre_attn_scalar": 12,
}  # fmt: skip
_GEMMA3 = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 8, "sliding_window_pattern": 6,
    "sliding_window": 4, "query_pre_attn_scalar": 12, "rope_theta": 1000.0, "rope_local_base_freq": 30.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}  # fmt: skip

MODELS = {
    "gpt2": ("GPT2LMHeadModel", _GPTJ | {"n_embd": 24, "n_head": 4, "n_layer": 3}),
    "gptj": ("GPTJForCausalLM", _GPTJ | {"n_embd": 32, "n_head": 4, "rotary_dim": 6}),
    "gpt_neox": ("GPTNeoXForCausalLM", _NEOX),
    "gpt_neox_sequential": ("GPTNeoXForCausalLM", _NEOX | {"use_parallel_residual": False}),
    "codegen": ("CodeGenForCausalLM", _GPTJ | {"n_embd": 48, "n_head": 8, "rotary_dim": 4, "n_ctx": 24}),
    "opt": ("OPTForCausalLM", _OPT | {"do_layer_norm_before": True, "word_embed_proj_dim": 24}),
    "opt_350m": ("OPTForCausalLM", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "bloom": ("BloomForCausalLM", _IDS | {"hidden_size": 24, "n_layer": 3, "n_head": 6}),
    "falcon_7b": ("FalconForCausalLM", _FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon_40b": ("FalconForCausalLM", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_rw": (
        "FalconForCausalLM",
        _FALCON
        | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "num_hidden_layers": 2}
        | {
            "hidden_size": 48,
            "num_attention_heads": 12,
        },  # the slopes are not powers of two, so that bfloat16 rounds them
    ),
    "llama": ("LlamaForCausalLM", _HEAD_8),
    "llama_bias": (
        "LlamaForCausalLM",
        _HEAD_8 | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama3": ("LlamaForCausalLM", _HEAD_16 | {"max_position_embeddings": 256, "rope_scaling": _LLAMA3}),
    "llama_linear": ("LlamaForCausalLM", _HEAD_8 | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama_dynamic": (
        "LlamaForCausalLM",
        _HEAD_8 | {"max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    "llama_yarn": ("LlamaForCausalLM", _HEAD_16 | {"rope_theta": 100.0, "rope_scaling": _YARN}),
    "llama_yarn_betas": (
        "LlamaForCausalLM",
        _HEAD_16
        | {"rope_theta": 100.0, "rope_scaling": _YARN | {"beta_fast": 1.0, "beta_slow": 0.1, "attention_factor": 1.3}},
    ),
    "llama_sharded": ("LlamaForCausalLM", _HEAD_8),
    "llama_bf16": ("LlamaForCausalLM", _HEAD_8),
    "mistral": ("MistralForCausalLM", _HEAD_8 | {"sliding_window": 4}),
    "mixtral": (
        "MixtralForCausalLM",
        _HEAD_8 | {"intermediate_size": 20, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "gemma": ("GemmaForCausalLM", _HEAD_8),
    "gemma2": ("Gemma2ForCausalLM", _HEAD_8 | _GEMMA2),
    "gemma3_text": ("Gemma3ForCausalLM", _HEAD_8 | _GEMMA3),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA | {"use_sliding_window": False}),
    "qwen2_window": (
        "Qwen2ForCausalLM",
        _LLAMA | {"num_hidden_layers": 4, "use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
    ),
    "qwen3": ("Qwen3ForCausalLM", _HEAD_8),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _QWEN3_MOE | {"norm_topk_prob": True, "decoder_sparse_step": 1}),
    "qwen3_moe_mixed": ("Qwen3MoeForCausalLM", _QWEN3_MOE | {"norm_topk_prob": False, "mlp_only_layers": [0]}),
    "qwen3_moe_step": (
        "Qwen3MoeForCausalLM",
        _QWEN3_MOE | {"norm_topk_prob": False, "num_hidden_layers": 4, "decoder_sparse_step": 2},
    ),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _QWEN_MOE | {"shared_expert_intermediate_size": 28}),
    "olmo2": ("Olmo2ForCausalLM", _LLAMA),
    "phi": ("PhiForCausalLM", _LLAMA | {"hidden_size": 32, "partial_rotary_factor": 0.5}),
    "phi3": (
        "Phi3ForCausalLM",
        _LLAMA | {"num_hidden_layers": 2, "original_max_position_embeddings": 32, "sliding_window": 4},
    ),
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_1_1": (
        "T5ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "umt5": ("UMT5ForConditionalGeneration", _T5 | {"tie_word_embeddings": False}),
    "switch": ("SwitchTransformersForConditionalGeneration", _SWITCH),
    "switch_capacity": ("SwitchTransformersForConditionalGeneration", _SWITCH | {"expert_capacity": 2}),
    "bart": ("BartForConditionalGeneration", _BART),
    "bart_scaled": ("BartForConditionalGeneration", _BART | {"scale_embedding": True}),
    "bert": ("BertForPreTraining", _BERT),
    "bert_mlm": ("BertForMaskedLM", _BERT),
    "bert_base": ("BertModel", _BERT),
    "roberta": ("RobertaForMaskedLM", _BERT | {"type_vocab_size": 1}),
    "albert": ("AlbertForMaskedLM", _NARROW),
    "albert_pretraining": ("AlbertForPreTraining", _NARROW),
    "electra_generator": ("ElectraForMaskedLM", _NARROW),
    "electra_discriminator": ("ElectraForPreTraining", _NARROW),
    "xlnet": (
        "XLNetLMHeadModel",
        {"vocab_size": VOCAB, "d_model": 24, "n_layer": 3, "n_head": 4, "d_inner": 40, "attn_type": "bi"},
    ),
}

# Also made by transformers 5 as "<name>_v5", whose config.json and tensor names differ.
MODELS_V5 = ("llama3", "llama_yarn", "gemma3_text", "mixtral", "qwen3_moe", "t5_1_1", "mt5", "umt5", "bert")

# transformers 5 ties every new T5; like a loaded v1.1 checkpoint, this one keeps its own `lm_head`.
UNTIED = ("t5_1_1_v5",)

# Fixtures that are not saved as one float32 file.
SHARD_SIZES = {"llama_sharded": "24KB"}
DTYPES = {"llama_bf16": "bfloat16"}
