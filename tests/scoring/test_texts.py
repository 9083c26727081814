"""Texts become the ids that lm-evaluation-harness scores; records are complete, in order, and the same after an interruption."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from t5x_like import inference, partitioning
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_like.decoding.processors import BadWords
from t5x_like.models import positions
from t5x_like.scoring import texts
from t5x_like.scoring.rows import length_limits
from t5x_like.scoring.texts import ScoringOptions, TextScorer
from t5x_like.text_metrics import likelihood
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers

ONE = partitioning.make_mesh(devices=jax.devices()[:1])
PAIRS = [
    ("The quick brown", " fox's tail"),
    ("The quick  ", "brown"),
    ("", "a fox"),
    ("x = ", ""),
    ("a<s>b\n\n", "</s>é"),
]


def vocabularies():
    bpe = tiny_tokenizers.byte_level(("<|end|>", "<s>"), bos="<s>").to_str()
    return {
        "bytes": ByteVocabulary(),
        "T5": SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5")),
        "GPT-2": TokenizerVocabulary(bpe, 384, eos=0),
        "BPE with bos": TokenizerVocabulary(bpe, 384, eos=0, bos=1, add_bos=True),
        "LLaMA": SentencePieceModel(tiny_tokenizers.sentencepiece_file("llama"), 512, bos=1, eos=2, add_bos=True),
    }


def sized(model, vocabulary):
    return model.clone(embed=model.embed.clone(vocab_size=vocabulary.vocab_size))


def params_of(model):
    return tiny.init(model, tiny.batch(length=8, sides=model.sides))


def scorer_of(model, vocabulary, max_length=None, **options):
    return TextScorer(model, vocabulary, ScoringOptions(length_limits(model, max_length), **options), ONE)


@pytest.fixture(scope="module")
def decoder():
    model = sized(tiny.decoder(), ByteVocabulary())
    return model, params_of(model)


def score(model_and_params, records, max_length=None, finished=(), **options):
    limits = length_limits(model_and_params[0], max_length)
    options = ScoringOptions(limits, **{"batch_size": 2} | options)
    return list(texts.score(*model_and_params, ByteVocabulary(), records, options, ONE, finished=finished))


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("name", vocabularies())
def test_pairs_are_tokenized_as_by_the_harness(name, kind):
    api = pytest.importorskip("lm_eval.api.model")
    from lm_eval.api.instance import Instance

    vocabulary = vocabularies()[name]

    class Recorder(api.TemplateLM):
        """Keeps the ids that the harness would score."""

        backend = "causal" if kind == "decoder" else "seq2seq"
        eot_token_id = vocabulary.eos
        prefix_token_id = vocabulary.bos if vocabulary.bos is not None else vocabulary.eos

        def tok_encode(self, string, add_special_tokens=None):
            if self.backend == "seq2seq" and add_special_tokens is None:
                return vocabulary.encode_special(string)
            bos = vocabulary.add_bos and self.backend == "causal" and add_special_tokens is None
            return [vocabulary.bos] * bos + vocabulary.encode(string)

        def _loglikelihood_tokens(self, requests, disable_tqdm=False):
            return [ids for _, *ids in requests]

        loglikelihood_rolling = generate_until = None

    scorer = scorer_of(sized(getattr(tiny, kind)(), vocabulary), vocabulary)
    pairs = [pair for pair in PAIRS if pair[1].strip() and (pair[0] or kind == "decoder")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    for pair, (context, targets) in zip(pairs, Recorder().loglikelihood(requests), strict=True):
        (row,) = scorer.pair(*pair)
        assert list(row.targets) == targets and targets, pair
        if kind == "decoder":
            assert row.inputs == {"decoder": [*context, *targets[:-1]]}
            assert list(row.positions) == [len(context) - 1 + i for i in range(len(targets))]
        else:
            assert row.inputs["encoder"] == context and row.inputs["decoder"][1:] == targets[:-1]


def test_a_continuation_may_begin_with_the_token_that_stands_for_an_empty_context():
    vocabulary = vocabularies()["BPE with bos"]
    (row,) = scorer_of(sized(tiny.decoder(), vocabulary), vocabulary).pair("", "<s>fox")
    assert row.inputs["decoder"][0] == 1 and list(row.targets) == vocabulary.encode("fox")


def test_names_of_control_tokens_are_tokens_in_pairs_and_text_in_documents(decoder):
    scorer = scorer_of(decoder[0], ByteVocabulary())
    assert [list(row.targets) for row in scorer.pair("a", "</s>")] == [[1]]
    assert [list(row.targets) for row in scorer.document("</s>")] == [ByteVocabulary().encode("</s>", literal=True)]


def test_the_score_of_a_completion_is_that_of_its_generation():
    letters = BadWords([[i] for i in range(384) if not ord("a") + 3 <= i <= ord("z") + 3])
    for kind in (tiny.decoder, tiny.encoder_decoder):
        model = sized(kind(), ByteVocabulary())
        params = params_of(model)
        options = inference.DecodingOptions(max_new_tokens=6, batch_size=2, processors=[letters])
        made = list(inference.infer(model, params, ByteVocabulary(), ["def f", "x", "class A:"], options, ONE))
        for one, again in zip(made, score((model, params), made), strict=True):
            assert again["log_prob"] == pytest.approx(one["log_prob"], rel=1e-4)
            assert again["id"] == one["id"] and again["completion"] == one["completion"]


def test_results_are_complete_and_in_order(decoder):
    records = [
        {"text": "def f(x):\n" * 5},
        {"context": "a ", "continuation": "é", "id": "mine"},
        {"text": ""},
        {"prompt": "abc" * 9, "completion": "d"},
        {"context": "a", "continuation": ""},
    ]
    results = score(decoder, records, max_length=16, tokens=True, top=3)
    assert [one["id"] for one in results] == [0, "mine", 2, 3, 4]
    for one, record in zip(results, records, strict=True):
        assert one.items() >= record.items()
        assert one["log_prob"] == pytest.approx(sum(one["log_probs"]), rel=1e-5)
        assert one["token_count"] == len(one["tokens"]) == len(one["top"]) == one["byte_count"]
        for token, log_prob, top in zip(one["tokens"], one["log_probs"], one["top"], strict=True):
            assert [each["log_prob"] for each in top] == sorted((each["log_prob"] for each in top), reverse=True)
            assert log_prob <= top[0]["log_prob"] + 1e-6 and len(top) == 3
            assert all(each["token"] == ByteVocabulary().token(each["id"]) for each in top)
            assert log_prob in [each["log_prob"] for each in top] or token not in [each["id"] for each in top]
        json.dumps(one)
    long, pair, nothing, _, empty = results
    assert pair["tokens"] == ByteVocabulary().encode(" é") and pair["byte_count"] == 3
    assert long["bits_per_byte"] == likelihood.bits_per_byte([long["text"]], [long["log_prob"]])["bits_per_byte"]
    assert nothing["log_prob"] == empty["log_prob"] == 0 and nothing["bits_per_byte"] is empty["bits_per_byte"] is None
    assert [one["dropped"] for one in results] == [0, 0, 0, 28 - 16, 0]


def test_a_document_is_scored_once_whatever_its_windows(decoder):
    document = {"text": "def f(x):\n    return x\n" * 3}
    whole, windows, overlapping = (
        score(decoder, [document], max_length=length, overlap=overlap, tokens=True)[0]
        for length, overlap in ((99, 1), (16, 1), (16, 8))
    )
    assert whole["tokens"] == windows["tokens"] == overlapping["tokens"] == ByteVocabulary().encode(document["text"])
    np.testing.assert_allclose(windows["log_probs"][:16], whole["log_probs"][:16], rtol=1e-4)
    assert len({round(one["log_prob"], 3) for one in (whole, windows, overlapping)}) == 3


def test_an_interrupted_job_continues_with_the_same_scores_bit_for_bit(decoder, monkeypatch):
    monkeypatch.setattr(texts, "BATCHES", 2)
    records = [{"text": "ab" * length} for length in (3, 30, 1, 9, 17, 40, 2, 5, 8, 20)]
    whole = score(decoder, records)
    for finished in ({0, 1, 2, 3}, {1, 5, 9}, set(range(10)), set()):
        rest = score(decoder, records, finished=finished)
        assert rest == [one for index, one in enumerate(whole) if index not in finished]


def test_a_text_that_fails_leaves_the_others_unchanged(decoder):
    good = [{"text": "abc"}, {"context": "a", "continuation": "b"}]
    bad = [{"context": "a", "continuation": "b" * 20}, {"text": "a\ud800"}, {"words": "a"}, {"text": 5}]
    results = score(decoder, [good[0], *bad, good[1]], max_length=9)
    assert [one["log_prob"] for one in (results[0], results[-1])] == pytest.approx(
        [one["log_prob"] for one in score(decoder, good, max_length=9)], rel=1e-5
    )
    messages = [
        "20 tokens to score do not fit into the 9",
        "U+D800",
        "need texts named context and continuation",
        "got",
    ]
    for one, message in zip(results[1:-1], messages, strict=True):
        assert message in one["error"] and "log_prob" not in one
    broken = decoder[0], jax.tree.map(lambda x: x * np.nan, decoder[1])
    assert "token 1 is nan" in score(broken, good)[0]["error"]


def test_a_continuation_that_is_lost_in_a_token_has_no_score():
    """Its log-probability would be 0, higher than any other's."""
    vocabulary = vocabularies()["GPT-2"]
    merged = next(token for token in map(vocabulary.token, range(384)) if token.isascii() and len(token) == 2)
    scorer = scorer_of(sized(tiny.decoder(), vocabulary), vocabulary)
    error = scorer.read({"context": merged[0], "continuation": merged[1]})
    assert f"the continuation {merged[1]!r} adds no token to score" in str(error)


def test_masked_texts_are_scored_in_windows_that_the_model_reads():
    tokenizer = tiny_tokenizers.wordpiece()
    vocabulary = TokenizerVocabulary(tokenizer.to_str(), 256, pad=0, unk=1, mask=4)
    model = sized(tiny.encoder(position=positions.Learned(8)), vocabulary)
    scorer = scorer_of(model, vocabulary, overlap=2)
    text = "The quick brown fox's tail is def pass"
    ids = vocabulary.encode(text)
    rows = scorer.document(text)
    assert [target for row in rows for target in row.targets] == ids and len(ids) > 8
    for row, target in zip(rows, ids, strict=True):
        (position,), read = row.positions, row.inputs["encoder"]
        assert read[0] == 2 and read[-1] == 3 and len(read) <= 8
        assert [i for i, token in enumerate(read) if token == 4] == [position]
        unmasked = [*read[:position], target, *read[position + 1 :]][1:-1]
        assert any(ids[i : i + len(unmasked)] == unmasked for i in range(len(ids)))
    rows = scorer.pair("The quick", " brown fox")
    assert [target for row in rows for target in row.targets] == vocabulary.encode("brown fox")
    whole = vocabulary.encode_special("The quick brown fox")
    assert all(len(row.inputs["encoder"]) == min(len(whole), 8) for row in rows)
    (scores,) = scorer(params_of(model), [{"text": text}])
    assert len(scores.log_probs_N) == len(ids) and math.isfinite(scores.log_prob)


def test_tokens_of_a_word_are_predicted_from_left_to_right():
    vocabulary = TokenizerVocabulary(tiny_tokenizers.wordpiece().to_str(), 256, pad=0, unk=1, mask=4)
    rows = scorer_of(sized(tiny.encoder(), vocabulary), vocabulary, word_l2r=True).document("quickbrown fox")
    tokens = [vocabulary.token(row.targets[0]) for row in rows]
    assert any(token.startswith("##") for token in tokens)
    for i, row in enumerate(rows):
        hidden = [j for j, index in enumerate(row.inputs["encoder"][1:-1]) if index == 4]
        more = itertools.takewhile(lambda j: tokens[j].startswith("##"), range(i + 1, len(tokens)))
        assert hidden == [i, *more]
    with pytest.raises(ValueError, match="word_l2r=True applies to masked"):
        scorer_of(sized(tiny.decoder(), vocabulary), vocabulary, word_l2r=True)


def test_an_encoder_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="has no mask token"):
        scorer_of(sized(tiny.encoder(), ByteVocabulary(0)), ByteVocabulary(0))


def test_an_overlap_of_whole_windows_is_refused(decoder):
    with pytest.raises(ValueError, match="overlap=17 must be 1 or more and at most the length of a window, 16"):
        scorer_of(decoder[0], ByteVocabulary(), 16, overlap=17)
    with pytest.raises(ValueError, match="batch_size=0"):
        ScoringOptions({}, batch_size=0)
