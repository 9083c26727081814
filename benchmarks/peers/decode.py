"""PyTorch's side of decode.py: greedy `generate` of transformers' LLaMA."""

import argparse

import llama
import torch
import training

import turns


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    llama.add_flags(flags)
    for name in ("rows", "prompt", "new"):
        flags.add_argument(f"--{name}", type=int, required=True)
    flags.add_argument("--static", action="store_true", help="a cache of fixed size")
    flags.add_argument("--compile", action="store_true", help="compile the forward pass with torch.compile")
    args = flags.parse_args()
    training.use_all_cores()
    model = llama.build(args, length=args.prompt + args.new).eval()
    if args.compile:
        model.forward = torch.compile(model.forward)
    prompt = torch.randint(3, args.vocab, (args.rows, args.prompt))
    options = {"cache_implementation": "static"} if args.static else {}

    @torch.inference_mode()
    def step() -> None:
        tokens = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=args.new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            use_cache=True,
            **options,
        )
        assert tokens.shape == (args.rows, args.prompt + args.new)

    turns.serve(step, versions=training.VERSIONS)


if __name__ == "__main__":
    main()
