"""Rendered chats against text written by hand, and errors of rendering."""

import dataclasses

import pytest

from t5x_like.data.tokenizers.chat import render_chat
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.tokenizers import tiny_tokenizers

CHATML = """{{ bos_token }}
{% for message in messages %}
    {% if message['role'] not in ('system', 'user', 'assistant') %}
        {{ raise_exception('no role ' + message['role']) }}
    {% endif %}
    {% generation %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}
    {% endgeneration %}
    {% if loop.index > 2 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' -}}
{% endif %}"""
CHAT = [{"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": " Hi é "}]
TEXT = "<|end|>\n<|im_start|>system\nBe <b>brief</b>.<|im_end|>\n<|im_start|>user\nHi é<|im_end|>\n"


@pytest.fixture(scope="module")
def vocabulary():
    text = tiny_tokenizers.byte_level().to_str()
    return TokenizerVocabulary(text, 350, bos=0, eos=2, add_bos=True, chat_template=CHATML)


def test_a_chat_equals_the_text_written_by_hand(vocabulary):
    assert render_chat(vocabulary, CHAT, add_generation_prompt=False) == TEXT
    assert render_chat(vocabulary, CHAT) == TEXT + "<|im_start|>assistant\n"
    ids = vocabulary.encode(render_chat(vocabulary, CHAT))
    assert ids.count(0) == 1 and ids.count(1) == 3 and ids.count(2) == 2


def test_json_and_dates_are_as_in_transformers(vocabulary):
    template = "{{ messages | tojson }} {{ {'b': 1, 'a': 'é<'} | tojson(indent=1) }} {{ strftime_now('%Y') | length }}"
    changed = dataclasses.replace(vocabulary, chat_template=template)
    message = '[{"role": "user", "content": "é"}]'
    assert render_chat(changed, [{"role": "user", "content": "é"}]) == message + ' {\n "b": 1,\n "a": "é<"\n} 4'


@pytest.mark.parametrize(
    "messages, message",
    [
        ([], "messages=.. is empty"),
        ([{"role": "user"}], "messages.0.=.*is not a message"),
        (["hi"], "messages.0.='hi' is not a message"),
        ([{"role": "wizard", "content": ""}], "cannot render these 1 messages: no role wizard"),
    ],
)
def test_invalid_chats_are_rejected(messages, message, vocabulary):
    with pytest.raises(ValueError, match=message):
        render_chat(vocabulary, messages)


def test_missing_broken_and_unsafe_templates_are_rejected(vocabulary):
    with pytest.raises(ValueError, match="bytes/125 has no chat_template"):
        render_chat(ByteVocabulary(), CHAT)
    for template in ("{% for %}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ x.y.z }}"):
        with pytest.raises(ValueError, match="cannot render"):
            render_chat(dataclasses.replace(vocabulary, chat_template=template), CHAT)
