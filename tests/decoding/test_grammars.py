"""Texts sampled under a grammar match it; a mask allows exactly the tokens that continue to a match."""

import functools
import json
import re

import jax
import jsonschema
import numpy as np
import pytest
from tokenizers import decoders

from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_like.decoding import grammars
from t5x_like.decoding.grammars import Grammar, Matcher
from t5x_like.decoding.processors import apply_mask
from tests.data.tokenizers import tiny_tokenizers

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["a", "b/c", 'say "d"', None, 3]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 120}, "maxItems": 3},
        "inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
    },
    "required": ["name", "kind", "inner"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
PATTERNS = [r"(def|for) [a-zé]{2,5}(, [0-9]+)*", r"a?b*[^a-z]{1,3}", r"([0-9]{4}-[0-9]{2}|n/a)", r"(?i:yes|no)!?"]
WORDS = [
    "",
    "the quick",
    "the tail",
    "def f",
    "define",
    "for ",
    " pass",
    "  a",
    "Naïve café",
    "日",
    "x = {1: 2}\n\tpass",
]


def stripping():
    """LLaMA's decoder: the first space of a text is dropped."""
    tokenizer = tiny_tokenizers.unigram()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TokenizerVocabulary(tokenizer.to_str(), 130, eos=1, unk=2)


MAKERS = {
    "bytes": lambda: ByteVocabulary(extra_ids=11),
    "byte_level": lambda: TokenizerVocabulary(tiny_tokenizers.byte_level().to_str(), 400, eos=0, stop_ids=(0, 2)),
    "llama": lambda: SentencePieceModel(tiny_tokenizers.sentencepiece_file("llama"), 450, eos=2, unk=0, bos=1),
    "t5": lambda: SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5")),
    "t5_without_spaces": lambda: SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5", True)),
    "unigram": lambda: TokenizerVocabulary(tiny_tokenizers.unigram().to_str(), 130, eos=1, unk=2),
    "stripping": stripping,
}
WHOLE = ("bytes", "byte_level", "llama")  # they can write any text


@pytest.fixture(scope="module")
def tables():
    made = {kind: make() for kind, make in MAKERS.items()}
    return {kind: (vocabulary, grammars.tokenizer_of(vocabulary)) for kind, vocabulary in made.items()}


def allowed_ids(mask_W):
    return np.flatnonzero(np.unpackbits(mask_W.view(np.uint8), bitorder="little"))


def sample(matcher, rng, most=300):
    """Token ids, each drawn uniformly from those that the mask allows."""
    ids = []
    while not matcher.is_finished and len(ids) < most:
        ids.append(int(rng.choice(allowed_ids(matcher.mask()))))
        matcher.consume(ids[-1])
    return ids


def sample_texts(vocabulary, table, grammar, seeds=range(200)):
    """The texts that ended."""
    first = Matcher(table, grammar)
    for seed in seeds:
        matcher = first.copy()
        ids = sample(matcher, np.random.default_rng(seed))
        assert matcher.error is None
        if matcher.is_finished:
            yield vocabulary.decode(ids)


@pytest.mark.parametrize("kind", WHOLE)
def test_texts_sampled_under_a_schema_are_valid(kind, tables):
    texts = list(sample_texts(*tables[kind], Grammar.json_schema(SCHEMA)))
    assert len(texts) > 100 and len(set(texts)) > 50
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("kind", WHOLE)
def test_any_object_is_json(kind, tables):
    objects = [json.loads(text) for text in sample_texts(*tables[kind], Grammar.json_object())]
    assert len(objects) > 50 and all(isinstance(value, dict) for value in objects)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_sampled_under_a_pattern_match_it(kind, pattern, tables):
    texts = list(sample_texts(*tables[kind], Grammar.regex(pattern), seeds=range(50)))
    assert len(texts) > 30
    assert all(re.fullmatch(pattern, text) for text in texts)


def test_texts_sampled_under_a_context_free_grammar_are_balanced(tables):
    grammar = Grammar.lark('start: pair\npair: "(" pair* ")" | "[" pair* "]"')
    texts = list(sample_texts(*tables["byte_level"], grammar))
    assert max(map(len, texts)) > 20
    for text in texts:
        while (shorter := text.replace("()", "").replace("[]", "")) != text:
            text = shorter
        assert not text


@functools.cache
def bytes_of(vocabulary, ids):
    """The bytes of the text of ids that may end within a character."""
    for count in range(len(ids), -1, -1):
        text = vocabulary.decode(ids[:count])
        if "\ufffd" not in text:
            return text.encode() + b"".join(vocabulary.token_bytes[i] for i in ids[count:])
    raise AssertionError


@pytest.mark.parametrize("kind", MAKERS)
def test_a_mask_allows_what_continues_to_a_match(kind, tables):
    """By brute force: an id is allowed where the text with it begins one of the words, a stop id where the text is a word."""
    vocabulary, table = tables[kind]
    words = [w for w in WORDS if vocabulary.unk not in vocabulary.encode(w, literal=True)]
    assert len(words) > 5
    encoded = [word.encode() for word in words]
    texts = [i for i, text in enumerate(vocabulary.token_bytes) if text and i not in vocabulary.stop_ids]
    first = Matcher(table, Grammar.choice(words))
    seen = set()
    for seed in range(30):
        matcher, ids, rng = first.copy(), (), np.random.default_rng(seed)
        while not matcher.is_finished:
            before = bytes_of(vocabulary, ids)
            expected = {i for i in texts if any(w.startswith(bytes_of(vocabulary, (*ids, i))) for w in encoded)}
            if ids:  # a token without text could be repeated for ever
                expected -= {i for i in texts if bytes_of(vocabulary, (*ids, i)) == before}
            allowed = allowed_ids(matcher.mask()).tolist()
            assert set(allowed) == expected | (set(vocabulary.stop_ids) if before in encoded else set())
            token = int(rng.choice(allowed))
            ids += () if token in vocabulary.stop_ids else (token,)
            matcher.consume(token)
        seen.add(vocabulary.decode(ids))
    assert seen <= set(words) and len(seen) > 3


def test_a_dropped_space_at_the_beginning_is_no_text(tables):
    for kind in ("llama", "t5"):
        vocabulary, table = tables[kind]
        matcher = Matcher(table, Grammar.choice(["pass"]))
        begun = {vocabulary.token(i): int(i) for i in allowed_ids(matcher.mask())}
        assert {"p", "▁"} <= begun.keys() and [token for token in begun if token.startswith("▁p")]
        matcher.consume(begun["▁"])
        then = {vocabulary.token(i) for i in allowed_ids(matcher.mask())}
        assert "p" in then and not [token for token in then if token.startswith("▁")]
    vocabulary, table = tables["t5_without_spaces"]
    assert table.drops_all
    matcher = Matcher(table, Grammar.choice(["pass"]))
    matcher.consume(vocabulary.processor.piece_to_id("▁"))
    then = {vocabulary.token(i) for i in allowed_ids(matcher.mask())}
    assert "p" in then and "▁" not in then and [token for token in then if token.startswith("▁p")]


def test_rows_above_the_vocabulary_are_never_allowed(tables):
    vocabulary, _ = tables["bytes"]
    table = grammars.tokenizer_of(vocabulary, vocab_size=300)
    mask_W = Matcher(table, Grammar.regex(r"[\s\S]*")).mask()
    assert mask_W.dtype == np.uint32 and mask_W.shape == (10,)
    assert set(allowed_ids(mask_W)) <= {vocabulary.eos, *range(3, 259)}


def test_copies_and_rollback(tables):
    _, table = tables["llama"]
    grammar, rng = Grammar.json_schema(SCHEMA), np.random.default_rng(0)
    matcher = Matcher(table, grammar)
    masks, ids = [], []
    while not matcher.is_finished:
        masks.append(matcher.mask())
        ids.append(int(rng.choice(allowed_ids(masks[-1]))))
        matcher.consume(ids[-1])
    assert len(ids) > 20
    twin = matcher.copy()
    for count in (1, 3, 10, len(ids) - 14):  # with what stands before: all tokens
        matcher.rollback(count)
        np.testing.assert_array_equal(matcher.mask(), masks[len(matcher.read)])
    assert not matcher.read and twin.is_finished
    for token, mask_W in zip(ids, masks, strict=True):
        np.testing.assert_array_equal(matcher.mask(), mask_W)
        matcher.consume(token)
    with pytest.raises(ValueError, match=f"cannot remove {len(ids) + 1} of {len(ids)} tokens"):
        matcher.rollback(len(ids) + 1)


def test_a_token_that_is_not_allowed_is_refused(tables):
    vocabulary, table = tables["bytes"]
    matcher = Matcher(table, Grammar.regex("ab"))
    for token in (ord("b") + 3, vocabulary.eos, vocabulary.pad, -1, 10_000):
        with pytest.raises(ValueError, match=f"token {token} is not allowed after 0 tokens"):
            matcher.consume(token)
    for character in "ab":
        assert not matcher.is_finished
        matcher.consume(ord(character) + 3)
    assert matcher.is_finished and allowed_ids(matcher.mask()).tolist() == [vocabulary.eos]
    matcher.consume(vocabulary.eos)
    assert matcher.is_finished and matcher.error is None


def test_a_text_that_cannot_go_on_ends_with_an_error(tables):
    """No token of the vocabulary, or a limit of the library."""
    vocabulary, table = tables["t5"]
    assert vocabulary.unk in vocabulary.encode("§")
    matcher = Matcher(table, Grammar.regex("e§"))
    assert matcher.error is None
    matcher.consume(vocabulary.processor.piece_to_id("e"))
    assert allowed_ids(matcher.mask()).tolist() == [vocabulary.eos]
    assert matcher.is_finished and "no token of the vocabulary" in matcher.error
    matcher.consume(vocabulary.eos)
    matcher.rollback(2)
    assert not matcher.is_finished and len(allowed_ids(matcher.mask())) > 1
    with pytest.raises(ValueError, match="no text of the vocabulary matches"):
        Matcher(table, Grammar.regex("§"))
    _, byte_table = tables["bytes"]
    matcher = Matcher(
        byte_table, Grammar.json_schema({"properties": {f"a{i}": {} for i in range(400)}, "type": "object"})
    )
    matcher.consume(ord("{") + 3)
    assert matcher.is_finished and "items" in matcher.error
    matcher.rollback(1)
    assert not matcher.is_finished and allowed_ids(matcher.mask()).tolist() == [ord("{") + 3]


WRONG = {
    "unclosed group": lambda: Grammar.regex("(a"),
    "look-around": lambda: Grammar.regex("(?=a)b"),
    "backreferences": lambda: Grammar.regex(r"(a)\1"),
    "no text .* matches": lambda: Grammar.regex(r"a[^\s\S]"),
    "minLength .5. is greater": lambda: Grammar.json_schema({"type": "string", "minLength": 5, "maxLength": 2}),
    "incompatible types": lambda: Grammar.json_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "schema is false": lambda: Grammar.json_schema(False),
    "no text of": lambda: Grammar.json_schema({"$ref": "#"}),
    "uniqueItems": lambda: Grammar.json_schema({"type": "array", "uniqueItems": True}),
    "must be an object": lambda: Grammar.json_schema([]),
    "not JSON": lambda: Grammar.json_schema({"const": {1, 2}}),
    "not a list of texts": lambda: Grammar.choice([]),
    "list of texts; give": lambda: Grammar.choice("abc"),
    "no start rule": lambda: Grammar.lark('main: "a"'),
    "unknown name": lambda: Grammar.lark("start: missing"),
    "65536; simplify": lambda: Grammar.regex("a" * 70_000),
    "surrogates": lambda: Grammar.choice(["\ud800"]),
    "nested": lambda: Grammar.lark("start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "recursion": lambda: Grammar.json_schema(nested(500)),
}


def nested(depth):
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "integer"}


@pytest.mark.parametrize("message", WRONG)
def test_an_invalid_grammar_is_refused(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_a_vocabulary_that_joins_tokens_is_refused():
    words = TokenizerVocabulary(tiny_tokenizers.wordpiece().to_str(), 200, eos=3)
    with pytest.raises(ValueError, match="WordPiece puts spaces between words"):
        grammars.tokenizer_of(words)


def test_equal_grammars_are_equal():
    assert Grammar.regex("ab") == Grammar.regex("ab") != Grammar.regex("abc")
    assert len({Grammar.json_object(), Grammar.json_schema({"type": "object"})}) == 1


def test_masks_are_applied_to_logits(tables):
    _, table = tables["bytes"]
    matchers = [Matcher(table, Grammar.regex("[a-f]x")), None, Matcher(table, Grammar.json_object())]
    masks_SW = np.zeros((3, -(-table.vocab_size // 32)), np.uint32)
    grammars.fill_masks(matchers, masks_SW)
    logits_SV = np.random.default_rng(0).normal(size=(3, table.vocab_size)).astype(np.float32)
    allowed_SV = np.unpackbits(masks_SW.view(np.uint8), axis=1, bitorder="little")[:, : table.vocab_size]
    assert allowed_SV.sum(axis=1).tolist() == [6, table.vocab_size, 1]
    np.testing.assert_array_equal(jax.jit(apply_mask)(logits_SV, masks_SW), np.where(allowed_SV, logits_SV, -np.inf))
