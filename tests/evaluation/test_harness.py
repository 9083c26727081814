"""lm-evaluation-harness asks our models; its results are those of our own metrics, and of its own models on the same weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from t5x_like import hf, inference, partitioning
from t5x_like.data.chats import chat
from t5x_like.data.tokenizers.folder import read_folder
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.evaluation.harness import Generator, HarnessModel, read_settings
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.scoring.rows import length_limits
from t5x_like.scoring.texts import ScoringOptions, TextScorer
from t5x_like.text_metrics import likelihood
from t5x_like.text_metrics.postprocess import cut_at
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers
from tests.evaluation import harness_models, harness_tasks, tasks

ONE = partitioning.make_mesh(devices=jax.devices()[:1])
KINDS = ["decoder", "encoder_decoder"]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
        yield


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = harness_tasks.write(tmp_path_factory.mktemp("harness"))
    return TaskManager(include_path=str(folder), include_defaults=False)


def harness_model(kind, max_length=None, vocabulary=ByteVocabulary(), batch_size=4):
    model = getattr(tiny, kind)()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    params = tiny.init(model, tiny.batch(sides=model.sides))
    options = ScoringOptions(length_limits(model, max_length), batch_size)
    scorer = TextScorer(model, vocabulary, options, ONE)
    return HarnessModel(scorer, params, Generator(model, params, scorer, ONE))


def evaluate(model, manager, **options):
    names = list(harness_tasks.KINDS)
    return simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_our_own_metrics(kind, manager, tmp_path):
    model = harness_model(kind, 16)
    results = evaluate(model, manager)
    found = {
        task: {name.split(",")[0]: value for name, value in each.items()} for task, each in results["results"].items()
    }

    cache = write_cache(tmp_path, [1] * (kind == "encoder_decoder"))
    evaluator = TaskEvaluator(TaskEvaluation(cache, batch_size=4), model.generate.model, ONE)
    record = evaluator.make_record(evaluator(model.params), 0)
    assert found["tiny_choices"]["acc"] == pytest.approx(record["metrics"]["accuracy"] / 100)
    assert found["tiny_choices"]["acc_norm"] == pytest.approx(record["metrics"]["accuracy_normalised"] / 100)
    ours = [[each["log_prob"] for each in example["scored"]] for example in record["examples"]]
    theirs = [[resp[0][0] for resp in sample["resps"]] for sample in results["samples"]["tiny_choices"]]
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)

    records = [{"text": text} for text in harness_tasks.DOCUMENTS]
    scores = [scores.log_prob for scores in model.scorer(model.params, records)]
    bits = likelihood.bits_per_byte(harness_tasks.DOCUMENTS, scores)["bits_per_byte"]
    assert found["tiny_rolling"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    assert found["tiny_rolling"]["byte_perplexity"] == pytest.approx(2**bits, rel=1e-4)

    options = inference.DecodingOptions(max_new_tokens=5)
    prompts = [question for question, _ in harness_tasks.QUESTIONS]
    made = inference.infer(model.generate.model, model.params, ByteVocabulary(), prompts, options, ONE)
    completions = [cut_at(one["completion"], ["e"]) for one in made]
    assert [sample["resps"][0][0] for sample in results["samples"]["tiny_completion"]] == completions
    assert model.dropped == 0


def write_cache(root, end):
    """The questions as a task of ours, with the ids that the harness has encoders read at their `end`."""

    def ids_of(text):
        return np.array(ByteVocabulary().encode(text))

    examples = [
        tasks.pair(question, answer, choices=harness_tasks.CHOICES)
        | {"inputs": np.append(ids_of(question), end).astype(int), "targets": ids_of(answer)}
        for question, answer in harness_tasks.QUESTIONS
    ]
    metric = tasks.named(tasks.METRICS + "likelihood:rank_classification")
    return tasks.write(root, "choices", examples, [metric])


@pytest.mark.parametrize("name", harness_models.BACKENDS)
def test_answers_are_those_of_the_harness_for_transformers(name, tmp_path):
    """harness.json is what the harness's own model of transformers answers, on the same weights and tokens."""
    expected = json.loads(Path(__file__).with_name("harness.json").read_text())[name]
    folder = harness_models.write(name, tmp_path / name)
    model, params = hf.load(folder, ONE)
    scorer = TextScorer(
        model,
        read_folder(folder, model.vocab_size),
        ScoringOptions(length_limits(model, harness_models.LENGTH), 2),
        ONE,
    )
    ours = HarnessModel(scorer, params, Generator(model, params, scorer, ONE))
    pairs = [*harness_models.PAIRS, *([harness_models.NO_CONTEXT] if not model.encoder_decoder else [])]
    check_scores(ours.loglikelihood(requests(*pairs)), expected["loglikelihood"])
    assert ours.dropped == 5 + (name in ("llama", "bart"))  # of 20 words, of which 16 are read; and a bos
    if model.encoder_decoder:
        return
    greedy, answers = zip(*expected["greedy"], strict=True)
    check_scores(ours.loglikelihood(requests(*greedy)), answers)
    rolling = ours.loglikelihood_rolling(requests(*[(text,) for text in harness_models.DOCUMENTS]))
    np.testing.assert_allclose(rolling, expected["loglikelihood_rolling"], rtol=1e-4)
    settings = {"until": harness_models.UNTIL, "max_gen_toks": harness_models.NEW_TOKENS, "do_sample": False}
    made = ours.generate_until(requests(*[(context, settings) for context, _ in harness_models.PAIRS]))
    assert made == expected["generate_until"]


def requests(*arguments):
    return [Instance("loglikelihood", {}, tuple(each), number) for number, each in enumerate(arguments)]


def check_scores(ours, theirs):
    np.testing.assert_allclose([each[0] for each in ours], [each[0] for each in theirs], rtol=1e-4)
    assert [each[1] for each in ours] == [each[1] for each in theirs]


def test_samples_differ_between_repeats_and_not_between_batches():
    model = harness_model("decoder")
    settings = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 4, "until": []}
    one = model.generate_until(requests(*[("ab", settings)] * 3, ("c", {"max_gen_toks": 3})))
    again = harness_model("decoder", batch_size=1).generate_until(requests(*[("ab", settings)] * 3))
    assert one[:3] == again and len(set(again)) == 3


def test_settings_of_tasks_become_samplers():
    assert read_settings({"until": "\n"}) == (Greedy(), 256, ("\n",))
    assert read_settings({"until": ["a", ""], "max_new_tokens": 9, "temperature": 0.0}) == (Greedy(), 9, ("a",))
    chosen = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "until": []}
    assert read_settings(chosen) == (Sample(0.5, 7, 0.9), 256, ())
    with pytest.raises(ValueError, match="num_beams=4, which is unknown"):
        read_settings({"num_beams": 4})


def test_what_the_model_cannot_read_is_an_error():
    model = harness_model("decoder", 16)
    with pytest.raises(ValueError, match="max_gen_toks=16 of the task leaves no room for a context in the 16 tokens"):
        model.generate_until(requests(("ab", {"max_gen_toks": 16})))
    with pytest.raises(ValueError, match="17 tokens to score do not fit into the 16"):
        model.loglikelihood(requests(("ab", "c" * 17)))
    encoder = harness_model("encoder")
    assert encoder.loglikelihood(requests(("ab", "c")))[0][0] < 0
    with pytest.raises(ValueError, match="has no decoder"):
        encoder.generate_until(requests(("ab", {"max_gen_toks": 3})))


def test_long_contexts_lose_their_left():
    model = harness_model("decoder", 16)
    contexts = "cdefghijkl", "xyz" * 9 + "cdefghijkl"  # the last 16 - 6 of 11 and 38 ids with bos
    short, long = model.generate_until(requests(*[(context, {"max_gen_toks": 6}) for context in contexts]))
    assert short == long and model.dropped == 1 + 28


def test_chats_are_rendered_by_the_vocabulary_and_continued_where_they_end():
    vocabulary = tiny_tokenizers.chat_vocabulary()
    model = harness_model("decoder", vocabulary=vocabulary)
    messages = [{"role": "user", "content": "hi"}]
    assert model.apply_chat_template(messages) == chat.render_chat(vocabulary, messages)
    begun = [*messages, {"role": "assistant", "content": "The answer is"}]
    text = model.apply_chat_template(begun, add_generation_prompt=False)
    assert text.endswith("assistant The answer is") and text.startswith("<|im_start|>user hi<|im_end|>")
    assert model.chat_template(True) == vocabulary.chat_template and "/" not in model.tokenizer_name


def test_a_task_is_evaluated_as_a_chat(manager):
    model = harness_model("decoder", vocabulary=tiny_tokenizers.chat_vocabulary())
    results = simple_evaluate(
        model, tasks=["tiny_choices"], task_manager=manager, bootstrap_iters=0, apply_chat_template=True, num_fewshot=0
    )
    prompt = results["samples"]["tiny_choices"][0]["arguments"][0][0]
    assert prompt == chat.render_chat(model.vocabulary, [{"role": "user", "content": "a?"}])
