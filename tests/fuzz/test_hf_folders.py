"""Changed Hugging Face folders are imported, or refused by an error with a message; the sizes in them allocate nothing."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_like import hf
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.hf import families, fields
from tests.data.tokenizers import tiny_tokenizers
from tests.fuzz import mutations
from tests.hf import folders

# One fixture of each file of t5x_like/hf, and those with nested fields.
NAMES = (
    *(
        "llama",
        "llama3",
        "gemma3_text",
        "qwen3_moe",
        "gpt2",
        "gpt_neox",
        "falcon_40b",
        "opt",
        "t5_1_1",
        "switch",
        "bart",
    ),
    *("bert", "albert", "xlnet"),
)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_changed_config_describes_a_model_or_is_refused(name, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.json").write_text(json.dumps(data.draw(mutations.json_like(folders.config(name)))))
    mutations.outcome(lambda: families.build_model(fields.read_config(folder)))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """The fixture of a sharded LLaMA."""
    return Path(shutil.copytree(folders.FIXTURES / "llama_sharded", tmp_path_factory.mktemp("hf") / "model"))


@given(data=st.data())
def test_a_changed_config_loads_or_is_refused(model_folder, data):
    config = data.draw(mutations.json_like(folders.config("llama_sharded")))
    (model_folder / "config.json").write_text(json.dumps(config))
    mutations.outcome(hf.load, model_folder)


@given(data=st.data())
def test_a_changed_index_or_header_loads_or_is_refused(tmp_path_factory, data):
    folder = Path(shutil.copytree(folders.FIXTURES / "llama_sharded", tmp_path_factory.mktemp("hf") / "model"))
    path = data.draw(st.sampled_from(sorted(folder.glob("model*"))))
    if path.suffix == ".json":
        path.write_text(json.dumps(data.draw(mutations.json_like(json.loads(path.read_text())))))
    else:
        content = path.read_bytes()
        size = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(data.draw(mutations.bytes_like(content[:size])) + content[size:])
    mutations.outcome(hf.load, folder)
    shutil.rmtree(folder.parent)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer, its settings and those of a model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizers.byte_level().save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "eos_token": "<|end|>",
        "bos_token": {"content": "<|im_start|>", "lstrip": False},
        "added_tokens_decoder": {"0": {"content": "<|end|>", "special": True}},
        "chat_template": [{"name": "default", "template": template}],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 400, "eos_token_id": [0, 2]}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 1}))
    return folder


@given(data=st.data())
def test_a_changed_tokenizer_folder_is_read_or_refused(tokenizer, tmp_path_factory, data):
    folder = Path(shutil.copytree(tokenizer, tmp_path_factory.mktemp("changed") / "tokenizer"))
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    path.write_text(json.dumps(data.draw(mutations.json_like(json.loads(path.read_text())))))

    def read_and_use():
        vocabulary = tokenizer_folder.read_folder(folder)
        return vocabulary.decode(vocabulary.encode("a text of <|end|> words\n"))

    mutations.outcome(read_and_use)
    shutil.rmtree(folder.parent)
