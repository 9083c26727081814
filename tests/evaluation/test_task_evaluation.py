"""Evaluation uses the same tokens as training; answers and scores do not depend on batching."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_like import partitioning
from t5x_like.data import rows
from t5x_like.data.chats import masks
from t5x_like.data.rows.chat import PackedConversations
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.processors import ForcedTokens
from t5x_like.decoding.sampling import Sample
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers
from tests.evaluation import tasks

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
ANSWERS = tasks.METRICS + "answers:exact_match"
BITS = tasks.METRICS + "likelihood:bits_per_byte"
RANKS = tasks.METRICS + "likelihood:rank_classification"
CHATS = [
    [("user", "hello"), ("assistant", "hi"), ("user", "and?"), ("assistant", "bye")],
    [("system", "be short"), ("user", "one"), ("assistant", "two"), ("user", "thanks")],
    [("user", "x"), ("assistant", "y")],
]


def model_of(kind=tiny.decoder):
    model = kind()
    return model.clone(embed=model.embed.clone(vocab_size=384))


def evaluator_of(cache, model, prefix=False, **options):
    return TaskEvaluator(TaskEvaluation(cache, **options), model, MESH, prefix=prefix)


def conversations(root, vocabulary):
    examples = []
    for turns in CHATS:
        ids, mask = masks.conversation_ids(vocabulary, [{"role": role, "content": text} for role, text in turns])
        answer = [text for role, text in turns if role == "assistant"][-1]
        examples.append({"targets": np.array(ids), "targets_mask": np.array(mask), "targets_pretokenized": answer})
    return tasks.write(root, "chats", examples, [tasks.named(ANSWERS)], vocabulary=vocabulary)


def templated():
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    return TokenizerVocabulary(
        tiny_tokenizers.byte_level().to_str(), 384, eos=0, stop_ids=(0, 2), chat_template=template
    )


def segments(packed):
    """Returns the arrays of every example in packed rows, sorted by their target tokens."""
    batch = packed.fetch(np.arange(len(packed)), np.zeros(len(packed), int), 0)
    examples = []
    for row, ids in enumerate(batch["decoder_segment_ids"]):
        for number in range(1, ids.max() + 1):
            examples.append({name: x[row][ids == number] for name, x in batch.items() if name.startswith("decoder")})
    return sorted(examples, key=lambda one: one["decoder_target_tokens"].tolist())


def scored_rows(evaluator):
    """Returns the same arrays of the rows that the evaluation scores."""
    rows = [evaluator.row(question, question.continuations[0]) for question in evaluator.questions]
    batch = evaluator.score.make_batch(rows, (128, 16))
    examples = []
    for number, row in enumerate(rows):
        size = len(row.inputs["decoder"])
        one = {name: x[number][:size] for name, x in batch.items() if name.startswith("decoder")}
        targets = np.append(one["decoder_input_tokens"][1:], row.targets[-1])
        assert targets[list(row.positions)].tolist() == list(row.targets)
        weights = np.isin(np.arange(size), row.positions).astype(float)
        examples.append(one | {"decoder_target_tokens": targets, "decoder_loss_weights": weights})
    return sorted(examples, key=lambda one: one["decoder_target_tokens"].tolist())


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("kind", ["pairs", "plain chats", "templated chats"])
def test_questions_have_the_tokens_of_training(tmp_path, kind, prefix):
    cache = (
        tasks.write_pairs(tmp_path)
        if kind == "pairs"
        else conversations(tmp_path, ByteVocabulary() if kind == "plain chats" else templated())
    )
    evaluator = evaluator_of(cache, model_of(), prefix)
    trained, scored = segments(PackedConversations(cache, 256, prefix=prefix)), scored_rows(evaluator)
    assert len(trained) == len(scored)
    for theirs, ours in zip(trained, scored, strict=True):
        size = len(ours["decoder_target_tokens"])  # the last answer ends a question, not always a conversation
        for name in ("input_tokens", "target_tokens", "positions"):
            np.testing.assert_array_equal(theirs[f"decoder_{name}"][:size], ours[f"decoder_{name}"])
        assert ("decoder_prefix" in ours) == prefix
        if prefix:
            np.testing.assert_array_equal(theirs["decoder_prefix"][:size], ours["decoder_prefix"])
        counts = np.flatnonzero(ours["decoder_loss_weights"])
        assert theirs["decoder_loss_weights"][counts].all() and counts[-1] == size - 1
        if kind == "pairs":
            np.testing.assert_array_equal(theirs["decoder_loss_weights"], ours["decoder_loss_weights"])
    prompts = evaluator.prompt_batch(evaluator.questions, 128)
    for row, question in enumerate(evaluator.questions):
        np.testing.assert_array_equal(prompts["decoder_input_tokens"][row][: len(question.context)], question.context)
        assert prompts["decoder_segment_ids"][row].sum() == len(question.context)


def test_an_encoder_reads_the_tokens_of_training(tmp_path):
    cache = tasks.write_pairs(tmp_path)
    evaluator = evaluator_of(cache, model_of(tiny.encoder_decoder))
    batch = evaluator.score.make_batch(
        [evaluator.row(q, q.continuations[0]) for q in evaluator.questions], (32, 32, 32)
    )
    packed = rows.PackedExamples(cache, 32, 32)
    theirs = [x["decoder_input_tokens"].tolist() for x in segments(packed)]
    assert sorted(theirs) == sorted(
        x[ids > 0].tolist() for x, ids in zip(batch["decoder_input_tokens"], batch["decoder_segment_ids"], strict=True)
    )
    for row, (inputs, _) in enumerate(tasks.PAIRS):
        assert batch["encoder_input_tokens"][row][: len(inputs) + 1].tolist() == tasks.ids_of(inputs).tolist()


def test_long_questions_are_truncated_like_rows(tmp_path):
    cache = tasks.write_pairs(tmp_path)
    decoder = evaluator_of(cache, model_of(), inputs_length=2).questions
    encoder = evaluator_of(cache, model_of(tiny.encoder_decoder), inputs_length=2).questions
    for question, other, (inputs, _) in zip(decoder, encoder, tasks.PAIRS, strict=True):
        ids = tasks.ids_of(inputs).tolist()
        assert question.context == (0, *ids[-2:]) and question.truncated == len(ids) - 2
        assert other.context == tuple(ids[:2])
        assert question.prefix == 3


@pytest.mark.parametrize("kind", [tiny.decoder, tiny.encoder_decoder])
def test_scores_equal_a_plain_forward_pass(tmp_path, kind):
    model, choices = model_of(kind), ["yes", "no", "maybe"]
    cache = tasks.write_pairs(tmp_path, metrics=[tasks.named(RANKS)], choices=choices)
    evaluator = evaluator_of(cache, model, batch_size=4)
    question = evaluator.questions[1]
    params = tiny.init(model, evaluator.prompt_batch([question], 64))
    scores = evaluator.log_likelihoods(params)
    for one, score in zip(question.continuations, scores[1], strict=True):
        ids = tasks.ids_of(one.text)
        if evaluator.seq2seq:
            batch, first = plain(tasks.ids_of("bc?"), "encoder") | plain(np.array([0, *ids[:-1]]), "decoder"), 0
        else:
            batch, first = plain(np.array([0, *tasks.ids_of("bc?"), *ids[:-1]]), "decoder"), len(question.context) - 1
        log_probs_LV = jax.nn.log_softmax(model.apply({"params": params}, batch))[0][first:]
        assert score == pytest.approx(float(log_probs_LV[np.arange(len(ids)), ids].sum()), rel=1e-5)
    with pytest.warns(UserWarning, match="the logits of 15 of 15 log-likelihoods are NaN"):
        evaluator.log_likelihoods(jax.tree.map(lambda x: x * np.nan, params))
    other = evaluator_of(cache, model, batch_size=7, examples=3).log_likelihoods(params)
    np.testing.assert_allclose(np.array(other), np.array(scores[:3]), rtol=1e-5)
    record = evaluator.make_record(evaluator(params), 0)
    best = [choices[int(np.argmax(one))] == target for one, (_, target) in zip(scores, tasks.PAIRS, strict=True)]
    assert record["metrics"]["accuracy"] == pytest.approx(100 * np.mean(best))


def plain(ids, side):
    """Returns one side of a batch with one row and no padding."""
    return {
        f"{side}_input_tokens": ids[None],
        f"{side}_positions": np.arange(len(ids))[None],
        f"{side}_segment_ids": np.ones((1, len(ids)), int),
    }


def test_samples_depend_only_on_the_example_and_their_number(tmp_path):
    model = model_of()
    cache = tasks.write_pairs(tmp_path)
    options = dict(sampler=Sample(temperature=2.0), max_new_tokens=4)
    evaluator = evaluator_of(cache, model, num_samples=3, batch_size=8, **options)
    params = tiny.init(model, evaluator.prompt_batch(evaluator.questions, 64))
    samples = evaluator.generate(params)
    assert [len(group) for group in samples] == [3] * 5 and len({x for group in samples for x in group}) > 10
    fewer = evaluator_of(cache, model, num_samples=1, batch_size=2, examples=3, **options).generate(params)
    assert [group[:1] for group in samples[:3]] == fewer
    with pytest.warns(UserWarning, match="the logits of 15 of 15 samples are NaN"):
        evaluator.generate(jax.tree.map(lambda x: x * np.nan, params))


def test_processors_change_the_answers_and_are_among_the_settings(tmp_path):
    model, cache = model_of(), tasks.write_pairs(tmp_path)
    evaluator = evaluator_of(cache, model, max_new_tokens=3, examples=2, processors=[ForcedTokens([70, 71])])
    params = tiny.init(model, evaluator.prompt_batch(evaluator.questions, 64))
    assert [sample[:2] for (sample,) in evaluator.generate(params)] == [(70, 71)] * 2
    assert evaluator.settings["processors"] == "[ForcedTokens(ids=[70, 71])]"
    assert "processors" not in evaluator_of(cache, model).settings


def test_bad_input_raises_before_anything_is_compiled(tmp_path):
    cache = tasks.write_pairs(tmp_path)
    with pytest.raises(ValueError, match="num_samples=0"):
        TaskEvaluation(cache, num_samples=0)
    with pytest.raises(ValueError, match="num_samples=2 needs a sampler"):
        TaskEvaluation(cache, num_samples=2, sampler=BeamSearch())
    with pytest.raises(ValueError, match="examples=0: give 1 or more, or None"):
        evaluator_of(cache, model_of(), examples=0)
    no_inputs = tasks.write(tmp_path, "alone", [{"targets": tasks.ids_of("x")}], [tasks.named(BITS)])
    with pytest.raises(ValueError, match=r"'alone' has the features \['targets'\].*needs inputs and targets"):
        evaluator_of(no_inputs, model_of(tiny.encoder_decoder))
    silent = {"targets": tasks.ids_of("x"), "targets_mask": np.zeros(2, int)}
    silent = tasks.write(tmp_path, "silent", [silent], [tasks.named(ANSWERS)])
    with pytest.raises(ValueError, match="document 0 of task 'silent' has no answer"):
        evaluator_of(silent, model_of())
    unscored = dataclasses.replace(cache, task="unscored")
    tasks.write(tmp_path, "unscored", [tasks.pair("a", "b")], [])
    with pytest.raises(ValueError, match="'unscored' has no metric_fns"):
        evaluator_of(unscored, model_of())
