"""The train step of T5 v1.1 small, ours and PyTorch's in turns: batch 8, 128 input and 64 target tokens, float32.

With Adafactor, T5's optimizer, and with AdamW.
"""

import comparison
import numpy as np
import steps
import train_step

from t5x_like import optimizers
from t5x_like.cli.gin import runtime
from t5x_like.optimizers import schedules

ROWS, INPUTS, TARGETS, VOCAB = 8, 128, 64, train_step.VOCAB
OPTIMIZERS = {"ours, Adafactor": optimizers.adafactor(schedules.rsqrt()), "ours, AdamW": train_step.ADAMW}


def random_batch() -> dict[str, np.ndarray]:
    """Returns random tokens for encoder and decoder."""
    encoder, decoder = train_step.random_batch(ROWS, INPUTS), train_step.random_batch(ROWS, TARGETS)
    names = ("input_tokens", "positions", "segment_ids")
    return {f"encoder_{name}": encoder[f"decoder_{name}"] for name in names} | decoder


def main() -> None:
    """Runs the benchmark and prints the results."""
    args = comparison.parser(__doc__).parse_args()
    if args.side:
        model = runtime.parse(["sizes/t5_1_1/small.gin"], ["--gin.SCAN=False"]).evaluate("%MODEL")
        return steps.serve(model, OPTIMIZERS[args.side], random_batch())

    sides = {name: comparison.our_side(name) for name in OPTIMIZERS}
    pairs = [tuple(reversed(OPTIMIZERS))]
    if args.peer:
        flags = {"rows": ROWS, "inputs": INPUTS, "targets": TARGETS, "vocab": VOCAB}
        peers = {"torch, Adafactor": [], "torch, AdamW": ["adamw"], "torch.compile, AdamW": ["adamw", "compile"]}
        for name, switches in peers.items():
            sides[name] = comparison.peer_side(args.peer, "t5_step.py", flags, *switches)
        pairs += [("ours, Adafactor", "torch, Adafactor"), ("ours, AdamW", "torch, AdamW")]
        pairs += [("ours, AdamW", "torch.compile, AdamW")]
    comparison.compare(
        f"train step, T5 v1.1 small, batch {ROWS} x {INPUTS}/{TARGETS}", sides, pairs, args.rounds, args.peer
    )


if __name__ == "__main__":
    main()
