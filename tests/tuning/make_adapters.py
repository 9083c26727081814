"""Writes tests/tuning/fixtures: random adapters of the PEFT library over the tiny models of tests/hf/fixtures, and its outputs.

Run by hand when a method is added; the tests only read the files:

    python3 -m venv v5 && v5/bin/pip install torch==2.13.0 'transformers==5.23.0' peft==0.21.2 safetensors
    v5/bin/python tests/tuning/make_adapters.py [names...]

A fixture is what `save_pretrained` writes, and `expected.npz`: tokens (and decoder_tokens) [1, L], logits [1, L, V] with the
adapter, merged [1, L, V] after `merge_and_unload`, weights [1, L, V], and gradient/TENSOR, the norm of the gradient of
sum(weights * logits) with respect to each tensor of the adapter. Torch computes in float64.
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from peft import IA3Config, LNTuningConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig

HERE = Path(__file__).parent
BASES, FOLDER = HERE.parent / "hf" / "fixtures", HERE / "fixtures"
CAUSAL, SEQ2SEQ = {"task_type": "CAUSAL_LM"}, {"task_type": "SEQ_2_SEQ_LM"}
# name: (base, class, configuration)
ADAPTERS = {
    "llama_lora": (
        "llama",
        "LlamaForCausalLM",
        LoraConfig(
            r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
            rank_pattern={"down_proj": 2}, alpha_pattern={"self_attn.o_proj": 7}, **CAUSAL,
        ),
    ),
    "llama_rslora": (
        "llama",
        "LlamaForCausalLM",
        LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=["embed_tokens", "lm_head", "k_proj"], **CAUSAL),
    ),
    "llama_dora": (
        "llama",
        "LlamaForCausalLM",
        LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules="all-linear", **CAUSAL),
    ),
    "llama_ia3": ("llama", "LlamaForCausalLM", IA3Config(**CAUSAL)),
    "llama_norms": ("llama", "LlamaForCausalLM", LNTuningConfig(**CAUSAL)),
    "gpt2_lora": (
        "gpt2",
        "GPT2LMHeadModel",
        LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, **CAUSAL),
    ),
    "gpt2_ia3": ("gpt2", "GPT2LMHeadModel", IA3Config(**CAUSAL)),
    "gptj_lora": (
        "gptj",
        "GPTJForCausalLM",
        LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "k_proj", "fc_in", "fc_out"], **CAUSAL),
    ),
    "t5_lora": (
        "t5",
        "T5ForConditionalGeneration",
        LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v", "o", "wi", "wo"], **SEQ2SEQ),
    ),
    "t5_ia3": ("t5_1_1", "T5ForConditionalGeneration", IA3Config(**SEQ2SEQ)),
    "llama_prompt": ("llama", "LlamaForCausalLM", PromptTuningConfig(num_virtual_tokens=3, **CAUSAL)),
    "gpt2_prompt": ("gpt2", "GPT2LMHeadModel", PromptTuningConfig(num_virtual_tokens=3, **CAUSAL)),
    "t5_prompt": (
        "t5",
        "T5ForConditionalGeneration",
        PromptTuningConfig(num_virtual_tokens=3, num_transformer_submodules=1, **SEQ2SEQ),
    ),
    "roberta_prompt": (
        "roberta",
        "RobertaForMaskedLM",
        PromptTuningConfig(
            num_virtual_tokens=3, task_type="FEATURE_EXTRACTION", num_layers=3, token_dim=24, num_attention_heads=4
        ),
    ),
    "llama_prefix": ("llama", "LlamaForCausalLM", PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL)),
    "gpt2_prefix": ("gpt2", "GPT2LMHeadModel", PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL)),
    "roberta_lora": (
        "roberta",
        "RobertaForMaskedLM",
        LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], bias="all"),
    ),
    "roberta_dora": (
        "roberta",
        "RobertaForMaskedLM",
        LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=["query", "dense"]),
    ),
}  # fmt: skip


def make(name):
    base, class_name, config = ADAPTERS[name]
    random = np.random.default_rng(len(name))
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    given = dict(np.load(BASES / base / "expected.npz"))
    if name == "roberta_prompt":  # has 16 positions
        given["tokens"] = given["tokens"][:, :9]
    inputs = {"input_ids": torch.tensor(given["tokens"][:1])}
    expected = {"tokens": given["tokens"][:1]}
    if "decoder_tokens" in given:
        inputs["decoder_input_ids"] = torch.tensor(given["decoder_tokens"][:1])
        expected["decoder_tokens"] = given["decoder_tokens"][:1]
    cls = getattr(transformers, class_name)
    model = cls.from_pretrained(BASES / base, dtype=torch.float32, attn_implementation="eager").eval()
    model = peft.get_peft_model(model, config).eval()
    for key, value in model.named_parameters():
        if value.requires_grad:
            positive = any(part in key for part in ("magnitude", "ia3", "ln_tuning"))
            noise = random.normal(0, 0.3, value.shape).astype(np.float32)
            value.data.copy_(value.data + torch.from_numpy(np.abs(noise) if positive else noise))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(
        re.sub(r'"base_model_name_or_path": ".*"', f'"base_model_name_or_path": "{base}"', path.read_text())
    )
    model = model.double()
    result = output(model, inputs)
    weights = random.normal(0, 1, result.shape)
    (result * torch.from_numpy(weights)).sum().backward()
    expected |= {"logits": result.detach().numpy(), "weights": weights}
    for key, value in model.named_parameters():
        if value.requires_grad:
            if "prompt_encoder" in key:
                key = "prompt_embeddings"
            saved = re.sub(r"\.default(?=\.|$)", "", key).replace(
                "lora_magnitude_vector.weight", "lora_magnitude_vector"
            )
            expected[f"gradient/{saved}"] = np.linalg.norm(value.grad.numpy())
    if isinstance(config, LoraConfig | IA3Config):
        expected["merged"] = output(model.merge_and_unload(), inputs).detach().numpy()
    np.savez_compressed(folder / "expected.npz", **expected)
    print(name, sorted(key for key in expected if not key.startswith("gradient"))[:6], len(expected))


def output(model, inputs):
    found = model(**inputs)
    return found.logits[:, -inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"].shape[1] :]


for name in sys.argv[1:] or ADAPTERS:
    make(name)
