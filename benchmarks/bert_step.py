"""The train step of BERT base with the masked-LM objective, ours and PyTorch's in turns: batch 8 x 128, float32, AdamW."""

import comparison
import numpy as np
import steps

from t5x_like import optimizers
from t5x_like.cli.gin import runtime
from t5x_like.objectives import lm

ROWS, LENGTH, VOCAB, MASK = 8, 128, 30522, 103


def random_batch() -> dict[str, np.ndarray]:
    """Returns random tokens, 15% of them masked."""
    random = np.random.default_rng(0)
    tokens = random.integers(3, VOCAB, (ROWS, LENGTH), dtype=np.int32)
    chosen = random.random((ROWS, LENGTH)) < 0.15
    return {
        "encoder_input_tokens": np.where(chosen, MASK, tokens).astype(np.int32),
        "encoder_target_tokens": tokens,
        "encoder_positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH)).copy(),
        "encoder_segment_ids": np.ones((ROWS, LENGTH), np.int32),
        "encoder_token_types": np.zeros((ROWS, LENGTH), np.int32),
        "encoder_loss_weights": chosen.astype(np.float32),
    }


def main() -> None:
    """Runs the benchmark and prints the results."""
    args = comparison.parser(__doc__).parse_args()
    if args.side:
        flags = ["--gin.SCAN=False", "--gin.POOLER=None"]
        model = runtime.parse(["sizes/bert/base.gin"], flags).evaluate("%MODEL")
        return steps.serve(
            model, optimizers.adamw(1e-4, clip_norm=None), random_batch(), lm.LanguageModel(side="encoder")
        )

    sides = {"ours": comparison.our_side("ours")}
    if args.peer:
        flags = {"rows": ROWS, "length": LENGTH, "vocab": VOCAB}
        sides["torch eager"] = comparison.peer_side(args.peer, "bert_step.py", flags)
        sides["torch.compile"] = comparison.peer_side(args.peer, "bert_step.py", flags, "compile")
    pairs = [("ours", name) for name in list(sides)[1:]]
    results = comparison.compare(
        f"train step, BERT base, batch {ROWS} x {LENGTH}", sides, pairs, args.rounds, args.peer
    )
    comparison.check_first_losses(results, VOCAB)


if __name__ == "__main__":
    main()
