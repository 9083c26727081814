"""transformers' LLaMA with random weights and fused attention (SDPA), in the shape that flags give."""

import argparse

from transformers import LlamaConfig, LlamaForCausalLM


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the shape of the model."""
    for name in ("width", "layers", "heads", "mlp_dim", "vocab"):
        flags.add_argument(f"--{name}", type=int, required=True)


def build(args: argparse.Namespace, length: int) -> LlamaForCausalLM:
    """Builds the model for rows of `length` tokens."""
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.width,
        intermediate_size=args.mlp_dim,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)
