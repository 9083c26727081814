"""Masks of chats equal those of transformers, on templates of the shapes that released models have."""

import itertools
import json
from pathlib import Path

import pytest

from t5x_like.data.chats.chat import render_chat
from t5x_like.data.chats.masks import check_ends, conversation_examples
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.chats import chat_templates

EXPECTED = json.loads(Path(__file__).with_name("masks.json").read_text())


def make_vocabulary(shape, marked=False, text=None):
    """The vocabulary of the fixture with a template."""
    stops = tuple(chat_templates.NAMES.index(name) for name in dict.fromkeys(("</s>", chat_templates.ENDS[shape])))
    return TokenizerVocabulary(
        json.dumps(EXPECTED["tokenizer"]),
        320,
        bos=0,
        eos=1,
        stop_ids=stops,
        chat_template=text or chat_templates.template(shape, marked),
    )


def spans(vocabulary, ids, mask):
    """The texts of the runs that have a loss, control tokens included."""
    runs = itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    texts = ([index for index, _ in run] for inside, run in runs if inside)
    return [vocabulary.tokenizer.decode(text, skip_special_tokens=False) for text in texts]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("shape", chat_templates.SHAPES)
def test_ids_and_masks_are_those_of_transformers(shape, marked):
    vocabulary = make_vocabulary(shape, marked)
    check_ends(vocabulary)
    for messages, expected in zip(chat_templates.chats(), EXPECTED["chats"][shape], strict=True):
        [(ids, mask)] = conversation_examples(vocabulary, messages)
        assert (ids, mask) == (expected["ids"], expected["mask"])
        text = render_chat(vocabulary, messages, add_generation_prompt=False)
        assert vocabulary.tokenizer.decode(ids, skip_special_tokens=False) == text
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        shown = spans(vocabulary, ids, mask)
        assert [one.removesuffix(chat_templates.ENDS[shape]).strip() for one in shown] == [one.strip() for one in said]
        assert all(one.endswith(chat_templates.ENDS[shape]) for one in shown)


CHATML = chat_templates.SHAPES["chatml"]
ANSWER = "{{- m['content'] + '<|im_end|>' }}"


@pytest.mark.parametrize(
    "answer, message",
    [
        ("{{- '<|im_end|>' }}", r"changes messages\[1\], the assistant's: it has ' Yes, i"),
        ("{{- m['content'] | upper + '<|im_end|>' }}", r"the template writes ' YES, INDEED<\|im_end"),
        ("{{- m['content'][:4] + '<|im_end|>' }}", r"changes messages\[1\]"),
    ],
)
def test_a_template_that_drops_or_changes_the_assistants_words_is_named(answer, message):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": " Yes, indeed"}]
    for blocks in (("", ""), ("{% generation %}", "{% endgeneration %}")):
        text = CHATML.replace(ANSWER, answer).replace("[[", blocks[0]).replace("]]", blocks[1])
        with pytest.raises(ValueError, match=message):
            conversation_examples(make_vocabulary("chatml", text=text), messages)
    dropped = chat_templates.template("chatml").replace(
        "for m in messages", "for m in messages if m.role != 'assistant'"
    )
    with pytest.raises(
        ValueError, match="chat template does not show messages|otherwise than after its own generation"
    ):
        conversation_examples(make_vocabulary("chatml", text=dropped), messages)


def test_turns_that_end_with_no_stop_token_are_named():
    with pytest.raises(
        ValueError, match=r"turns by the tokens '<\|im_end\|>' 'Ċ', none of which is a stop token \('</s>'\)"
    ):
        check_ends(make_vocabulary("llama2", text=chat_templates.template("chatml")))


@pytest.mark.parametrize("marked", [False, True, None])
def test_turns_of_weight_0_are_read_but_not_learned(marked):
    vocabulary = ByteVocabulary() if marked is None else make_vocabulary("chatml", marked)
    messages = chat_templates.chats()[1]
    weighted = [{**message, "weight": 0} if n == 1 else {**message, "weight": 1} for n, message in enumerate(messages)]
    [(ids, mask)], [(all_ids, all_mask)] = (conversation_examples(vocabulary, each) for each in (weighted, messages))
    first = list(itertools.takewhile(lambda n: all_mask[n], range(all_mask.index(1), len(ids))))
    assert ids == all_ids and not any(mask[: first[-1] + 1]) and mask[first[-1] + 1 :] == all_mask[first[-1] + 1 :]
    with pytest.raises(ValueError, match="all of the assistant's turns in these 2 messages have weight=0"):
        conversation_examples(vocabulary, weighted[:2])


def test_words_that_name_control_tokens_are_kept_as_text():
    for shape in chat_templates.SHAPES:
        vocabulary, said = make_vocabulary(shape), f"a {chat_templates.ENDS[shape]} b <s>"
        messages = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
        [(ids, mask)] = conversation_examples(vocabulary, messages)
        plain = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        [(others, _)] = conversation_examples(vocabulary, plain)
        count = len(chat_templates.NAMES)
        assert [i for i in ids if i < count] == [i for i in others if i < count]
        assert spans(vocabulary, ids, mask)[0].strip().startswith(said)
