"""PyTorch's side of bert_step.py: BERT base of transformers with its masked-LM head, fused attention (SDPA) and AdamW."""

import torch
import training
from transformers import BertConfig, BertForMaskedLM

IGNORED = -100  # the label of a position that does not count


def main() -> None:
    flags = training.parser(__doc__)
    for name in ("length", "vocab"):
        flags.add_argument(f"--{name}", type=int, required=True)
    args = flags.parse_args()
    training.use_all_cores()
    config = BertConfig(
        vocab_size=args.vocab,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    model = BertForMaskedLM(config)
    tokens = torch.randint(3, args.vocab, (args.rows, args.length))
    labels = tokens.masked_fill(torch.rand(tokens.shape) > 0.15, IGNORED)
    batch = {"input_ids": tokens, "labels": labels, "token_type_ids": torch.zeros_like(tokens)}
    training.serve(model, training.adamw(model, 1e-4), batch, args.compile)


if __name__ == "__main__":
    main()
