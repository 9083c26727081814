"""Instruction tasks through seqio: their documents do not depend on order and shards."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from t5x_like.data.chats.masks import conversation_examples, conversation_ids
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import Shots
from t5x_like.prompting.templates import Template, render
from tests.data.tokenizers import tiny_tokenizers

TEMPLATES = (
    Template("plus", "{{ a }} plus {{ b }}? é", "{{ a + b }}", "{{ a + b }}\n{{ a + b + 1 }}"),
    Template("sum", "Add {{ words | join(' and ') }}:", "{{ a + b }}", ("0", "1", "2", "3", "4", "5", "6", "7")),
)
PLAIN = tuple(Template(t.name, t.inputs, t.targets) for t in TEMPLATES)
STEPS = renderings.add_steps(PLAIN)
EXAMPLES = {
    split: [
        {"a": a, "b": b, "words": [str(a)] + [str(b)] * (a != b), "rationale": f"{a}, {b} more.", "weight": a / 2}
        for a in range(5)
        for b in range(4)
        if (a + b) % 4 != (split == "train")
    ]
    for split in ("train", "validation")
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tasks():
    """Returns the module `instruction`, sources in both orders, and vocabularies without and with a chat template."""
    import seqio
    import tensorflow as tf

    from t5x_like.tasks import vocabularies
    from t5x_like.tasks.instructions import instruction

    spec = {"a": tf.int64, "b": tf.int64, "rationale": tf.string, "weight": tf.float32}
    signature = {name: tf.TensorSpec((), kind) for name, kind in spec.items()} | {
        "words": tf.TensorSpec((None,), tf.string)
    }

    def dataset(order, split, shuffle_files, seed=None):
        return tf.data.Dataset.from_generator(lambda: iter(EXAMPLES[split][::order]), output_signature=signature)

    sources = {
        order: seqio.FunctionDataSource(functools.partial(dataset, order), splits=("train", "validation"))
        for order in (1, -1)
    }
    plain = TokenizerVocabulary(tiny_tokenizers.byte_level().to_str(), 350, eos=2, chat_template=CHATML)
    return instruction, sources, vocabularies.BYTES, vocabularies.SeqioVocabulary(lambda: plain)


def examples(name, split="validation"):
    import seqio

    dataset = seqio.TaskRegistry.get(name).get_dataset(None, split, shuffle=False, trim_output_features=False)
    return list(dataset.as_numpy_iterator())


def text(example, feature="inputs"):
    return example[f"{feature}_pretokenized"].decode()


def test_every_example_is_rendered_by_each_template_and_keeps_its_fields(tasks):
    instruction, sources, vocabulary, _ = tasks
    instruction.add("sums", sources[1], TEMPLATES, vocabulary, renditions=2)
    documents = examples("sums")
    assert len(documents) == 2 * len(EXAMPLES["validation"])
    for number, one in enumerate(documents):
        example = EXAMPLES["validation"][number // 2]
        assert {name: one[name] for name in ("a", "b", "weight")} == {
            name: example[name] for name in ("a", "b", "weight")
        }
        rendered = {template.name: render(template, example) for template in TEMPLATES}
        both = {text(each) for each in documents[number - number % 2 :][:2]}
        assert both == {each["inputs"] for each in rendered.values()}
        own = next(each for each in rendered.values() if each["inputs"] == text(one))
        assert text(one, "targets") == own["targets"] and [c.decode() for c in one["choices"]] == own["choices"]
        assert vocabulary.plain.decode(one["inputs"]) == own["inputs"] and one["inputs"][-1] == vocabulary.plain.eos
        assert vocabulary.plain.decode(one["targets"]) == own["targets"] and one["targets"][-1] == vocabulary.plain.eos


def test_renditions_do_not_depend_on_order(tasks):
    import seqio

    instruction, sources, vocabulary, _ = tasks
    inputs = []
    for order, name in ((1, "ordered"), (-1, "ordered"), (1, "named_otherwise")):
        instruction.add(name, sources[order], PLAIN, vocabulary, shots=Shots((1, 2)))
        inputs.append(sorted(text(one) for one in examples(name)))
        seqio.TaskRegistry.remove(name)
    assert inputs[0] == inputs[1] != inputs[2]


@pytest.mark.parametrize("split", EXAMPLES)
def test_shots_are_distinct_training_examples_without_the_question(tasks, split):
    instruction, sources, vocabulary, _ = tasks
    shots = Shots((1, 2), between=" -> ", separator=" ; ")
    instruction.add(f"shots_{split}", sources[1], PLAIN, vocabulary, shots=shots)
    training = [render(template, example) for template in PLAIN for example in EXAMPLES["train"]]
    known = {f"{one['inputs']} -> {one['targets']}" for one in training}
    counts = set()
    for one in examples(f"shots_{split}", split):
        *exemplars, question = text(one).split(" ; ")
        counts.add(len(exemplars))
        assert set(exemplars) <= known and len(set(exemplars)) == len(exemplars)
        assert not any(each.startswith(question) for each in exemplars)
    assert counts == {1, 2}


def test_chats_have_their_loss_on_the_answers(tasks):
    instruction, sources, bytes_, chats = tasks
    for vocabulary, name in ((bytes_, "bytes"), (chats, "chatml")):
        instruction.add_chat(f"sums_chat_{name}", sources[1], STEPS, vocabulary, system="Add.", shots=Shots((1,)))
        for one, example in zip(examples(f"sums_chat_{name}"), EXAMPLES["validation"], strict=True):
            answers = one["targets"][one["targets_mask"] > 0]
            assert "Add." in vocabulary.plain.decode([i for i in one["targets"] if i not in vocabulary.plain.stop_ids])
            ends = np.flatnonzero(np.isin(answers, vocabulary.plain.stop_ids))
            answer = render(STEPS[0], example)["targets"]
            assert len(ends) == 2 and ends[1] == len(answers) - 1
            assert vocabulary.plain.decode(answers[ends[0] + 1 :]) == answer == text(one, "targets")
            assert one["targets_mask"][0] == 0 and "Add." in vocabulary.plain.decode(one["targets"]) + "Add." * (
                name == "chatml"
            )


def from_words(example):
    return [
        {"role": "user", "content": "?"},
        *({"role": "assistant", "content": word} for word in example["words"][:1]),
    ]


def test_chats_of_a_source_are_unchanged(tasks):
    instruction, sources, _, vocabulary = tasks
    instruction.add_conversations("conversations", sources[1], from_words, vocabulary)
    for one, example in zip(examples("conversations"), EXAMPLES["validation"], strict=True):
        ids, mask = conversation_ids(vocabulary.plain, from_words(example))
        assert one["targets"].tolist() == ids and one["targets_mask"].tolist() == mask


FORGETFUL = CHATML.replace("m['content']", "(m['content'] if loop.last or m['role'] == 'user' else m['content'][-1:])")


def from_sum(example):
    turns = [str(example["a"]), f"so 1{example['a']}", str(example["b"]), f"so 2{example['b']}"]
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, turns, strict=True)]


def test_a_chat_whose_template_forgets_earlier_turns_becomes_several_examples(tasks):
    instruction, sources, _, chats = tasks
    forgetful = dataclasses.replace(chats.plain, chat_template=FORGETFUL)
    instruction.add_conversations("forgetful", sources[1], from_sum, type(chats)(lambda: forgetful))
    expected = [conversation_examples(forgetful, from_sum(example)) for example in EXAMPLES["validation"]]
    assert {len(pairs) for pairs in expected} == {2}
    found = [(one["targets"].tolist(), one["targets_mask"].tolist()) for one in examples("forgetful")]
    assert found == [pair for pairs in expected for pair in pairs]


def test_invalid_templates_and_options_are_refused(tasks):
    instruction, sources, vocabulary, _ = tasks
    with pytest.raises(ValueError, match=r"templates \['plus'\] of task 'mixed' have choices, the others have none"):
        instruction.add("mixed", sources[1], (TEMPLATES[0], PLAIN[1]), vocabulary)
    with pytest.raises(ValueError, match="renditions=0"):
        instruction.add("none", sources[1], TEMPLATES, vocabulary, renditions=0)
    instruction.add("nowhere", sources[1], PLAIN, vocabulary, shots=Shots((1,), split="test"))
    with pytest.raises(ValueError, match="Shots.split='test', its source has"):
        examples("nowhere")
    instruction.add("absent", sources[1], (Template("t", "{{ c }}", ""),), vocabulary)
    with pytest.raises(Exception, match="template 't', inputs: 'c' is undefined; the example has the fields a, b"):
        examples("absent")


def test_a_cache_depends_on_templates_chat_templates_and_code(tasks):
    import seqio

    from t5x_like.tasks.caching.task_inputs import cache_inputs

    instruction, sources, vocabulary, chats = tasks

    def inputs(*added, add=instruction.add, **options):
        add("changing", *added, **options)
        dependencies = cache_inputs(seqio.TaskRegistry.get("changing"), "t5x_like.tasks.instructions.instruction")
        seqio.TaskRegistry.remove("changing")
        return json.dumps(dependencies)

    plain = inputs(sources[1], PLAIN, vocabulary)
    assert plain == inputs(sources[1], PLAIN, vocabulary)
    chat = inputs(sources[1], PLAIN, chats, add=instruction.add_chat)
    other = type(chats)(lambda: TokenizerVocabulary(chats.plain.json, 350, eos=2, chat_template=CHATML + "x"))
    distinct = [
        plain,
        chat,
        inputs(sources[1], PLAIN[:1], vocabulary),
        inputs(sources[1], PLAIN, vocabulary, seed=1),
        inputs(sources[1], PLAIN, vocabulary, renditions=2),
        inputs(sources[1], PLAIN, vocabulary, shots=Shots((2,))),
        inputs(sources[1], PLAIN, chats, add=instruction.add_chat, system="Hi"),
        inputs(sources[1], PLAIN, other, add=instruction.add_chat),
    ]
    assert len(set(distinct)) == len(distinct) and " at 0x" not in "".join(distinct)
    for module in (
        "t5x_like.prompting.templates",
        "t5x_like.prompting.renderings",
        "t5x_like.tasks.instructions.instruction",
    ):
        assert module in json.loads(plain)["modules"]
    assert "t5x_like.data.chats.chat" in json.loads(chat)["modules"]
