"""Writes tests/decoding/beams.json: what the beam search of `transformers` finds with the models of tests/hf/fixtures.

Run by hand, in the environment v5 of tests/hf/make_fixtures.py; the tests only read the file. Every row is searched by itself,
from its unpadded prompt. Two ids that the models generate often end a continuation, so that lengths differ.

With an argument, transformers 4.49 writes beam_groups.json instead: later versions have no groups of beams. It writes the first
stop id where a continuation ended with any, so there is one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parents[1] / "hf" / "fixtures"
NAMES = ("t5", "bart", "switch", "umt5_v5", "gpt2", "llama")  # each with two of the settings
BEAMS, NEW_TOKENS = 4, 8
SETTINGS = (
    {"length_penalty": 1.0, "early_stopping": False},
    {"length_penalty": 0.0, "early_stopping": "never"},
    {"length_penalty": 2.0, "early_stopping": "never"},
    {"length_penalty": 1.5, "early_stopping": True},
    {"length_penalty": -0.5, "early_stopping": False},
    {"length_penalty": 1.0, "early_stopping": False, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
)
SUMMARY = {  # as facebook/bart-large-cnn; min_length counts the start token
    "length_penalty": 2.0,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "min_length": 4,
    "forced_bos_token_id": 11,
    "forced_eos_token_id": 7,
}
OTHERS = {name: [{"length_penalty": 0.6, "early_stopping": True}] for name in ("t5", "bart", "switch", "umt5_v5")}
OTHERS["bart"].append(SUMMARY)
GROUPS = {
    "t5": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, "length_penalty": 1.0},
    "gpt2": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 2.0, "length_penalty": 0.6}
    | {"no_repeat_ngram_size": 2},
}


def cut(ids, stops):
    """The ids up to the first stop id."""
    ends = [i + 1 for i, token in enumerate(ids) if token in stops]
    return ids[: min(ends, default=len(ids))]


def settings_of(name, groups):
    """The settings of a model."""
    if groups:
        return [{"early_stopping": True} | GROUPS[name]]
    return [
        {"num_beams": BEAMS} | setting for setting in (*SETTINGS[NAMES.index(name) % 3 :: 3], *OTHERS.get(name, ()))
    ]


def main(groups):
    found = {}
    for name in sorted(GROUPS if groups else NAMES):
        path = FOLDER / name
        with np.load(path / "expected.npz") as arrays:
            arrays = dict(arrays)
        config = transformers.AutoConfig.from_pretrained(path)
        seq2seq = config.is_encoder_decoder
        auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
        model = auto.from_pretrained(path, attn_implementation="eager", torch_dtype=torch.float32).eval()
        start = model.generation_config.decoder_start_token_id
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start)  # nothing is forced
        stops = [int(x) for x in np.unique(arrays["greedy"][:, 2:5])[: 1 if groups else 2]]
        searches = []
        for row, (tokens, mask) in enumerate(zip(arrays["tokens"], arrays["mask"], strict=True)):
            prompt = torch.from_numpy(tokens[mask > 0][None]).long()
            for setting in settings_of(name, groups):
                out = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    num_return_sequences=setting["num_beams"],
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    use_cache=False,
                    eos_token_id=stops,
                    pad_token_id=0,
                    output_scores=True,
                    return_dict_in_generate=True,
                    **setting,
                )
                new = [cut(ids, stops) for ids in out.sequences[:, 1 if seq2seq else prompt.shape[1] :].tolist()]
                scores = [round(float(x), 5) for x in out.sequences_scores]
                searches.append({"row": row, **setting, "tokens": new, "scores": scores})
        found[name] = {"stops": stops, "searches": searches}
    (Path(__file__).parent / f"beam{'_group' * groups}s.json").write_text(
        json.dumps(found, separators=(",", ":")) + "\n"
    )
    print({name: len(one["searches"]) for name, one in found.items()})


if __name__ == "__main__":
    main(groups=len(sys.argv) > 1)
