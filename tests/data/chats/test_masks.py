"""Chats as ids: the ids of the whole text, masked in exactly on the assistant's messages and the ends of its turns."""

import dataclasses
import inspect
import re
import textwrap

import pytest

from t5x_like.data.chats.chat import prompt_ids, render_chat
from t5x_like.data.chats.masks import conversation_examples, conversation_ids
from t5x_like.data.tokenizers import training
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from tests.data.tokenizers import tiny_tokenizers

TEXTS_OF_CHATS = ["the quick brown fox", "return x", " ", "class A:\n\tpass\n\ndef", "and\nso on", "日本 café!"]
CHATS = [
    [
        {"role": "system", "content": TEXTS_OF_CHATS[1]},
        {"role": "user", "content": TEXTS_OF_CHATS[0]},
        {"role": "assistant", "content": TEXTS_OF_CHATS[3]},
    ],
    [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TEXTS_OF_CHATS)],
    [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TEXTS_OF_CHATS[:5])],
]
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{%- endgeneration -%}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNSTABLE = "{% for message in messages %}{{ message['content'] }}{{ '!' if loop.last else '.' }}{% endfor %}"
SIZES = {"bpe": 420, "wordpiece": 300, "unigram": 160, "sentencepiece_bpe": 420, "sentencepiece_unigram": 160}
LOSSLESS = ("bpe", "sentencepiece_bpe")


@pytest.fixture(scope="module")
def trained():
    """Vocabularies with ChatML, of every kind of `t5x_like tokenizer train --chat`."""
    texts = [*tiny_tokenizers.TEXTS, *inspect.getsource(textwrap).splitlines(keepends=True)] * 3
    return {kind: training.train(kind, texts, size, chat=True) for kind, size in SIZES.items()}


def runs(ids, mask):
    """The runs of ids whose mask is 1."""
    parts, open_ = [], False
    for index, inside in zip(ids, mask, strict=True):
        if inside:
            parts[-1:] = [[*parts[-1], index]] if open_ else [*parts[-1:], [index]]
        open_ = bool(inside)
    return parts


def answers(messages):
    return [message["content"] for message in messages if message["role"] == "assistant"]


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("kind", SIZES)
def test_the_mask_covers_the_assistants_messages_after_the_prompt_of_inference(trained, kind, messages):
    vocabulary = trained[kind]
    ids, mask = conversation_ids(vocabulary, messages)
    assert ids == vocabulary.encode(render_chat(vocabulary, messages, add_generation_prompt=False))
    answered = runs(ids, mask)
    assert len(answered) == len(answers(messages))
    places = [i for i in range(len(ids)) if mask[i] and not (i and mask[i - 1])]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for run, message, place, turn in zip(answered, answers(messages), places, turns, strict=True):
        assert run[-1] in vocabulary.stop_ids and not set(run[:-1]) & set(vocabulary.stop_ids)
        assert ids[:place] == vocabulary.encode(render_chat(vocabulary, messages[:turn]))
        if kind in LOSSLESS:
            assert vocabulary.decode(run) == message
        else:
            assert vocabulary.decode(run).split() == vocabulary.decode(vocabulary.encode(message)).split()


@pytest.mark.parametrize("messages", CHATS)
def test_generation_marks_and_rendered_prefixes_give_the_same_mask(trained, messages):
    marked = dataclasses.replace(trained["bpe"], chat_template=MARKED)
    assert conversation_ids(marked, messages) == conversation_ids(trained["bpe"], messages)
    shorter = dataclasses.replace(
        marked, chat_template=MARKED.replace("content'] + '<|im_end|>' }}{%-", "content'] }}{%-")
    )
    ids, mask = conversation_ids(shorter, messages)
    assert runs(ids, mask) == [trained["bpe"].encode(message) for message in answers(messages)]


@pytest.mark.parametrize(
    "vocabulary",
    [ByteVocabulary(), SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5"), 10)],
    ids=["bytes", "sp"],
)
@pytest.mark.parametrize("messages", CHATS)
def test_without_a_template_turns_are_lines_and_eos(vocabulary, messages):
    ids, mask = conversation_ids(vocabulary, messages)
    answered = runs(ids, mask)
    assert answered == [[*vocabulary.encode(message), vocabulary.eos] for message in answers(messages)]
    assert ids.count(vocabulary.eos) == len(answered)
    if isinstance(vocabulary, ByteVocabulary):
        text = "".join("</s>" if i == vocabulary.eos else vocabulary.token(i)[3:-1] for i in ids)
        decoded = bytes.fromhex(text.replace("</s>", "")).decode()
        roles = "".join(
            f"{m['role'].capitalize()}:\n{m['content']}" + ("" if m["role"] == "assistant" else "\n\n")
            for m in messages
        )
        assert decoded == roles


def test_a_token_across_the_start_of_a_turn_is_the_assistants():
    plain = "{% for m in messages %}{{ 'Q' if m['role'] == 'user' else 'A' }} {{ m['content'] }}\n{% endfor %}"
    plain += "{% if add_generation_prompt %}A {% endif %}"
    vocabulary = TokenizerVocabulary(tiny_tokenizers.byte_level().to_str(), 350, eos=0, chat_template=plain)
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "return re"}]
    ids, mask = conversation_ids(vocabulary, messages)
    assert ids == vocabulary.encode("Q x\nA return re\n")
    assert vocabulary.decode(runs(ids, mask)[0]) == " return re\n"
    marked = "{{ messages[0]['content'] }} {% generation %}{{ messages[1]['content'] }}{% endgeneration %}turn it"
    ids, mask = conversation_ids(dataclasses.replace(vocabulary, chat_template=marked), messages)
    assert ids == vocabulary.encode("x return return it")
    assert vocabulary.decode(runs(ids, mask)[0]) == " return return"


def test_bad_conversations_are_refused(trained):
    bpe = trained["bpe"]
    with pytest.raises(ValueError, match="none of these 1 messages is the assistant's"):
        conversation_ids(bpe, CHATS[0][1:2])
    with pytest.raises(ValueError, match="messages.0. is the assistant's"):
        conversation_ids(bpe, CHATS[0][2:])
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    unstable = dataclasses.replace(bpe, chat_template=UNSTABLE)
    assert [bpe.decode(run) for run in runs(*conversation_ids(unstable, CHATS[2]))] == answers(CHATS[2])
    with pytest.raises(ValueError, match="does not show messages.1. of 3"):
        conversation_ids(dataclasses.replace(bpe, chat_template=silent), CHATS[2][:3])
    hasty = bpe.chat_template + "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(ValueError, match="renders messages.2. otherwise than after its own generation prompt"):
        conversation_examples(dataclasses.replace(bpe, chat_template=hasty), CHATS[0])
    everywhere = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    with pytest.raises(ValueError, match="marks 3 turns by {% generation %}, the assistant has 1"):
        conversation_ids(dataclasses.replace(bpe, chat_template=everywhere), CHATS[0])


THOUGHTS = (  # Qwen 3's kind
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and loop.index0 < ns.last and "
    "'</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + c + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROLES = ("user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant", "user")
THINKING = [
    {"role": role, "content": f"<think>so {n}</think>\n\nreturn {n}" if role == "assistant" else f"class {n}"}
    for n, role in enumerate(ROLES)
]
TEMPLATES = {"stable": None, "thoughts": THOUGHTS}


def learned(vocabulary, pair):
    return [vocabulary.tokenizer.decode(run, skip_special_tokens=False) for run in runs(*pair)]


@pytest.mark.parametrize("count", [2, 4, 6, 8, 9])
def test_a_chat_is_learned_as_its_template_shows_it(trained, count):
    vocabulary = dataclasses.replace(trained["bpe"], chat_template=THOUGHTS)
    text = render_chat(vocabulary, THINKING[:count], False)
    shown = re.findall(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text, re.DOTALL)
    assert learned(vocabulary, conversation_ids(vocabulary, THINKING[:count])) == shown


@pytest.mark.parametrize("count", [2, 4, 6, 8, 9])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_turn_is_learned_once_after_the_ids_that_inference_reads(trained, name, count):
    template = TEMPLATES[name] or trained["bpe"].chat_template
    vocabulary, messages = dataclasses.replace(trained["bpe"], chat_template=template), THINKING[:count]
    examples = conversation_examples(vocabulary, messages)
    prompts = [
        prompt_ids(vocabulary, messages[:turn]) for turn, role in enumerate(ROLES[:count]) if role == "assistant"
    ]
    found = [
        ids[:place]
        for ids, mask in examples
        for place in range(len(ids))
        if mask[place] and not (place and mask[place - 1])
    ]
    assert found == prompts
    turns = [text for pair in examples for text in learned(vocabulary, pair)]
    assert turns == [f"{message['content']}<|im_end|>" for message in messages if message["role"] == "assistant"]
    if name == "stable":
        assert examples == [conversation_ids(vocabulary, messages)]
    elif count >= 8:
        assert len(examples) == 3  # turns without a question of the user between them are one


def test_names_in_messages_are_learned_as_text(trained):
    for vocabulary in (trained["bpe"], dataclasses.replace(trained["bpe"], chat_template=MARKED)):
        for said in ("a<|im_end|>b", "<|im_start|>user\n", "<|im_", "<|endoftext|>"):
            messages = [{"role": "user", "content": said}, {"role": "assistant", "content": said + "!"}]
            plain = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y!"}]
            ids, mask = conversation_ids(vocabulary, messages)
            control = set(vocabulary.control_ids.values())
            assert [i for i in ids if i in control] == [
                i for i in conversation_ids(vocabulary, plain)[0] if i in control
            ]
            assert [vocabulary.decode(run) for run in runs(ids, mask)] == [said + "!"]
            assert prompt_ids(vocabulary, messages[:1]) == ids[: mask.index(1)]
