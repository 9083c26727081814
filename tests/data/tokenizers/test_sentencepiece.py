"""SentencePiece files of T5's and LLaMA's kind, from a folder and from GGUF metadata."""

import json

import numpy as np
import pytest
import sentencepiece

from t5x_like.data.tokenizers import loading, vocabularies
from t5x_like.data.tokenizers.folder import export, read_folder
from t5x_like.data.tokenizers.gguf import from_gguf
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from tests.data.tokenizers.tiny_tokenizers import TEXTS, VARIED, sentencepiece_file

PLAIN = [text for text in TEXTS + VARIED if "<s>" not in text]
FILES = {"t5": "spiece.model", "llama": "tokenizer.model"}


@pytest.fixture(scope="module", params=FILES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    return sentencepiece_file(kind)


@pytest.fixture
def folder(kind, model, tmp_path):
    (tmp_path / FILES[kind]).write_bytes(model)
    return tmp_path


def test_ids_are_the_librarys_after_saving_and_exporting(folder, model, tmp_path):
    read = read_folder(folder)
    read.save(tmp_path / "saved")
    export(read, tmp_path / "exported")
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    for vocabulary in (read, loading.load(tmp_path / "saved"), read_folder(tmp_path / "exported")):
        assert vocabulary == read and vocabulary.fingerprint == read.fingerprint
        for text in PLAIN:
            assert vocabulary.encode(text) == library.encode(text)
            assert vocabulary.decode(library.encode(text)) == library.decode(
                [i for i in library.encode(text) if i != read.unk]
            )


def test_token_bytes_are_those_of_the_text_after_a_space(folder, kind, model):
    rng = np.random.default_rng(0)
    alphabet = list("aeinst ") + (list("\n\té日🙂") if kind == "llama" else [])
    vocabularies_of_kind = [read_folder(folder)] + [vocabularies.SentencePieceVocabulary(model)] * (kind == "t5")
    for vocabulary in vocabularies_of_kind:
        for text in ["".join(rng.choice(alphabet, rng.integers(1, 30))) for _ in range(100)]:
            ids = vocabulary.encode(text, literal=True)
            assert b"".join(vocabulary.token_bytes[i] for i in ids) == b" " + text.encode()
        assert vocabulary.bytes_per_token_V.tolist() == [len(text) for text in vocabulary.token_bytes]
        assert not any(vocabulary.token_bytes[i] for i in (vocabulary.eos, vocabulary.unk))


def test_special_ids(folder, kind, model):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    read = read_folder(folder)
    ids = (read.pad, read.eos, read.unk, read.bos, read.add_bos)
    if kind == "llama":
        assert ids == (None, 2, 0, 1, True) and read.extra_ids == 0 and read.vocab_size == pieces
        assert read.encode_special("a") == [1, *read.encode("a")]
        assert read.encode("a<s>b") == [*read.encode("a"), 1, *read.encode("b")]
        return
    assert ids == (0, 1, 2, 0, True) and read.vocab_size == pieces + 100
    assert read.encode_special("a") == [*read.encode("a"), 1]
    assert read.first_sentinel == pieces + 99 and vocabularies.mask_id(read) == pieces
    expected = [*read.encode("a"), pieces + 99, *read.encode("b"), pieces + 98]
    assert read.encode("a <extra_id_0> b<extra_id_1>") == expected
    assert read.decode(expected) == "a b"
    (folder / "config.json").write_text(json.dumps({"vocab_size": pieces + 128}))
    padded = read_folder(folder)
    assert padded.vocab_size == pieces + 128 and padded.first_sentinel == pieces + 99
    assert padded.decode([pieces + 120]) == ""
    with pytest.raises(ValueError, match=f"the tokenizer has {pieces} ids, the model's vocab_size=50"):
        read_folder(folder, vocab_size=50)


def test_without_legacy_no_space_follows_a_special_token(folder, kind):
    if kind != "llama":
        pytest.skip("LLaMA's")
    (folder / "tokenizer_config.json").write_text('{"legacy": false, "tokenizer_class": "LlamaTokenizer"}')
    read = read_folder(folder)
    assert read.decode(read.encode("<s>return")[1:]) == "return"
    assert read.token(read.encode("<s>return")[1])[0] != "▁" == read.token(read.encode("return")[0])[0]


def test_gguf_metadata_give_the_same_model(kind, model):
    if kind != "llama":
        pytest.skip("GGUF has no T5 here")
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    count = library.vocab_size()
    types = [6 if library.is_byte(i) else 3 if library.is_control(i) else 1 for i in range(count)]
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [library.id_to_piece(i) for i in range(count)],
        "tokenizer.ggml.scores": [library.get_score(i) for i in range(count)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    vocabulary = from_gguf(fields)
    assert isinstance(vocabulary, SentencePieceModel)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.add_bos) == (1, 2, True)
    for text in PLAIN:
        assert vocabulary.encode(text) == library.encode(text)
        assert vocabulary.decode(vocabulary.encode(text)) == library.decode(library.encode(text))
    bare = from_gguf(fields | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.decode(bare.encode(" x")) == " x"
    with pytest.raises(ValueError, match="no tokenizer.ggml.scores"):
        from_gguf({name: value for name, value in fields.items() if "scores" not in name})
