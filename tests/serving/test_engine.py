"""The engine: whatever else it does at the time, a request is continued as it would be alone, by `loop.generate`."""

import dataclasses
import random
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import partitioning, prompt_batches
from t5x_like.decoding.grammars import Grammar
from t5x_like.serving.engine import Engine, make_key
from t5x_like.serving.options import Options
from t5x_like.serving.programs import Size
from t5x_like.serving.requests import QueueFullError, Settings
from tests.serving.tiny_engine import (
    LENGTHS,
    MODELS,
    SAMPLED,
    VOCABULARY,
    Hashable,
    alone,
    build,
    check,
    check_generate,
    make_engine,
    make_prompts,
    shared_prompts,
)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_many_lengths_continue_as_alone(name):
    prompts = make_prompts(lengths=[1, 16, 9, 40, 17] if "encoder" in name else LENGTHS)
    check_generate(name, prompts, Hashable(max_new_tokens=20))


def test_chunks_of_several_prompts_are_read_at_once():
    check_generate("rope", make_prompts(4, [1, 16, 17, 40, 70, 9, 3, 8]), Hashable(max_new_tokens=3), chunk=64)


@pytest.mark.parametrize("name", ["rope", "encoder-decoder"])
def test_samples_are_those_of_the_request_alone(name):
    settings = Hashable(max_new_tokens=20, seed=7, **SAMPLED)
    check_generate(name, make_prompts(), settings)
    with make_engine(name) as engine:
        several = [
            c.ids for completions in engine.generate(make_prompts(1)[:3], settings, samples=3) for c in completions
        ]
    keys = [make_key(7, i, s) for i in range(3) for s in range(3)]
    repeated = [prompt for prompt in make_prompts(1)[:3] for _ in range(3)]
    assert several == [tokens for tokens, _ in alone(name, repeated, settings, keys)]


def test_a_prefix_is_read_with_attention_to_both_sides():
    prompts, settings = shared_prompts(), Hashable(max_new_tokens=10)
    found = check_generate("rope", prompts, settings, prefix=True)
    plain = check_generate("rope", prompts, settings)
    assert [c.ids for c in found] != [c.ids for c in plain] and not any(c.cached_tokens for c in found)


@pytest.mark.parametrize("name", ["rope", "scanned", "learned", "relative", "experts"])
def test_common_beginnings_are_copied_and_change_nothing(name):
    prompts = shared_prompts()
    found = check_generate(name, prompts, Hashable(max_new_tokens=12))
    # All but the first have at least 20 tokens in common with it.
    assert all(completion.cached_tokens >= 19 for completion in found[1:])
    assert all(completion.prompt_tokens == len(prompt) for completion, prompt in zip(found, prompts, strict=True))


def test_samples_of_a_prompt_read_it_once():
    prompt = make_prompts(lengths=[70])[0]
    with make_engine(max_rows=8) as engine:
        (found,) = engine.generate([prompt], Settings(max_new_tokens=5, temperature=1.0), samples=8)
        assert engine.statistics()["prompt_tokens_total"] == 70 + 7
    assert sorted(completion.cached_tokens for completion in found) == [0] + [69] * 7


def test_a_turn_of_a_chat_goes_on_from_the_one_before():
    first = make_prompts(lengths=[30])[0]
    others = make_prompts(1, [30] * 3)
    with make_engine(max_rows=1) as engine:
        answer = engine.complete(first, Settings(max_new_tokens=20, stop_ids=False)).ids
        for other in others[:2]:  # need the row, so that of the chat is kept elsewhere
            engine.complete(other, Settings(max_new_tokens=3))
        second = engine.complete([*first, *answer, 9, 8, 7], Settings(max_new_tokens=4))
        # The last token of an answer is not in the cache.
        assert second.cached_tokens == 30 + 19
    with make_engine(max_rows=1, kept_rows=0) as engine:
        assert engine.complete([*first, *answer, 9, 8, 7], Settings(max_new_tokens=4)).ids == second.ids


def test_settings_of_each_request_are_its_own():
    """All at once in one batch, each as `generate` continues it with these processors."""
    prompts = make_prompts(3, [5, 30, 12, 8, 20, 9])
    different = [
        Hashable(max_new_tokens=25),
        Hashable(max_new_tokens=12, repetition_penalty=1.8),
        Hashable(max_new_tokens=18, frequency_penalty=0.7, presence_penalty=-0.4, temperature=0.8, seed=3),
        Hashable(max_new_tokens=9, logit_bias={5: 4.0, 6: -np.inf, 63: 2.5}),
        Hashable(max_new_tokens=25, min_new_tokens=15, logit_bias={1: 9.0}),
        Hashable(max_new_tokens=30, temperature=2.0, typical_p=0.7, stop_ids=False, logit_bias={1: 3.0}),
    ]
    with make_engine(max_rows=6) as engine:
        tickets = [engine.submit(prompt, settings) for prompt, settings in zip(prompts, different, strict=True)]
        found = [ticket.result() for ticket in tickets]
    for completion, prompt, settings in zip(found, prompts, different, strict=True):
        tokens, _ = alone("rope", [prompt], settings, [make_key(settings.seed, 0)])[0]
        assert completion.ids == tokens


def test_log_probabilities_are_those_of_a_forward_pass():
    model, params = build("rope")
    prompt, settings = (
        make_prompts(lengths=[20])[0],
        Settings(max_new_tokens=10, top_log_probs=5, temperature=0.7, top_k=3),
    )
    with make_engine() as engine:
        completion = engine.complete(prompt, settings)
        assert engine.complete(prompt, Settings(max_new_tokens=3)).tokens[0].top == ()
    batch = prompt_batches.pad_rows([[*prompt, *completion.ids]], 30, "decoder")
    logits = np.asarray(jax.jit(model.apply)({"params": params}, batch)[0], np.float64)[19:29]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for k, token in enumerate(completion.tokens):
        np.testing.assert_allclose(token.log_prob, log_probs[k, token.id], atol=1e-4)
        best = np.argsort(-log_probs[k])[:5]
        assert [index for index, _ in token.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in token.top], log_probs[k, best], atol=1e-4)
        kept = np.sort(logits[k] / 0.7)[-3:]
        np.testing.assert_allclose(
            token.processed_log_prob, logits[k, token.id] / 0.7 - np.log(np.exp(kept).sum()), atol=1e-4
        )


def test_scores_and_embeddings_are_those_of_a_forward_pass():
    model, params = build("rope")
    prompts = make_prompts(8, [20, 1, 7, 33])
    with make_engine() as engine:
        scored = engine.score(prompts, top=3)
        vectors = engine.embed(["123", "0123456789 + - 22", "123"])
        assert [token.top for token in engine.score(prompts[:1])[0]] == [()] * 19
        with pytest.raises(ValueError, match="the prompt has 201 tokens, more than max_length=200"):
            engine.score([[5] * 201])
    for prompt, tokens in zip(prompts, scored, strict=True):
        logits = jax.jit(model.apply)({"params": params}, prompt_batches.pad_rows([prompt], 40, "decoder"))[0]
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        assert [token.id for token in tokens] == prompt[1:]
        for i, token in enumerate(tokens):
            np.testing.assert_allclose(token.log_prob, log_probs[i, prompt[i + 1]], atol=1e-4)
            assert [index for index, _ in token.top] == np.argsort(-log_probs[i])[:3].tolist()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    ids = VOCABULARY.encode_special("123")
    x = jax.jit(lambda p, b: model.apply({"params": p}, b, method="hidden"))(
        params, prompt_batches.pad_rows([ids], 8, "decoder")
    )
    mean = np.asarray(x)[0, : len(ids)].mean(0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_random_arrivals_and_cancels_change_no_other_request():
    prompts = make_prompts(5, [3, 40, 17, 64, 9, 25] * 4) + shared_prompts(6, 16)
    settings = Hashable(max_new_tokens=15, seed=2, **SAMPLED)
    expected = alone("rope", prompts, settings, [make_key(2, 0)] * len(prompts))
    draw, found, cancelled = random.Random(0), {}, []
    with make_engine(max_rows=5) as engine:

        def client(number):
            for index in range(number, len(prompts), 4):
                ticket = engine.submit(prompts[index], settings)
                if draw.random() < 0.3:
                    threading.Event().wait(draw.random() * 0.05)
                    ticket.cancel()
                    cancelled.append((index, ticket))
                else:
                    found[index] = ticket.result(60)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        for index, ticket in cancelled:
            completion = ticket.result(60)
            assert completion.ids == expected[index][0][: len(completion.ids)]
            assert completion.finish_reason in ("cancelled", "stop", "length")
        assert engine.statistics()["running"] == engine.statistics()["waiting"] == 0
        assert set(engine.scheduler.programs.traced.values()) == {1}
    check([found[index] for index in sorted(found)], [expected[index] for index in sorted(found)])


def test_the_result_does_not_depend_on_the_devices():
    prompts, settings = make_prompts(), Settings(max_new_tokens=10, **SAMPLED)
    meshes = [partitioning.make_mesh(devices=jax.devices()[:1]), partitioning.make_mesh(data=4, tensor=2)]
    found = []
    for mesh in meshes:
        with make_engine(mesh=mesh, max_rows=8) as engine:
            found.append([completions[0].ids for completions in engine.generate(prompts, settings)])
            cache = engine.scheduler.programs.make_empty(Size(8, 128)).cache
            keys = [x for path, x in jax.tree.leaves_with_path(cache) if path[-1].key == "key_cache"]
            assert keys and all(x.nbytes == mesh.size * x.addressable_shards[0].data.nbytes for x in keys)
    assert found[0] == found[1]


def test_rows_come_and_go_with_the_requests():
    prompts, settings = make_prompts(9, [20] * 4), Hashable(max_new_tokens=12, stop_ids=False)
    expected = [tokens for tokens, _ in alone("rope", prompts, settings, [make_key(0, 0)] * 4)]
    with make_engine() as engine:
        for _ in range(2):
            tickets = [engine.submit(prompt, settings) for prompt in prompts]
            assert [ticket.result().ids for ticket in tickets] == expected
            assert engine.scheduler.programs.size.rows == len(engine.scheduler.rows) == 4
            again = engine.complete(prompts[2], settings)
            assert again.ids == expected[2] and again.cached_tokens == 19
            assert engine.scheduler.programs.size.rows == len(engine.scheduler.rows) == 1
        engine.scheduler.spare_ticks = -1000  # the rows stay while one of them is used
        long = engine.submit(prompts[0], Settings(max_new_tokens=150, stop_ids=False))
        for ticket in [engine.submit(prompt, settings) for prompt in prompts[1:]]:
            ticket.result()
        engine.scheduler.spare_ticks = 31
        assert long.result().ids[:12] == expected[0]
        assert len(engine.scheduler.rows) == 1
        assert set(engine.scheduler.programs.traced.values()) == {1}


@pytest.mark.parametrize(("name", "prefix"), [("rope", False), ("encoder-decoder", False)])
def test_after_the_warm_up_nothing_is_compiled(name, prefix):
    prompts = [*make_prompts(2, [1, 16, 17, 40]), *make_prompts(3, [20]) * 2]
    settings = Hashable(max_new_tokens=12, top_log_probs=3)
    with make_engine(name, prefix=prefix, fixed=True, max_length=60) as engine:
        engine.warm_up()
        traced = dict(engine.scheduler.programs.traced)
        tickets = [engine.submit(ids, settings, key=make_key(0, i)) for i, ids in enumerate(prompts)]
        found = [ticket.result() for ticket in tickets]
        assert engine.scheduler.programs.traced == traced and set(traced.values()) == {1}
        with pytest.raises(RuntimeError, match="call warm_up before the first one"):
            engine.warm_up()
    check(found, alone(name, prompts, settings, [make_key(0, i) for i in range(len(prompts))], prefix))


def test_an_error_of_a_callback_cancels_its_request_alone():
    with make_engine() as engine:
        other = engine.submit([5, 6, 7], Settings(max_new_tokens=30, stop_ids=False))
        failing = engine.submit([5, 6, 8], Settings(max_new_tokens=30, stop_ids=False), lambda delta: 1 / 0)
        assert failing.result().finish_reason == "cancelled" and len(other.result().ids) == 30


def test_stop_texts_end_a_request_and_free_its_row():
    with make_engine() as engine:
        prompt = make_prompts(lengths=[10])[0]
        plain = engine.complete(prompt, Settings(max_new_tokens=40, stop_ids=False))
        stop = plain.text[8:10]
        cut = engine.complete(prompt, Settings(max_new_tokens=40, stop_ids=False, stop=[stop]))
        assert cut.finish_reason == "stop" and cut.text == plain.text[: plain.text.index(stop)]
        assert cut.ids == plain.ids[: len(cut.ids)] and VOCABULARY.decode(cut.ids).endswith(stop)
        pieces = list(engine.stream(prompt, Settings(max_new_tokens=40, stop_ids=False, stop=[stop])))
        assert "".join(piece.text for piece in pieces) == cut.text
        assert [token.id for piece in pieces for token in piece.tokens] == cut.ids
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
        assert engine.statistics()["running"] == 0


def test_a_grammar_is_obeyed_beside_requests_without_one():
    digits = Grammar.regex("[+-]{3}[,.]{2,4}")  # bytes whose ids are in the tiny vocabulary
    settings = Hashable(max_new_tokens=20, temperature=3.0, seed=1)
    with make_engine() as engine:
        tickets = [
            engine.submit([5 + i, 6, 7], dataclasses.replace(settings, grammar=digits if i % 2 else None, sample=i))
            for i in range(8)
        ]
        found = [ticket.result() for ticket in tickets]
    for i, completion in enumerate(found):
        if i % 2:
            assert re.fullmatch("[+-]{3}[,.]{2,4}", completion.text) and completion.finish_reason == "stop"
        else:
            assert completion.ids == alone("rope", [[5 + i, 6, 7]], settings, [make_key(1, i)])[0][0]
    assert len({completion.text for completion in found}) > 5


def test_bad_requests_are_refused_before_they_are_accepted():
    with make_engine() as engine:
        for prompt, settings, message in [
            ([], {}, "the prompt is empty"),
            ([5, 64], {}, r"the prompt has the ids \[64\]; they must be in 0 .. 63"),
            ([-1], {}, r"the prompt has the ids \[-1\]"),
            ([5], {"logit_bias": {64: 1.0}}, "logit_bias has the ids"),
            ([5], {"top_k": 65}, "top_k=65 is larger than the vocabulary of 64"),
            ([5] * 150, {"max_new_tokens": 51}, "150 tokens of the prompt and max_new_tokens=51 are more than the 200"),
        ]:
            with pytest.raises(ValueError, match=message):
                engine.submit(prompt, Settings(**settings))
        assert not engine.statistics().get("prompt_tokens_total")
        assert len(engine.complete([5] * 150, Settings(max_new_tokens=50, stop_ids=False)).ids) == 50
    with pytest.raises(ValueError, match=r"a length of 300 is longer than the position table, .*max_length=256"):
        make_engine("learned", max_length=300)
    with pytest.raises(ValueError, match="max_rows=0 must be a whole number of at least 1"):
        make_engine(max_rows=0)


def test_the_length_is_that_of_the_model_unless_it_is_given():
    for name, length in [("learned", 256), ("rope", 2048)]:
        assert Engine(*build(name), VOCABULARY).max_length == length


def test_nan_logits_and_failing_programs_end_their_requests_alone(monkeypatch):
    model, params = build("rope")
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    with Engine(model, broken, VOCABULARY, Options(max_length=64)) as engine:
        completion = engine.complete([5, 6], Settings(max_new_tokens=4))
        assert completion.finish_reason == "error" and "new token 1 are NaN" in completion.error
    with make_engine() as engine:
        good = engine.complete([5, 6], Settings(max_new_tokens=4))
        read = engine.scheduler.programs.read
        monkeypatch.setattr(engine.scheduler.programs, "read", lambda *_: 1 / 0)
        assert "division by zero" in engine.complete([5, 6, 7], Settings(max_new_tokens=4)).error
        monkeypatch.setattr(engine.scheduler.programs, "read", read)
        long = make_prompts(lengths=[40])[0]
        engine.complete(long, Settings(max_new_tokens=4))
        monkeypatch.setattr(engine.scheduler.programs, "keep", lambda *_: 1 / 0)
        assert "division by zero" in engine.submit([5, 6, 7], Settings(max_new_tokens=4)).result(60).error
        assert engine.complete([5, 6], Settings(max_new_tokens=4)).ids == good.ids


def test_closing_ends_what_was_accepted_and_refuses_more():
    engine = make_engine(max_rows=1, max_waiting=3)
    tickets = [engine.submit([5, 6, 7], Settings(max_new_tokens=30, stop_ids=False)) for _ in range(3)]
    with pytest.raises(QueueFullError, match="requests are waiting"):
        for _ in range(3):
            tickets.append(engine.submit([5, 6, 7], Settings(max_new_tokens=30, stop_ids=False)))
    engine.close()
    assert all(len(ticket.result(0).ids) == 30 for ticket in tickets)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit([5])
    engine = make_engine(max_rows=1)
    tickets = [engine.submit([5, 6, 7], Settings(max_new_tokens=190, stop_ids=False)) for _ in range(3)]
    engine.close(drain=False)
    assert all(ticket.result(0).finish_reason == "cancelled" for ticket in tickets)
