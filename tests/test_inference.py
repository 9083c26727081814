"""Prompts in, records out: in order, at any batch size, on any mesh; bad lines are named."""

import json

import jax
import pytest

from t5x_like import inference, partitioning
from t5x_like.data.vocabularies import ByteVocabulary
from t5x_like.decoding.sampling import Greedy, Sample
from tests import tiny

PROMPTS = ["def f", "x", {"id": "mine", "prompt": "class A:"}, "", "é"]


@pytest.fixture(scope="module")
def model_and_params():
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    return model, tiny.init(model, tiny.batch())


def infer(model_and_params, choose=Greedy(), **options):
    options = {"mesh": partitioning.make_mesh(devices=jax.devices()[:1]), "max_new_tokens": 5} | options
    return list(inference.infer(*model_and_params, ByteVocabulary(), PROMPTS, choose, **options))


def test_records_come_in_order_and_say_what_was_made(model_and_params):
    made = infer(model_and_params)
    assert [record["id"] for record in made] == [0, 1, "mine", 3, 4]
    for record, prompt in zip(made, ["def f", "x", "class A:", "", "é"], strict=True):
        assert record["prompt"] == prompt
        assert record["completion"] == ByteVocabulary().decode(record["tokens"])
        assert record["finished"] == (record["tokens"][-1] == 1) and record["log_prob"] < 0
        json.dumps(record)


@pytest.mark.parametrize("choose", [Greedy(), Sample(temperature=1.3)])
def test_results_do_not_depend_on_batch_size_or_mesh(model_and_params, choose):
    def tokens(**options):
        return [record["tokens"] for record in infer(model_and_params, choose, **options)]

    one = tokens(batch_size=8)
    assert tokens(batch_size=2) == one
    assert tokens(batch_size=3, mesh=partitioning.make_mesh(data=2, fsdp=2, tensor=2)) == one


def test_too_few_new_tokens_are_refused(model_and_params):
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        infer(model_and_params, max_new_tokens=0)


def test_files_of_prompts_are_read_and_bad_lines_named(tmp_path):
    text, lines, bad = (tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl"))
    text.write_text("one\ntwo\n")
    lines.write_text('{"prompt": "one", "id": 7}\n{"inputs": "two"}\n')
    bad.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    assert list(inference.read_prompts(text)) == [{"id": 0, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    assert list(inference.read_prompts(lines)) == [{"id": 7, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    with pytest.raises(ValueError, match=r'c.jsonl, line 2: need a JSON object with "prompt"'):
        list(inference.read_prompts(bad))
