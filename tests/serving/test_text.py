"""Streams of tokens as text: the pieces are the whole text, no character is given out half, and stop texts end it."""

import random

import pytest

from t5x_like.serving.text import TextStream, overlap
from tests.data.tokenizers import tiny_tokenizers
from tests.data.tokenizers.test_literal import MAKERS

TEXTS = [*tiny_tokenizers.TEXTS[-6:], "naïve — “quotes” … 日本語 👩‍👩‍👧 x " * 20]


@pytest.fixture(scope="module", params=MAKERS)
def vocabulary(request):
    return MAKERS[request.param]()


def pieces_of(vocabulary, ids, stops=()):
    stream = TextStream(vocabulary, stops)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    assert stream.text == "".join(pieces)
    return pieces, stream


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text_of_all_tokens(text, vocabulary):
    ids = vocabulary.encode(text, literal=True)
    pieces, _ = pieces_of(vocabulary, ids)
    assert "".join(pieces) == vocabulary.decode(ids)
    if "�" not in vocabulary.decode(ids):
        assert not any("�" in piece for piece in pieces)


def test_random_tokens_give_their_text():
    for kind in ("bytes", "byte_level", "llama", "gemma"):
        vocabulary = MAKERS[kind]()
        draw = random.Random(0)
        for _ in range(50):
            ids = draw.choices([i for i in range(vocabulary.vocab_size) if i not in vocabulary.stop_ids], k=30)
            assert "".join(pieces_of(vocabulary, ids)[0]) == vocabulary.decode(ids)


def test_text_comes_as_soon_as_it_is_complete(vocabulary):
    ids = vocabulary.encode("the quick brown fox", literal=True)
    stream = TextStream(vocabulary)
    for end, token in enumerate(ids, 1):
        stream.push(token)
        assert stream.text == vocabulary.decode(ids[:end])


@pytest.mark.parametrize("stop", ["fox", "k br", "quick brown fox's tail", "e q"])
def test_a_stop_text_ends_the_stream_and_is_not_part_of_it(stop, vocabulary):
    text = vocabulary.decode(vocabulary.encode("the quick brown fox's tail", literal=True))
    if stop not in text:
        pytest.skip("the tokenizer separates the apostrophe")
    ids = vocabulary.encode(text + " and more", literal=True)
    pieces, stream = pieces_of(vocabulary, ids, ["never", stop])
    assert stream.stopped and stream.text == text[: text.index(stop)]
    assert not any(stop[:size] and piece.endswith(stop[:size]) for piece in pieces for size in range(2, len(stop)))
    assert stream.push(ids[0]) == ""


def test_of_several_stop_texts_the_one_that_is_complete_first_ends_it():
    vocabulary = MAKERS["bytes"]()
    for stops in (["cd", "bcde"], ["bcde", "cd"], ["e", "cd"]):
        assert pieces_of(vocabulary, vocabulary.encode("abcdef"), stops)[1].text == "ab"


def test_what_may_begin_a_stop_text_is_held_back_and_given_out_in_the_end():
    vocabulary = MAKERS["bytes"]()
    pieces, stream = pieces_of(vocabulary, vocabulary.encode("a\n\nb\n"), ["\n\n\n"])
    assert pieces == ["a", "", "", "\n\nb", "", "\n"] and not stream.stopped


def test_overlap_is_that_of_the_definition():
    draw = random.Random(1)
    for _ in range(2000):
        text, stop = ("".join(draw.choices("ab", k=draw.randint(1, 7))) for _ in range(2))
        expected = max(n for n in range(len(stop)) if text.endswith(stop[:n]))
        assert overlap(text, stop) == expected


def test_stop_ids_have_no_text():
    vocabulary = MAKERS["byte_level"]()
    ids = vocabulary.encode("the fox")
    stream = pieces_of(vocabulary, [ids[0], *vocabulary.stop_ids, *ids[1:]])[1]
    assert stream.text == "the fox"
