"""Writes tests/decoding/fixtures: what processors of `transformers` make of random logits, and ids that it generates with them.

Run by hand when a processor is added; the tests only read the file. It needs an environment besides the project's:

    python3 -m venv v5 && v5/bin/pip install torch==2.13.0 'transformers==5.23.0'
    v5/bin/python tests/decoding/make_fixtures.py

processors.npz: tokens [B, T], padded behind length [B], of which the last `generated` [B] were generated; logits [B, V]; and for
each name of PROCESSORS the processed logits [B, V], each row computed alone from its unpadded tokens.
generated.npz: for each of MODELS, fixtures of tests/hf, the greedy ids with OPTIONS [3, NEW_TOKENS], 0 behind the stop id.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
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
    "eta": lambda skip: logits_process.EtaLogitsWarper(0.1),
}

FOLDER = Path(__file__).parent / "fixtures"
HF_FIXTURES = Path(__file__).parents[1] / "hf" / "fixtures"
MODELS = {"gpt2": transformers.GPT2LMHeadModel, "t5": transformers.T5ForConditionalGeneration}
STOPS_OF = {"gpt2": [25], "t5": [53]}  # which the models often choose
NEW_TOKENS = 10
OPTIONS = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[11], [36, 41], [40, 44, 42]],
    "min_new_tokens": 5,
}


def generate(name: str) -> np.ndarray:
    """Greedy ids of each row alone."""
    model = MODELS[name].from_pretrained(HF_FIXTURES / name).eval()
    with np.load(HF_FIXTURES / name / "expected.npz") as arrays:
        tokens, mask = arrays["tokens"], arrays["mask"]
    rows = np.zeros((len(tokens), NEW_TOKENS), np.int64)
    for row, count in enumerate(mask.sum(1)):
        ids = torch.from_numpy(tokens[row : row + 1, :count])
        prompt = 1 if model.config.is_encoder_decoder else int(count)
        fixed = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        fixed["use_cache"] = False  # a cache fails where encoder and decoder have other numbers of layers
        output = model.generate(ids, eos_token_id=STOPS_OF[name], **fixed, **OPTIONS)[0, prompt:].numpy()
        rows[row, : len(output)] = output
    return rows


def main() -> None:
    """Writes the files."""
    np.savez_compressed(FOLDER / "generated.npz", **{name: generate(name) for name in MODELS})
    write_processed()


def write_processed() -> None:
    """Writes processors.npz."""
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
    np.savez_compressed(FOLDER / "processors.npz", **arrays)


if __name__ == "__main__":
    main()
