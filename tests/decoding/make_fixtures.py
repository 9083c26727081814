"""Writes tests/decoding/fixtures/processors.npz: random logits and what processors of `transformers` make of them.

Run by hand when a processor is added; the tests only read the file. It needs an environment besides the project's:

    python3 -m venv v5 && v5/bin/pip install torch==2.13.0 'transformers==5.23.0'
    v5/bin/python tests/decoding/make_fixtures.py

Arrays: tokens [B, T], padded behind length [B], of which the last `generated` [B] were generated; logits [B, V]; and for each
name of PROCESSORS the processed logits [B, V], each row computed alone from its unpadded tokens.
"""

from pathlib import Path

import numpy as np
import torch
from transformers.generation import logits_process

ROWS, LENGTH, VOCAB = 8, 16, 11
STOPS = [1, 4]
PROCESSORS = {
    "repetition": lambda skip: logits_process.RepetitionPenaltyLogitsProcessor(1.7),
    "no_repeat_1": lambda skip: logits_process.NoRepeatNGramLogitsProcessor(1),
    "no_repeat_2": lambda skip: logits_process.NoRepeatNGramLogitsProcessor(2),
    "no_repeat_3": lambda skip: logits_process.NoRepeatNGramLogitsProcessor(3),
    "bad_words": lambda skip: logits_process.NoBadWordsLogitsProcessor([[5], [2, 6], [3, 6], [2, 2, 7], [2, 3, 2, 8]]),
    "forced": lambda skip: logits_process.ForcedBOSTokenLogitsProcessor(9),
    "min_new": lambda skip: logits_process.MinNewTokensLengthLogitsProcessor(skip, 4, STOPS),
    "bias": lambda skip: logits_process.SequenceBiasLogitsProcessor({(3,): -2.5, (7,): 1.25, (0,): float("-inf")}),
    "temperature": lambda skip: logits_process.TemperatureLogitsWarper(0.7),
    "top_k": lambda skip: logits_process.TopKLogitsWarper(4),
    "top_p": lambda skip: logits_process.TopPLogitsWarper(0.8),
    "min_p": lambda skip: logits_process.MinPLogitsWarper(0.15),
    "typical": lambda skip: logits_process.TypicalLogitsWarper(0.6),
}


def main() -> None:
    """Writes the file."""
    rng = np.random.default_rng(0)
    length = np.array([1, 2, 3, 6, 9, 12, 15, 16])
    generated = np.array([0, 1, 0, 3, 4, 5, 14, 2])
    # Few different ids, so that sequences repeat.
    tokens = np.where(np.arange(LENGTH) < length[:, None], rng.choice([2, 2, 3, 5, 6], (ROWS, LENGTH)), 0)
    tokens[4, :9] = [2, 3, 6, 5, 7, 2, 2, 3, 2]  # ends with the beginning of a bad word
    tokens[5, :12] = [3, 2, 2, 5, 8, 9, 2, 2, 6, 5, 2, 2]
    logits = rng.normal(0, 2, (ROWS, VOCAB)).astype(np.float32)
    arrays = {"tokens": tokens, "length": length, "generated": generated, "logits": logits}
    for name, make in PROCESSORS.items():
        rows = []
        for row in range(ROWS):
            ids = torch.from_numpy(tokens[row : row + 1, : length[row]])
            rows.append(
                make(int(length[row] - generated[row]))(ids, torch.from_numpy(logits[row : row + 1]))[0].numpy()
            )
        arrays[name] = np.stack(rows)
    np.savez_compressed(Path(__file__).parent / "fixtures" / "processors.npz", **arrays)


if __name__ == "__main__":
    main()
