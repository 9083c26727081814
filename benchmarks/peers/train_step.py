"""PyTorch's side of train_step.py: transformers' LLaMA with AdamW."""

import llama
import torch
import training


def main() -> None:
    flags = training.parser(__doc__)
    llama.add_flags(flags)
    flags.add_argument("--length", type=int, required=True)
    args = flags.parse_args()
    training.use_all_cores()
    model = llama.build(args, args.length)
    tokens = torch.randint(3, args.vocab, (args.rows, args.length))
    batch = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    training.serve(model, training.adamw(model), batch, args.compile)


if __name__ == "__main__":
    main()
