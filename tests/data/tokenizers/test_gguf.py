"""Byte-level tokenizers from GGUF metadata: the named pre-tokenizer, and the ids of the table."""

import json

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from t5x_like.data.tokenizers.conversion import LLAMA3, QWEN2
from t5x_like.data.tokenizers.folder import export, read_folder
from t5x_like.data.tokenizers.gguf import SPLITS, from_gguf
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.tokenizers import tiny_tokenizers
from tests.data.tokenizers.tiny_tokenizers import TEXTS, VARIED


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizers.byte_level()


def fields_of(tokenizer, **changes):
    """The metadata that llama.cpp's converter writes."""
    content = json.loads(tokenizer.to_str())
    table = content["model"]["vocab"]
    special = {token["id"] for token in content["added_tokens"]}
    merges = [" ".join(m) if isinstance(m, list) else m for m in content["model"]["merges"]]
    named = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": sorted(table, key=table.get),
        "token_type": [3 if i in special else 1 for i in range(len(table))],
        "merges": merges,
        "eos_token_id": 0,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (named | changes).items() if value is not None}


def split_like(tokenizer, *steps):
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return copy


@pytest.mark.parametrize("pre", SPLITS)
def test_ids_are_those_of_the_named_pre_tokenizer(pre, tokenizer):
    import unicodedata

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = {
        "gpt-2": [gpt2],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), parts],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated"), parts],
    }
    expected = split_like(tokenizer, *steps[SPLITS[pre]])
    vocabulary = from_gguf(fields_of(tokenizer, pre=pre))
    for text in TEXTS + VARIED:
        text = unicodedata.normalize("NFC", text)
        assert vocabulary.encode(text) == expected.encode(text, add_special_tokens=False).ids
        if "<|" not in text:
            assert vocabulary.decode(vocabulary.encode(text)) == text


def test_the_pre_tokenizers_differ_on_digits(tokenizer):
    def parts(pre, text):
        pre_tokenizer = from_gguf(fields_of(tokenizer, pre=pre)).tokenizer.pre_tokenizer
        return [part for part, _ in pre_tokenizer.pre_tokenize_str(text)]

    assert parts("gpt-2", "a 12345's") == ["a", "Ġ12345", "'s"]
    assert parts("smollm", "a 12345's") == ["a", "Ġ", "1", "2", "3", "4", "5", "'s"]
    assert parts("llama-bpe", "a 12345'S") == ["a", "Ġ", "123", "45", "'S"]
    assert parts("qwen2", "a 12345'S") == ["a", "Ġ", "1", "2", "3", "4", "5", "'S"]


def test_special_ids_and_unused_tokens(tokenizer, tmp_path):
    fields = fields_of(
        tokenizer, bos_token_id=1, eot_token_id=2, unknown_token_id=0, padding_token_id=2, add_bos_token=True
    )
    fields["tokenizer.chat_template"] = "{{ bos_token }}"
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "[PAD350]", "!!user!!"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 5, 4]
    fields["tokenizer.ggml.token_type"][-2:] = [4, 5]  # the user's token first, so that ids have no gap
    fields["tokenizer.ggml.tokens"][-2:] = ["!!user!!", "[PAD351]"]
    vocabulary = from_gguf(fields)
    assert (
        vocabulary.bos,
        vocabulary.eos,
        vocabulary.pad,
        vocabulary.unk,
        vocabulary.stop_ids,
        vocabulary.add_bos,
    ) == (1, 0, 2, 0, (0, 2), True)
    assert (
        vocabulary.vocab_size == 352
        and vocabulary.encode("a!!user!!b")[1] == 350
        and 351 not in vocabulary.encode("[PAD351]")
    )
    assert vocabulary.decode([350, 351]) == "!!user!!"
    assert vocabulary.encode_special("a") == [1, *vocabulary.encode("a")]
    assert from_gguf(fields, vocab_size=400).vocab_size == 400
    export(vocabulary, tmp_path)
    assert read_folder(tmp_path, vocab_size=352) == vocabulary
    assert from_gguf(fields_of(tokenizer, bos_token_id=1, pre="llama-bpe")).add_bos
    assert not from_gguf(fields_of(tokenizer, bos_token_id=1)).add_bos


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "rwkv"}, "tokenizer.ggml.model='rwkv' is not supported, only gpt2 and llama"),
        ({"model": None}, "no tokenizer.ggml.model"),
        ({"pre": "tekken"}, "tokenizer.ggml.pre='tekken' is not a supported pre-tokenizer"),
        ({"pre": None}, "tokenizer.ggml.pre=None is not a supported pre-tokenizer"),
        ({"token_type": [1]}, "350 tokens, but 1 token types"),
        ({"merges": None}, "no tokenizer.ggml.merges"),
        ({"merges": ["nothere x"]}, "do not fit together"),
        ({"eos_token_id": 999}, "eos=999 is not one of the vocab_size=350 ids"),
    ],
)
def test_unsupported_metadata_are_rejected(changes, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        from_gguf(fields_of(tokenizer, **changes))


def test_a_chat_template_must_be_text(tokenizer):
    with pytest.raises(ValueError, match=r"tokenizer.chat_template=\['a'\] is not text"):
        from_gguf(fields_of(tokenizer) | {"tokenizer.chat_template": ["a"]})


def test_an_imported_vocabulary_is_read_from_its_folder_and_from_its_run_directory(tokenizer, tmp_path):
    vocabulary = from_gguf(fields_of(tokenizer, eos_token_id=2))
    vocabulary.save(tmp_path / "run" / "vocabulary")
    for folder in (tmp_path / "run", tmp_path / "run" / "vocabulary"):
        assert read_folder(folder) == vocabulary and read_folder(folder).eos == 2


def test_a_run_whose_model_was_imported_without_a_tokenizer_stands_for_bytes(tmp_path):
    (tmp_path / "config.gin").write_text("")
    with pytest.warns(UserWarning, match="has no tokenizer: text is read as bytes, if VOCABULARY is not set"):
        assert read_folder(tmp_path) == ByteVocabulary()
