"""The train step of tuning few parameters beside the full step, in turns: the 66.5M decoder of train_step.py, AdamW.

The FLOPs are those of the full step; a frozen weight needs no gradient, a third of them.
"""

import comparison
import steps
from train_step import ADAMW, build_model, random_batch

from t5x_like.parameters import Freeze, Transform
from t5x_like.peft.ia3 import IA3
from t5x_like.peft.lora import LoRA

ALL = ("(mixer|mlp)/.*/kernel$",)
SIDES: dict[str, Transform] = {
    "full": Freeze(),
    "LoRA q, v, rank 8": LoRA(("mixer/(query|value)/kernel$",), rank=8),
    "LoRA all, rank 16": LoRA(ALL, rank=16),
    "DoRA all, rank 16": LoRA(ALL, rank=16, magnitudes=True),
    "(IA)3": IA3(),
}
ROWS, LENGTH = 8, 256


def main() -> None:
    """Runs the benchmark and prints the results."""
    args = comparison.parser(__doc__).parse_args()
    if args.side:
        return steps.serve(build_model(), ADAMW, random_batch(ROWS, LENGTH), transform=SIDES[args.side])
    sides = {name: comparison.our_side(name) for name in SIDES}
    pairs = [(name, "full") for name in SIDES if name != "full"]
    comparison.compare(f"train step, 66.5M decoder, batch {ROWS} x {LENGTH}", sides, pairs, args.rounds, args.peer)


if __name__ == "__main__":
    main()
