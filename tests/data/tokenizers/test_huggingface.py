"""A tokenizer.json gives the library's ids before and after saving; its special ids are those that the files name."""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from t5x_like.data import rows
from t5x_like.data.cache import tokenizing
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import loading, vocabularies
from t5x_like.data.tokenizers.folder import export, read_folder
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from tests.data.tokenizers import tiny_tokenizers
from tests.data.tokenizers.tiny_tokenizers import TEXTS, VARIED

MAKERS = {name: getattr(tiny_tokenizers, name) for name in ("byte_level", "wordpiece", "unigram")}


@pytest.fixture(scope="module")
def trained():
    return {name: make() for name, make in MAKERS.items()}


def folder_of(folder, tokenizer, **files):
    """Writes a Hugging Face folder; `files` are contents by name without .json."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", MAKERS)
def test_ids_are_the_librarys_after_saving_and_exporting(kind, trained, tmp_path):
    tokenizer = trained[kind]
    read = read_folder(folder_of(tmp_path / "a", tokenizer))
    read.save(tmp_path / "saved")
    export(read, tmp_path / "exported")
    for vocabulary in (read, loading.load(tmp_path / "saved"), read_folder(tmp_path / "exported")):
        assert vocabulary == read and vocabulary.fingerprint == read.fingerprint
        for text in TEXTS + VARIED:
            assert vocabulary.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
            assert vocabulary.encode_special(text) == tokenizer.encode(text).ids


def test_a_panic_of_the_library_is_an_error(trained, tmp_path):
    """A text may exceed the regular expression's limit of steps; Rust's panics are not an Exception."""
    content = json.loads(trained["byte_level"].to_str())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    slow = TokenizerVocabulary(json.dumps(content | {"pre_tokenizer": split}), 400, eos=0)
    text = "a" * 100 + "!"
    for encode in (slow.encode, lambda text: slow.encode(text, literal=True), slow.encode_special):
        with pytest.raises(ValueError, match="tokenizers library fails: .*retry-limit"):
            encode(text)
    with pytest.raises(tokenizing.BadDocument, match="cannot be tokenized"):
        tokenizing.tokenize("targets", tokenizing.Texts([b"x", text.encode()]), slow)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(content | {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1000}})
    )
    with pytest.raises(ValueError, match="tokenizers library fails"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["pad", "cut"])
def test_padding_and_truncation_of_the_file_are_ignored(name, trained, tmp_path):
    tokenizer = Tokenizer.from_str(trained["wordpiece"].to_str())
    plain = read_folder(folder_of(tmp_path / "plain", tokenizer))
    tokenizer.enable_padding(length=2**20) if name == "pad" else tokenizer.enable_truncation(1)
    read = read_folder(folder_of(tmp_path / name, tokenizer))
    assert read.add_bos == plain.add_bos
    assert [read.encode(text) for text in TEXTS] == [plain.encode(text) for text in TEXTS]


UNEXPECTED = [
    ("tokenizer_config", {"eos_token": {"content": {"a": 1}}}, "eos_token"),
    ("tokenizer_config", {"eos_token": {"text": "</s>"}}, "eos_token"),
    ("tokenizer_config", {"bos_token": ["<s>"]}, "bos_token"),
    ("special_tokens_map", {"unk_token": 3}, "unk_token"),
    ("config", {"eos_token_id": {"a": 1}}, "eos_token_id"),
    ("generation_config", {"eos_token_id": ["2"]}, "eos_token_id"),
    ("config", {"text_config": 3}, "unexpected value"),
    ("tokenizer_config", {"chat_template": [{"name": "x"}]}, "unexpected value"),
    ("tokenizer_config", {"chat_template": {"a": 1}}, "chat_template"),
    ("tokenizer_config", {"chat_template": [{"name": "default", "template": 3}]}, "chat_template"),
]


@pytest.mark.parametrize("case", UNEXPECTED, ids=lambda case: json.dumps(case[1]))
def test_an_unexpected_value_is_refused_by_name(case, trained, tmp_path):
    name, content, named = case
    with pytest.raises(ValueError, match=named):
        read_folder(folder_of(tmp_path, trained["byte_level"], **{name: content}))


def test_bytes_are_restored_and_counted(trained, tmp_path):
    vocabulary = read_folder(folder_of(tmp_path, trained["byte_level"]))
    for text in (text for text in TEXTS + VARIED if "<|" not in text):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert b"".join(vocabulary.token_bytes[i] for i in ids) == text.encode()
    assert vocabulary.bytes_per_token_V.tolist() == [len(text) for text in vocabulary.token_bytes]
    special = vocabulary.encode("<|im_start|><|end|>")
    assert len(special) == 2 and not vocabulary.bytes_per_token_V[special].any()
    assert not set(special) & set(vocabularies.text_ids(vocabulary).tolist())


def test_bytes_of_the_other_kinds(trained, tmp_path):
    words, pieces = (read_folder(folder_of(tmp_path / k, trained[k])) for k in ("wordpiece", "unigram"))
    assert b"".join(words.token_bytes[i] for i in words.encode("return while")) == b"returnwhile"
    assert b"".join(pieces.token_bytes[i] for i in pieces.encode("return while")) == b" return while"
    assert pieces.bytes_per_token_V[pieces.encode("return while")].sum() == len(" return while")


def test_truncation_and_padding_of_a_file_are_ignored(trained, tmp_path):
    tokenizer = type(trained["wordpiece"]).from_str(trained["wordpiece"].to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    text = TEXTS[0]
    assert read_folder(folder_of(tmp_path, tokenizer)).encode_special(text) == trained["wordpiece"].encode(text).ids


def test_special_ids_of_bert_and_t5(trained, tmp_path):
    bert = read_folder(folder_of(tmp_path / "bert", trained["wordpiece"]))
    assert (bert.pad, bert.unk, bert.bos, bert.eos, bert.mask) == (0, 1, 2, 3, 4)
    assert vocabularies.mask_id(bert) == 4 and vocabularies.text_ids(bert).min() == 5
    config = {"decoder_start_token_id": 0, "eos_token_id": 1, "vocab_size": 160}
    t5 = read_folder(folder_of(tmp_path / "t5", trained["unigram"], config=config))
    top = trained["unigram"].token_to_id("<extra_id_0>")
    assert (t5.pad, t5.eos, t5.unk, t5.bos, t5.extra_ids, t5.first_sentinel) == (0, 1, 2, 0, 4, top)
    assert t5.add_bos and vocabularies.start_id(t5) == 0 and vocabularies.mask_id(t5) == top - 3


def test_the_files_that_name_special_ids(trained, tmp_path):
    tokenizer = trained["byte_level"]
    end, begin, turn = (tokenizer.token_to_id(name) for name in ("<|end|>", "<|im_start|>", "<|im_end|>"))
    generation = {"eos_token_id": [end, turn]}
    read = read_folder(folder_of(tmp_path / "a", tokenizer, generation_config=generation))
    assert (read.eos, read.stop_ids, read.bos, read.pad, read.add_bos) == (end, (end, turn), None, None, False)
    settings = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "pad_token": None}
    files = {"generation_config": generation, "tokenizer_config": settings, "config": {"pad_token_id": end}}
    read = read_folder(folder_of(tmp_path / "b", tokenizer, **files))
    assert (read.eos, read.stop_ids, read.bos, read.pad) == (turn, (turn, end), begin, end)
    assert read.decode([*read.encode("a"), end, *read.encode("b")]) == "a"
    export(read, tmp_path / "c")
    assert read_folder(tmp_path / "c") == read


def test_add_bos_is_that_of_the_post_processor(tmp_path):
    tokenizer = tiny_tokenizers.byte_level(bos="<|im_start|>")
    settings = {"bos_token": "<|im_start|>"}
    assert read_folder(folder_of(tmp_path / "a", tokenizer, tokenizer_config=settings)).add_bos
    settings["add_bos_token"] = False
    assert not read_folder(folder_of(tmp_path / "b", tokenizer, tokenizer_config=settings)).add_bos


def test_a_padded_table(trained, tmp_path):
    tokenizer = trained["byte_level"]
    folder = folder_of(tmp_path / "a", tokenizer, config={"vocab_size": 512})
    padded = read_folder(folder)
    assert padded.vocab_size == 512 and padded.bytes_per_token_V.shape == (512,)
    assert padded.decode([*padded.encode("x"), 400, 511, *padded.encode("y")]) == "xy"
    assert read_folder(folder, vocab_size=600).vocab_size == 600
    assert padded.fingerprint != read_folder(folder, vocab_size=600).fingerprint
    padded.save(tmp_path / "b")
    assert loading.load(tmp_path / "b") == padded


def test_older_files_give_the_same_ids(trained, tmp_path):
    words, table = tmp_path / "words", trained["wordpiece"].get_vocab()
    words.mkdir()
    (words / "vocab.txt").write_text("\n".join(sorted(table, key=table.get)) + "\n", encoding="utf-8")
    (words / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    pairs, model = tmp_path / "pairs", json.loads(trained["byte_level"].to_str())["model"]
    pairs.mkdir()
    (pairs / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    (pairs / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    extra = {"<|im_start|>": model["vocab"]["<|im_start|>"], "<|end|>": model["vocab"]["<|end|>"]}
    (pairs / "added_tokens.json").write_text(json.dumps(extra | {"<|im_end|>": model["vocab"]["<|im_end|>"]}))
    for folder, kind in ((words, "wordpiece"), (pairs, "byte_level")):
        read = read_folder(folder)
        for text in TEXTS + VARIED:
            assert read.encode(text) == trained[kind].encode(text, add_special_tokens=False).ids
            assert read.encode_special(text) == trained[kind].encode(text).ids
    (words / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = read_folder(words)
    assert cased.encode("Return") != cased.encode("return") == read_folder(words).encode("return")


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "holds no tokenizer .found: nothing.; it needs tokenizer.json"),
        ({"tokenizer.json": "{broken"}, "tokenizer.json is not JSON"),
        ({"tokenizer.json": "[]"}, "tokenizer.json holds a JSON list"),
        ({"tokenizer.json": "{}"}, "cannot be read by tokenizers"),
        ({"config.json": "{", "vocab.txt": "a"}, "config.json is not JSON"),
        ({"vocab.txt": "a\nb\n"}, r"vocab.txt has no \[UNK\], \[CLS\], \[SEP\]"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b c\n"}, "merges.txt, line 1: need two tokens"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b\n"}, "do not fit together"),
        (
            {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}'},
            "vocab.json and merges.txt of a CLIPTokenizer do not define its",
        ),
        ({"vocab.json": '{"a": 0}', "merges.txt": "", "added_tokens.json": '{"b": 7}'}, "'b' must have id 7"),
        ({"tokenizer.model": "# tiktoken"}, "not a SentencePiece model .*Llama 3's tokenizer.model"),
        ({"spiece.model": "x", "config.json": '{"model_type": "xlnet"}'}, "belongs to a xlnet"),
    ],
)
def test_bad_folders_are_rejected(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_too_small_tables_and_unknown_ids_are_rejected(trained, tmp_path):
    folder = folder_of(tmp_path, trained["byte_level"], config={"vocab_size": 340})
    with pytest.raises(ValueError, match=r"the tokenizer has 350 ids, the model's vocab_size=340.*vocab_size=350"):
        read_folder(folder)
    text = trained["byte_level"].to_str()
    with pytest.raises(ValueError, match="pad=400 is not one of the vocab_size=350 ids"):
        TokenizerVocabulary(text, 350, pad=400)
    with pytest.raises(ValueError, match="add_bos=True, but bos=None"):
        TokenizerVocabulary(text, 350, add_bos=True)
    with pytest.raises(ValueError, match="has no end of sequence"):
        vocabularies.end_id(TokenizerVocabulary(text, 350))
    with pytest.raises(ValueError, match="neither bos nor eos nor pad"):
        vocabularies.start_id(TokenizerVocabulary(text, 350))
    (tmp_path / "vocabulary.json").write_text('{"kind": "other"}')
    with pytest.raises(ValueError, match="of kind 'other', known are bytes"):
        loading.load(tmp_path)


def test_rows_begin_with_the_vocabularys_start_id(trained, tmp_path, tiny_root):
    from t5x_like.data.cache.token_cache import TokenCache

    class Other(TokenCache):
        vocabulary = TokenizerVocabulary(trained["byte_level"].to_str(), 400, eos=2, bos=1, sentinel=399, extra_ids=50)

    tiny, pairs = (Other(name, "train", root=str(tiny_root)) for name in ("tiny", "pairs"))
    index, epoch = np.arange(4), np.zeros(4, int)
    causal = rows.CausalLM(tiny, 16).fetch(index, epoch, 0)
    assert causal["decoder_input_tokens"][0, 0] == 1
    t5 = rows.SpanCorruption(tiny, 32, 16).fetch(index, epoch, 0)
    assert (t5["decoder_input_tokens"][:, 0] == 1).all() and 399 in t5["encoder_input_tokens"]
    ends = t5["encoder_segment_ids"].sum(1) - 1
    assert (t5["encoder_input_tokens"][index, ends] == 2).all()
    packed = rows.PackedExamples(pairs, 48, 40).fetch(index, epoch, 0)
    first = (packed["decoder_positions"] == 0) & (packed["decoder_segment_ids"] > 0)
    assert (packed["decoder_input_tokens"][first] == 1).all()
    assert not packed["decoder_input_tokens"][packed["decoder_segment_ids"] == 0].any()


def test_a_seqio_task_reads_the_same_ids(trained, tmp_path):
    import tensorflow as tf

    from t5x_like.tasks import vocabularies as wrappers

    tokenizer = Tokenizer.from_str(trained["byte_level"].to_str())
    names = {"eos_token": "<|end|>", "pad_token": "<|im_end|>"}
    folder = folder_of(tmp_path, tokenizer, tokenizer_config=names, config={"vocab_size": 384})
    wrapped = wrappers.from_folder(folder)
    assert (wrapped.eos_id, wrapped.bos_id, wrapped.unk_id, wrapped.vocab_size) == (0, None, None, 384)
    assert wrapped.pad_id == tokenizer.token_to_id("<|im_end|>")
    tokenizer.encode_special_tokens = True
    for text in (text for text in TEXTS + VARIED if text):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert wrapped.encode(text) == wrapped.encode_tf(tf.constant(text)).numpy().tolist() == ids
        assert wrapped.decode([*ids, 0, 5]) == text == wrapped.decode_tf(tf.constant(ids)).numpy().decode()
    assert wrapped == wrappers.from_folder(folder) and wrapped != wrappers.BYTES
    assert (wrappers.BYTES.bos_id, wrappers.BYTES.eos_id, wrappers.BYTES.unk_id, wrappers.BYTES.pad_id) == (
        None,
        1,
        2,
        0,
    )


def test_the_byte_vocabulary_has_t5s_ids(tmp_path):
    bytes_ = vocabularies.ByteVocabulary()
    assert bytes_.fingerprint == "bytes/125" and vocabularies.mask_id(bytes_) == 384 - 125
    assert vocabularies.text_ids(bytes_).tolist() == list(range(3, 259))
    ids = (bytes_.pad, bytes_.eos, bytes_.unk, bytes_.bos, bytes_.stop_ids, bytes_.first_sentinel)
    assert ids == (0, 1, 2, 0, (1,), 383)
    assert dataclasses.asdict(bytes_) == {"extra_ids": 125, "sentinel": None}
    tokenizer_folder.export(bytes_, tmp_path)
    assert read_folder(tmp_path) == bytes_
