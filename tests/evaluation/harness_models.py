"""Folders of tiny models that both sides of test_harness.py read, and what they are asked. Needs no JAX."""

import json
import shutil
from pathlib import Path

import tokenizers
from tokenizers import processors

FIXTURES = Path(__file__).parents[1] / "hf/fixtures"
BACKENDS = {"gpt2": "causal", "llama": "causal", "t5": "seq2seq", "bart": "seq2seq"}
LENGTH = 16  # tokens that the models read
NEW_TOKENS = 6
PAIRS = [
    ("w10 w11 w12", " w13 w14"),
    ("w20  ", "w21"),
    ("w30", " w31 w32 w33 w34 w35 w36"),
    (" ".join(f"w{i:02}" for i in range(4, 24)), " w40 w41"),  # longer than the model reads
]
NO_CONTEXT = ("", "w50 w51")
DOCUMENTS = ["w09 w08 w07", " ".join(f"w{4 + i % 50:02}" for i in range(40))]
UNTIL = ["w33", "w44"]


def write(name: str, folder: Path) -> Path:
    """Copies a fixture of tests/hf and adds a tokenizer with one word per id, of which none begins with another."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    shutil.copytree(FIXTURES / name, folder)
    special = {kind: config.get(f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    words = {f"w{i:02}": i for i in range(config["vocab_size"])}
    names = {kind: f"w{index:02}" for kind, index in special.items() if index is not None}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w03"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(sorted(set(names.values())))
    before, after = {"llama": (["bos"], []), "t5": ([], ["eos"]), "bart": (["bos"], ["eos"])}.get(name, ([], []))
    single = " ".join([*(names[kind] for kind in before), "$A", *(names[kind] for kind in after)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(names[kind], special[kind]) for kind in (*before, *after)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {f"{kind}_token": text for kind, text in names.items()} | {"unk_token": "w03"}
    content |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": name == "llama"}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder
