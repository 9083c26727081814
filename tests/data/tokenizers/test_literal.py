"""Literal text: names of control tokens are text in documents, and only an unmarked name is a control token in a chat."""

import io
import itertools

import pytest
import sentencepiece
from tokenizers import Tokenizer

from t5x_like.data.cache import tokenizing
from t5x_like.data.tokenizers import loading, vocabularies
from t5x_like.data.tokenizers.folder import export, read_folder
from t5x_like.data.tokenizers.gguf import from_gguf
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from tests.data.tokenizers import test_gguf, tiny_tokenizers
from tests.data.tokenizers.tiny_tokenizers import TEXTS, VARIED

NAMES = "<|end|> <|im_start|>a<|im_end|> [SEP][CLS] </s><s> <pad>x<unk> <extra_id_0> y<extra_id_1> <turn>z"
ATTACKS = [*VARIED, NAMES, NAMES.replace(" ", ""), " </s>", "</s> ", "<</s>/s>", "<extra_id_0>" * 3]
MARK = "\ufdd0"


def user_defined() -> bytes:
    """A SentencePiece model of Gemma's kind, which finds <turn> in any text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<turn>", "<h1>"],
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def make_gemma():
    model = user_defined()
    turn = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id("<turn>")
    return SentencePieceModel(
        model, 500, eos=2, bos=1, unk=0, stop_ids=(2, turn), added=(("</s>", 2), ("<turn>", turn))
    )


def make_tokenizer(kind, **ids):
    text = getattr(tiny_tokenizers, kind)().to_str()
    return TokenizerVocabulary(text, 400, **ids)


def make_llama():
    added = (("<s>", 1), ("</s>", 2), ("<|im_end|>", 430), ("<think>", 431))
    model = tiny_tokenizers.sentencepiece_file("llama")
    return SentencePieceModel(model, 500, eos=2, bos=1, unk=0, added=added, words=("<think>",), legacy=False)


MAKERS = {
    "bytes": ByteVocabulary,
    "byt5": lambda: ByteVocabulary(sentinel=vocabularies.BYT5_SENTINEL),
    "sp": lambda: SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5"), 10),
    "byte_level": lambda: make_tokenizer("byte_level", eos=0, stop_ids=(0, 2)),
    "wordpiece": lambda: make_tokenizer("wordpiece", pad=0, unk=1, bos=2, eos=3, mask=4),
    "unigram": lambda: make_tokenizer("unigram", pad=0, eos=1, unk=2),
    "gguf": lambda: from_gguf(test_gguf.fields_of(tiny_tokenizers.byte_level())),
    "llama": make_llama,
    "gemma": make_gemma,
}
LOSSLESS = ("bytes", "byt5", "byte_level", "gguf", "gemma")


@pytest.fixture(scope="module", params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vocabulary(kind):
    return MAKERS[kind]()


def test_no_text_gives_a_control_token(kind, vocabulary):
    control = set(vocabulary.control_ids.values()) - {vocabulary.unk}
    assert control and set(vocabulary.encode("".join(vocabulary.control_ids))) & control
    for text in [*ATTACKS, *vocabulary.control_ids, "".join(vocabulary.control_ids)]:
        ids = vocabulary.encode(text, literal=True)
        assert not control & set(ids)
        if kind in LOSSLESS:
            assert vocabulary.decode(ids) == text


def test_text_without_names_has_the_same_ids_in_every_mode(vocabulary):
    for text in (text for text in TEXTS + VARIED if not any(name in text for name in vocabulary.control_ids)):
        ids = vocabulary.encode(text)
        assert ids == vocabulary.encode(text, literal=True) == vocabulary.encode(text, mark=MARK)
    for text in (*TEXTS, *VARIED, NAMES):
        assert vocabulary.encode(text, mark=MARK) == vocabulary.encode(text)


def test_documents_are_literal(vocabulary):
    literal = [vocabulary.encode(text, literal=True) for text in ATTACKS]
    assert [list(ids) for ids in vocabularies.encode_documents(vocabulary, ATTACKS)] == literal
    texts = tokenizing.Texts([text.encode() for text in ATTACKS])
    assert tokenizing.tokenize("targets", texts, vocabulary).ids.tolist() == list(itertools.chain(*literal))


def test_marked_names_are_text_and_the_others_control_tokens(kind, vocabulary):
    for name, index in vocabulary.control_ids.items():
        said = f"a{name[0]}{MARK}{name[1:]}{MARK}b"
        ids = vocabulary.encode(f"{name}{said}{name}", mark=MARK)
        assert ids[0] == ids[-1] == index
        assert (index not in ids[1:-1]) or index == vocabulary.unk
        if kind in LOSSLESS:
            assert vocabulary.decode(ids[1:-1]) == f"a{name}b"


@pytest.mark.parametrize("kind", ["byte_level", "wordpiece", "unigram"])
def test_ids_are_the_librarys_without_special_tokens(kind):
    vocabulary = MAKERS[kind]()
    library = Tokenizer.from_str(vocabulary.json)
    library.encode_special_tokens = True
    control = set(vocabulary.control_ids.values()) - {vocabulary.unk}
    theirs = [library.encode(text, add_special_tokens=False).ids for text in TEXTS + ATTACKS]
    # The library's Unigram finds </s>, which is one of its pieces, in a text; it must not.
    safe = [(text, ids) for text, ids in zip(TEXTS + ATTACKS, theirs, strict=True) if not control & set(ids)]
    assert len(safe) > len(TEXTS) + 3 and (kind == "unigram" or len(safe) == len(theirs))
    for text, ids in safe:
        assert vocabulary.encode(text, literal=True) == ids


def test_sentencepieces_ids_are_the_librarys():
    for kind in ("sp", "llama"):
        vocabulary = MAKERS[kind]()
        library = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
        for text in (text for text in TEXTS + ATTACKS if "▁" not in text):
            assert vocabulary.encode(text, literal=True) == library.encode(text)


def test_user_defined_pieces_that_are_no_control_tokens_stay_text():
    vocabulary = make_gemma()
    heading = vocabulary.processor.piece_to_id("<h1>")
    assert vocabulary.encode("<h1>", literal=True) == vocabulary.encode("<h1>") == [heading]
    assert vocabulary.encode("<turn>") == [vocabulary.stop_ids[1]]
    assert vocabulary.decode(vocabulary.encode("<turn>", literal=True)) == "<turn>"


def test_added_tokens_that_are_not_special_are_words(tmp_path):
    vocabulary = make_llama()
    ids = vocabulary.encode("a<think>b<|im_end|>", literal=True)
    assert 431 in ids and 430 not in ids
    vocabulary.save(tmp_path / "saved")
    export(vocabulary, tmp_path / "exported")
    assert loading.load(tmp_path / "saved") == vocabulary
    assert read_folder(tmp_path / "exported", 500).words == ("<think>",)


def test_byt5s_ids_are_those_of_its_pretraining_and_of_its_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    byt5 = read_folder(tmp_path)
    assert (byt5.first_sentinel, byt5.vocab_size, byt5.fingerprint) == (258, 384, "bytes/125/258")
    # The ids of transformers' ByT5Tokenizer, versions 4.57.6 and 5.23.0.
    expected = [100, 35, 259, 35, 101, 383, 1, 102, 0, 63, 104]
    assert byt5.encode("a <extra_id_0> b<extra_id_124> </s> c<pad><e") == expected
    assert [byt5.token(index) for index in (0, 100, 258, 259, 383)] == [
        "<pad>",
        "<0x61>",
        "<0xFF>",
        "<extra_id_0>",
        "<extra_id_124>",
    ]
    with pytest.raises(ValueError, match="the lowest sentinel 134 .* is also an id of text"):
        vocabularies.mask_id(byt5)
    own = ByteVocabulary()
    assert own.encode("<extra_id_0><extra_id_1>") == [own.first_sentinel, own.first_sentinel - 1]
    for vocabulary in (byt5, own):
        vocabulary.save(tmp_path / vocabulary.fingerprint)
        export(vocabulary, tmp_path / vocabulary.fingerprint / "exported")
        assert loading.load(tmp_path / vocabulary.fingerprint) == vocabulary
        assert read_folder(tmp_path / vocabulary.fingerprint / "exported") == vocabulary
