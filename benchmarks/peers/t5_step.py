"""PyTorch's side of t5_step.py: T5 v1.1 small of transformers with AdamW or Adafactor."""

import torch
import training
from transformers import Adafactor, T5Config, T5ForConditionalGeneration


def main() -> None:
    flags = training.parser(__doc__)
    for name in ("inputs", "targets", "vocab"):
        flags.add_argument(f"--{name}", type=int, required=True)
    flags.add_argument("--adamw", action="store_true", help="AdamW, not Adafactor")
    args = flags.parse_args()
    training.use_all_cores()
    config = T5Config(
        vocab_size=args.vocab,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        use_cache=False,
    )
    # The argument stops the scaling of outputs alone: T5Config of transformers 5 sets the field to True.
    config.tie_word_embeddings = False
    model = T5ForConditionalGeneration(config)
    adafactor = Adafactor(model.parameters(), lr=1e-2, relative_step=False)
    optimizer = training.adamw(model) if args.adamw else adafactor
    inputs, labels = (torch.randint(3, args.vocab, (args.rows, length)) for length in (args.inputs, args.targets))
    training.serve(model, optimizer, {"input_ids": inputs, "labels": labels}, args.compile)


if __name__ == "__main__":
    main()
