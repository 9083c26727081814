"""PyTorch's side of train_step.py: LLaMA of transformers with fused attention (SDPA) and AdamW."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import training


def main() -> None:
    flags = training.parser(__doc__)
    for name in ("length", "width", "layers", "heads", "mlp_dim"):
        flags.add_argument(f"--{name}", type=int, required=True)
    args = flags.parse_args()
    training.use_all_cores()
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.width,
        intermediate_size=args.mlp_dim,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=args.length,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    tokens = torch.randint(3, args.vocab, (args.rows, args.length))
    training.serve(model, training.adamw(model), {"input_ids": tokens, "labels": tokens}, args.compile)


if __name__ == "__main__":
    main()
