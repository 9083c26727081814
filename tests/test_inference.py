"""Inference: ordered results that do not depend on batch size or mesh; errors name bad lines."""

import dataclasses
import json

import jax
import pytest

from t5x_like import inference, partitioning
from t5x_like.cli import infer as command
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.sampling import Greedy, Sample
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


@pytest.mark.parametrize("sampler", [Greedy(), Sample(temperature=1.3)])
def test_results_do_not_depend_on_batch_size_or_mesh(model_and_params, sampler):
    def tokens(**options):
        return [record["tokens"] for record in infer(model_and_params, sampler, **options)]

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
    output.write_text('{"id": "a"}\n{"id": 1}\n{"id": "a"}\n{"no id": 1}\n{"id": "b"')
    prompts = [{"id": name, "prompt": ""} for name in ("a", 1, "b", "a", "1", "a", 1)]
    assert command.find_finished(prompts, output) == ({0, 1, 3}, 7)
    assert command.find_finished(prompts, tmp_path / "none.jsonl") == (set(), 7)


def test_max_new_tokens_below_1_raises(model_and_params):
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        infer(model_and_params, max_new_tokens=0)


def test_prompt_files_are_read_and_errors_name_bad_lines(tmp_path):
    text, lines, bad = (tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl"))
    text.write_text("one\ntwo\n")
    lines.write_text('{"prompt": "one", "id": 7}\n{"inputs": "two"}\n')
    bad.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    assert list(inference.read_prompts(text)) == [{"id": 0, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    assert list(inference.read_prompts(lines)) == [{"id": 7, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    with pytest.raises(ValueError, match=r'c.jsonl, line 2: need a JSON object with "prompt"'):
        list(inference.read_prompts(bad))


@pytest.mark.parametrize("value", ["null", "5", "true", "[1]", '{"a": 1}'])
@pytest.mark.parametrize("field", ["prompt", "inputs"])
def test_a_prompt_is_text(tmp_path, field, value):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"{field}": {value}}}\n')
    with pytest.raises(ValueError, match="line 1: need a JSON object with"):
        list(inference.read_prompts(path))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_new_tokens": 0}, {"seed": -1}, {"seed": 2**63}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        inference.DecodingOptions(**options)


def test_a_prompt_may_contain_every_character_but_the_line_feed(tmp_path):
    texts = ["\ufefffirst", "by\u2028the author", "page one\x0cpage two", "next\u0085line", "a\rb", "last"]
    records = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    for end in ("\n", "\r\n"):
        for name, written in (("a.txt", texts), ("a.jsonl", records)):
            (tmp_path / name).write_bytes(("\ufeff" + end.join(written) + end).encode())
            assert [record["prompt"] for record in inference.read_prompts(tmp_path / name)] == texts


@pytest.fixture(scope="module")
def pretrained():
    """Returns a tokenizer with special ids: 0 is eos, 1 and 2 surround the messages of a chat."""
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
    text = tiny_tokenizers.byte_level().to_str()
    return TokenizerVocabulary(text, 384, eos=0, stop_ids=(0, 2), chat_template=template)


def test_the_vocabulary_defines_how_prompts_begin(pretrained):
    plain, with_bos = {"prompt": "def"}, dataclasses.replace(pretrained, bos=1, add_bos=True)
    ids = pretrained.encode("def")
    assert inference.prompt_ids(plain, ByteVocabulary(), False) == [0, *ByteVocabulary().encode("def")]
    assert inference.prompt_ids(plain, ByteVocabulary(), True) == [*ByteVocabulary().encode("def"), 1]
    assert inference.prompt_ids(plain, pretrained, False) == ids
    assert inference.prompt_ids(plain, with_bos, False) == [1, *ids]
    assert inference.prompt_ids({"prompt": ""}, dataclasses.replace(with_bos, add_bos=False), False) == [1]
    chat = inference.render_prompt({"messages": [{"role": "user", "content": "def"}]}, with_bos)
    assert inference.prompt_ids(chat, with_bos, False) == with_bos.encode("<|im_start|>user def<|im_end|>")
    with pytest.raises(ValueError, match="prompt='' of id=7 is empty, and the vocabulary has no bos token"):
        inference.prompt_ids({"prompt": "", "id": 7}, pretrained, False)


def test_generation_ends_at_every_stop_id_of_a_pretrained_vocabulary(model_and_params, pretrained):
    prompts = ["def", inference.to_chat({"id": 5, "prompt": "x"}, system="s")]
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


def test_chats_are_read_from_files(tmp_path):
    path = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    assert list(inference.read_prompts(path)) == [{"id": 0, "messages": messages}]
    assert inference.to_chat({"id": 0, "messages": messages}, "system") == {"id": 0, "messages": messages}
    path.write_text(json.dumps({"messages": "hi"}) + "\n")
    with pytest.raises(ValueError, match=r'line 1: need a JSON object with "prompt" \(or "inputs", or "messages"\)'):
        list(inference.read_prompts(path))
