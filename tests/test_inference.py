"""Inference: ordered results that do not depend on batch size or mesh; errors name bad lines."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from t5x_like import inference, partitioning, prompt_batches
from t5x_like.accounting import runtime_memory
from t5x_like.cli import infer as command
from t5x_like.cli import streams
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding import beams, results
from t5x_like.decoding.loop import Generated
from t5x_like.decoding.processors import BadWords, FrequencyPenalty, LogitBias, NoRepeatNGram
from t5x_like.decoding.proposers import Draft, PromptLookup
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.models import positions
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers

PROMPTS = ["def f", "x", {"id": "mine", "prompt": "class A:"}, "", "é"]


@pytest.fixture(scope="module")
def model_and_params():
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    return model, tiny.init(model, tiny.batch())


def infer(model_and_params, sampler=Greedy(), mesh=None, **options):
    mesh = mesh or partitioning.make_mesh(devices=jax.devices()[:1])
    options = inference.DecodingOptions(sampler, **{"max_new_tokens": 5} | options)
    return list(inference.infer(*model_and_params, ByteVocabulary(), PROMPTS, options, mesh))


def test_results_are_complete_and_in_order(model_and_params):
    results = infer(model_and_params)
    assert [record["id"] for record in results] == [0, 1, "mine", 3, 4]
    for record, prompt in zip(results, ["def f", "x", "class A:", "", "é"], strict=True):
        assert record["prompt"] == prompt
        assert record["completion"] == ByteVocabulary().decode(record["tokens"])
        assert record["finished"] == (record["tokens"][-1] == 1) and record["log_prob"] < 0
        json.dumps(record)


@pytest.mark.parametrize(
    "sampler, processors",
    [
        (Greedy(), ()),
        (Sample(1.3, 99, 0.99, 0.01, 0.99), [FrequencyPenalty(0.5), NoRepeatNGram(2), BadWords([[9, 9]])]),
    ],
)
def test_results_do_not_depend_on_batch_size_or_mesh(model_and_params, sampler, processors):
    def tokens(**options):
        return [record["tokens"] for record in infer(model_and_params, sampler, processors=processors, **options)]

    one = tokens(batch_size=8)
    assert tokens(batch_size=2) == one
    assert tokens(batch_size=3, mesh=partitioning.make_mesh(data=2, fsdp=2, tensor=2)) == one


def test_an_interrupted_job_continues_with_the_same_samples_bit_for_bit(model_and_params):
    """A result depends on the prompt's place in the whole input, not on which other prompts are finished."""
    prompts = [*PROMPTS, *["x"] * 6, "long" * 40]
    options = inference.DecodingOptions(Sample(temperature=1.3), max_new_tokens=5, batch_size=3)
    arguments = *model_and_params, ByteVocabulary(), prompts, options, partitioning.make_mesh(devices=jax.devices()[:1])
    whole = list(inference.infer(*arguments))
    assert len({tuple(record["tokens"]) for record in whole[5:11]}) > 1  # samples of one prompt differ
    for finished in ({0, 1, 2, 3}, {1, 4, 10}, set(range(12)), set()):
        rest = list(inference.infer(*arguments, finished=finished))
        assert rest == [record for index, record in enumerate(whole) if index not in finished]


def test_as_many_prompts_are_finished_as_results_have_their_id(tmp_path):
    output = tmp_path / "out.jsonl"
    results = [{"id": name, "prompt": "", "completion": "c"} for name in ("a", 1, "a")]
    output.write_text("".join(f"{json.dumps(result)}\n" for result in results) + '{"id": "b"')
    prompts = [{"id": name, "prompt": ""} for name in ("a", 1, "b", "a", "1", "a", 1)]
    assert command.find_finished(prompts, output) == ({0, 1, 3}, 7)
    assert command.find_finished(prompts, tmp_path / "none.jsonl") == (set(), 7)


def test_results_of_other_prompts_are_refused(tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text('{"id": "a", "prompt": "x", "completion": ""}\n')
    with pytest.raises(ConfigError, match="result of id='a' for the prompt 'x', now the prompt is 'y'"):
        command.find_finished([{"id": "a", "prompt": "y"}], output)
    assert command.find_finished([{"id": "a", "messages": []}], output) == ({0}, 1)
    output.write_text('{"id": "a", "prompt": "x"}\n')
    with pytest.raises(ConfigError, match="records that are no results"):
        command.find_finished([{"id": "a", "prompt": "x"}], output)


def test_max_new_tokens_below_1_raises(model_and_params):
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        infer(model_and_params, max_new_tokens=0)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_new_tokens": 0}, {"seed": -1}, {"seed": 2**63}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        inference.DecodingOptions(**options)


def learned_positions():
    """A decoder that reads 70 tokens."""
    model = tiny.decoder(position=positions.Learned(70))
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    return model, tiny.init(model, tiny.batch())


def test_a_prompt_that_fails_leaves_the_others_unchanged():
    model_and_params = learned_positions()
    good = ["def f", {"id": "mine", "prompt": "class A:"}, "x"]
    bad = ["y" * 20_000, {"id": 7, "prompt": "a\ud800"}, {"id": "long", "prompt": "z" * 200}]
    mixed = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    options = inference.DecodingOptions(max_new_tokens=5, batch_size=3)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    results = list(inference.infer(*model_and_params, ByteVocabulary(), [*mixed, *good], options, mesh))
    results, alone = results[:6], results[6:]
    assert [record["id"] for record in results] == [0, 1, "mine", 7, "long", 5]
    assert [record["prompt"] for record in results] == [p if isinstance(p, str) else p["prompt"] for p in mixed]
    assert [record.get("tokens") for record in results if "error" not in record] == [one["tokens"] for one in alone]
    errors = {record["id"]: record["error"] for record in results if "error" in record}
    assert list(errors) == [1, 7, "long"] and "longer than the position table" in errors[1]
    assert errors[7].startswith("the prompt has half of a surrogate pair, U+D800, at character 1")
    with pytest.raises(ValueError, match=r"BadWords.words has the ids \[384\]"):
        options = inference.DecodingOptions(max_new_tokens=5, processors=[BadWords([[384]])])
        list(inference.infer(*model_and_params, ByteVocabulary(), good, options, mesh))
    with pytest.raises(ValueError, match="top_k=385 is larger than the vocabulary"):
        options = inference.DecodingOptions(Sample(top_k=385), max_new_tokens=5)
        list(inference.infer(*model_and_params, ByteVocabulary(), good, options, mesh))


def test_a_prompt_whose_attention_exceeds_the_memory_is_an_error_of_its_row(model_and_params, monkeypatch):
    monkeypatch.setattr(runtime_memory, "free_bytes", lambda: 10**6)
    prompts = ["def f", "y" * 500, "x"]
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    options = inference.DecodingOptions(max_new_tokens=5, batch_size=3)
    results = list(inference.infer(*model_and_params, ByteVocabulary(), prompts, options, mesh))
    assert ["error" in record for record in results] == [False, True, False]
    assert results[1]["error"].startswith("3 prompts of 512 tokens need too much memory; lower batch_size")


def test_chats_that_a_template_rejects_are_errors_of_their_rows(model_and_params, pretrained):
    model, params = model_and_params
    template = "{{ 1 // (messages[0].content | length - 1) }}" + pretrained.chat_template
    vocabulary = dataclasses.replace(pretrained, chat_template=template)
    chats = [{"id": text, "messages": [{"role": "user", "content": text}]} for text in ("ab", "a", "abc")]
    options = inference.DecodingOptions(max_new_tokens=1, batch_size=2)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    results = list(inference.infer(model, params, vocabulary, chats, options, mesh))
    assert [record["id"] for record in results if "error" in record] == ["a"]
    assert "cannot render these 1 messages: ZeroDivisionError" in results[1]["error"]


def test_failed_prompts_are_tried_again_and_the_exit_code_tells(tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    results = [{"id": 1, "prompt": "\ud800é", "error": "e"}]
    results += [{"id": i, "prompt": "", "completion": text} for i, text in ((0, "é"), (2, "b"))]
    output.write_text("".join(f"{streams.to_json(result)}\n" for result in results), encoding="utf-8")
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] == results
    assert "é" in output.read_text(encoding="utf-8")
    assert command.find_finished([{"id": i} for i in range(4)], output) == ({0, 2}, 4)
    assert streams.report_failures([], 3, "prompts") == 0
    assert streams.report_failures(["id=1: e"], 3, "prompts") == 1
    assert capsys.readouterr().err.splitlines()[0] == "t5x_like: id=1: e"
    with pytest.raises(
        ValueError, match="id=1: e .1 of 1 prompts failed; a run with the same --output tries them again"
    ):
        streams.report_failures(["id=1: e"], 1, "prompts")


def test_messages_that_are_nested_too_deeply_are_an_error_of_their_row(pretrained):
    for depth in (900, 100_000):
        content = []
        for _ in range(depth):
            content = [content]
        record = {"id": 3, "messages": [{"role": "user", "content": content}]}
        result, ids = inference.read_prompt(record, 0, pretrained, seq2seq=False)
        assert result["id"] == 3 and result["error"] and not ids


def test_nan_logits_are_an_error_of_their_row():
    log_probs = np.array([[-1.0, np.nan, 0.0], [-1.0, -2.0, 0.0]])
    generated = Generated(np.full((2, 3), 100), log_probs, np.array([2, 2]))
    damaged, whole = (results.completion(ByteVocabulary(), generated, row) for row in range(2))
    assert list(damaged) == ["error"] and damaged["error"].startswith("the logits of new token 2 are NaN")
    expected = {"completion": "aa", "tokens": [100, 100], "log_prob": -3.0, "finished": False}
    assert whole == expected | {"finish_reason": "length"}


@pytest.fixture(scope="module")
def pretrained():
    return tiny_tokenizers.chat_vocabulary()


def test_generation_ends_at_every_stop_id_of_a_pretrained_vocabulary(model_and_params, pretrained):
    prompts = ["def", prompt_batches.to_chat({"id": 5, "prompt": "x"}, system="s")]
    for stop, finished in ((2, True), (0, True), (9, False)):

        def sampler(keys_B, logits_BV, stop=stop):
            return jax.numpy.full(len(logits_BV), stop, jax.numpy.int32)

        options = inference.DecodingOptions(sampler, max_new_tokens=3)
        results = list(inference.infer(*model_and_params, pretrained, prompts, options))
        assert [record["finished"] for record in results] == [finished] * 2
        assert [len(record["tokens"]) for record in results] == [1 if finished else 3] * 2
    assert (
        results[1]["id"] == 5 and results[1]["prompt"] == "<|im_start|>system s<|im_end|><|im_start|>user x<|im_end|>"
    )
    with pytest.raises(ValueError, match="no chat_template"):
        list(inference.infer(*model_and_params, ByteVocabulary(), prompts, options))


def test_stop_texts_end_a_completion_and_tokens_have_log_probs(model_and_params):
    model, params = model_and_params
    letters = LogitBias({id: 30.0 for id in ByteVocabulary().encode("abc")})  # so that there is text
    options = {"sampler": Sample(), "processors": [letters], "max_new_tokens": 12, "samples": 2}
    plain = infer(model_and_params, **options)
    stop = plain[0]["completion"][3:5]
    cut = infer(model_and_params, **options, stop=[stop, "never"], log_probs=3)
    for before, after in zip(plain, cut, strict=True):
        for one, other in zip(before["samples"], after["samples"], strict=True):
            text, found, _ = one["completion"].partition(stop)
            assert other["completion"] == text and other["tokens"] == one["tokens"][: len(text + found)]
            assert other["finished"] is bool(found) and other["finish_reason"] == ("stop" if found else "length")
    assert cut[0]["finished"] and not cut[0]["completion"].endswith(stop)
    record = cut[0]
    prompt = prompt_batches.prompt_ids({"prompt": record["prompt"]}, ByteVocabulary(), seq2seq=False)
    batch = prompt_batches.pad_rows([[*prompt, *record["tokens"]]], 64, "decoder")
    logits = np.asarray(jax.jit(model.apply)({"params": params}, batch)[0][len(prompt) - 1 :])
    for token, id, logits_V in zip(record["token_log_probs"], record["tokens"], logits, strict=False):
        log_probs, processed = (np.asarray(jax.nn.log_softmax(x)) for x in (logits_V, letters(logits_V[None], None)[0]))
        assert token["id"] == id and bytes(token["bytes"]) == ByteVocabulary().token_bytes[id]
        np.testing.assert_allclose(token["log_prob"], log_probs[id], atol=1e-4)
        np.testing.assert_allclose(token["processed_log_prob"], processed[id], atol=1e-4)
        best = np.argsort(-log_probs)[:3]
        assert [one["id"] for one in token["top"]] == best.tolist()
        np.testing.assert_allclose([one["log_prob"] for one in token["top"]], log_probs[best], atol=1e-4)
    assert record["log_prob"] == pytest.approx(sum(token["log_prob"] for token in record["token_log_probs"]))
    json.dumps(cut)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stop": ["a"], "sampler": beams.BeamSearch()}, r"stop=\['a'\] needs a sampler without a proposer"),
        ({"log_probs": 0, "proposer": PromptLookup()}, "log_probs=0 needs a sampler without a proposer"),
        ({"log_probs": 21}, "log_probs=21 must be 0 to 20"),
        ({"stop": ["a", ""]}, "must be a list of texts, none of them empty"),
    ],
)
def test_stops_and_log_probs_that_cannot_be_had_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        inference.DecodingOptions(**options)


def test_beams_are_in_the_results_and_the_best_is_the_completion():
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    params, vocabulary = tiny.init(model, tiny.batch()), ByteVocabulary()
    plain = beams.BeamSearch(3)
    options = inference.DecodingOptions(plain, max_new_tokens=4, batch_size=2)
    (one,) = inference.infer(model, params, vocabulary, ["ab"], options)
    (several,) = inference.infer(
        model, params, vocabulary, ["ab"], dataclasses.replace(options, sampler=beams.BeamSearch(3, returned=2))
    )
    assert "beams" not in one and len(several["beams"]) == 2
    assert {key: several[key] for key in one} == one
    first, second = several["beams"]
    assert first["tokens"] == several["tokens"] and first["score"] == several["score"] >= second["score"]
    assert first["score"] == pytest.approx(first["log_prob"] / len(first["tokens"]), abs=1e-5)


def test_samples_are_in_the_results_and_the_first_is_the_completion():
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    params, vocabulary = tiny.init(model, tiny.batch()), ByteVocabulary()
    options = inference.DecodingOptions(Sample(), max_new_tokens=4, batch_size=2, samples=3)
    both = list(inference.infer(model, params, vocabulary, ["ab", "c"], options))
    (alone,) = inference.infer(model, params, vocabulary, ["ab"], options)
    assert alone["samples"] == both[0]["samples"] and len(alone["samples"]) == 3
    assert {key: alone[key] for key in alone["samples"][0]} == alone["samples"][0]
    with pytest.raises(ValueError, match=r"samples=2 needs a sampler.*BeamSearch.returned"):
        dataclasses.replace(options, sampler=beams.BeamSearch(), samples=2)


def test_guesses_are_counted_in_the_results_on_any_mesh(model_and_params):
    model, params = model_and_params
    plain = infer(model_and_params)
    for proposer in (PromptLookup(3, 3, 1), Draft(model, params, 2)):
        for mesh in (None, partitioning.make_mesh(data=2, fsdp=2, tensor=2)):
            results = infer(model_and_params, proposer=proposer, batch_size=3, mesh=mesh)
            for result, expected in zip(results, plain, strict=True):
                assert result["tokens"] == expected["tokens"] and 0 <= result["accepted"] <= result["proposed"]
    sampled = infer(model_and_params, Sample(), proposer=proposer, samples=2)
    assert all(len(result["samples"]) == 2 and result["accepted"] == result["proposed"] > 0 for result in sampled)
    with pytest.raises(ValueError, match="proposer=Draft needs a sampler"):
        inference.DecodingOptions(beams.BeamSearch(), proposer=proposer)
