"""Tasks over the user's chats: every form gives the same tokens, bad records are counted and named, packed equals alone."""

import itertools
import json

import jax
import numpy as np
import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data import mixing
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.chats.chat import render_chat
from t5x_like.data.chats.masks import conversation_examples
from t5x_like.data.rows.chat import PackedConversations
from t5x_like.data.rows.language_model import CausalLM
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import training
from t5x_like.models import architectures, heads, linear
from t5x_like.objectives.lm import LanguageModel
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers
from tests.tasks.custom.test_files import built_here  # noqa: F401
from tests.tasks.sources.test_files import lines

pytestmark = pytest.mark.usefixtures("built_here")
NUMBER = itertools.count()
PAIRS = [(f"what is {n} + {n}?", f"it is {n + n}.") for n in range(40)]
TURNS = [
    {"role": role, "content": text} for pair in PAIRS for role, text in zip(("user", "assistant"), pair, strict=True)
]
CHATS = [TURNS[2 * n : 2 * n + 2 + 2 * (n % 3)] for n in range(30)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with a tokenizer that has ChatML as its template, and the tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_folder.export(training.train("bpe", tiny_tokenizers.TEXTS, 340, chat=True), folder)
    return str(folder), tokenizer_folder.read_folder(folder)


@pytest.fixture
def cached(tmp_path, vocabulary):
    """A function that caches a split of tasks/chats.gin, with macros."""

    def cache(split="train", **macros):
        macros = {"VOCABULARY": vocabulary[0], "token_cache.TokenCache.root": tmp_path / "root"} | macros
        overrides = [
            f"--gin.{name}={value if isinstance(value, int) else repr(str(value))}" for name, value in macros.items()
        ]
        files = "'train': %TRAIN_FILES, 'validation': %VALIDATION_FILES"
        overrides.append(f"--gin.DATA_SETS={{'chats_{next(NUMBER)}': {{{files}}}}}")
        config = runtime.parse(["tasks/chats.gin"], overrides, read=["TASK"])
        cache = config.bind("token_cache.TokenCache")(task=config.evaluate("%TASK"), split=split)
        assert cache.manifest
        return cache

    return cache


def documents(cache):
    """(ids, mask) of every example."""
    ends = cache.offsets("targets")
    flat = [np.asarray(cache.tokens(name)) for name in ("targets", "targets_mask")]
    return [tuple(x[a:b].tolist() for x in flat) for a, b in itertools.pairwise(ends)]


def test_chats_prompts_and_tables_are_the_same_examples(cached, tmp_path, vocabulary):
    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
    expected = [conversation_examples(vocabulary[1], messages)[0] for messages in pairs]
    lines(tmp_path / "v.jsonl", [{"messages": CHATS[0], "q": "x", "a": "y", "conversations": CHATS[0]}])
    lines(tmp_path / "m.jsonl", [{"messages": messages} for messages in pairs])
    shared = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in PAIRS]
    lines(tmp_path / "s.jsonl", [{"conversations": messages} for messages in shared])
    lines(tmp_path / "p.jsonl", [{"q": q, "a": a} for q, a in PAIRS])
    lines(tmp_path / "t.tsv", [b"q\ta\n", *(f"{q}\t{a}\n".encode() for q, a in PAIRS)])
    fields = {"PROMPT_FIELD": "q", "COMPLETION_FIELD": "a"}
    jinja = {"PROMPT_FIELD": "{{ q }}", "COMPLETION_FIELD": "{{ a }}"}
    forms = {"m.jsonl": {}, "s.jsonl": {"MESSAGES_FIELD": "conversations"}, "p.jsonl": fields, "t.tsv": jinja}
    for name, macros in forms.items():
        cache = cached(TRAIN_FILES=tmp_path / name, VALIDATION_FILES=tmp_path / "v.jsonl", **macros)
        assert documents(cache) == expected
        assert cache.vocabulary.chat_template == vocabulary[1].chat_template
    plain = cached(TRAIN_FILES=tmp_path / "m.jsonl", VALIDATION_FILES=tmp_path / "v.jsonl", VOCABULARY="bytes")
    assert documents(plain) == [conversation_examples(plain.vocabulary, messages)[0] for messages in pairs]
    ids, mask = documents(plain)[1]
    learned = [index for index, inside in zip(ids, mask, strict=True) if inside]
    assert plain.vocabulary.decode(learned[:-1]) == PAIRS[1][1] and learned[-1] == plain.vocabulary.eos


def test_chats_with_equal_beginnings_are_in_one_split(cached, tmp_path):
    records = [
        {"messages": [*messages[:1], {"role": "assistant", "content": f"{n}"}]} for n in range(3) for messages in CHATS
    ]
    lines(tmp_path / "a.jsonl", records)
    sides = [cached(split, TRAIN_FILES=tmp_path / "a.jsonl", VALIDATION_ONE_IN=4) for split in ("train", "validation")]
    prompts = [{tuple(ids[: mask.index(1)]) for ids, mask in documents(cache)} for cache in sides]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 30
    assert sum(len(documents(cache)) for cache in sides) == 90


BAD = [
    {"messages": CHATS[0]},
    b'{"messages": [\n',
    {"messages": [CHATS[0][0], CHATS[0][0]]},
    {"messages": [CHATS[0][0], {"role": "assistant", "content": ""}]},
    {"messages": CHATS[0], "tools": [{"name": "add"}]},
]
RULES = {"reading.invalid_json": 1, "chat.role_order": 1, "chat.empty_completion": 1, "chat.template": 1}


def test_bad_records_are_counted_and_listed_or_named(cached, tmp_path):
    lines(tmp_path / "a.jsonl", BAD)
    lines(tmp_path / "v.jsonl", BAD[:1])
    files = {"TRAIN_FILES": tmp_path / "a.jsonl", "VALIDATION_FILES": tmp_path / "v.jsonl"}
    cache = cached(**files)
    assert cache.manifest["dropped"] == RULES and len(documents(cache)) == 1
    listed = [json.loads(line) for line in (cache.folder / "rejects.jsonl").read_text().splitlines()]
    assert [one["record"] for one in listed] == [2, 3, 4, 5]
    assert "does not show the 1 tools of the chat" in listed[3]["detail"]
    assert listed[0]["detail"].startswith("a.jsonl:2: ") and "messages[1] of 'user' follows" in listed[1]["detail"]
    with pytest.raises(ValueError, match=r"a.jsonl, record 2: reading.invalid_json: a.jsonl:2: Expecting value"):
        cached(**files, STRICT=True)
    for place, message in ((2, "record 1: chat.role_order"), (3, "is empty, so there is nothing to learn")):
        lines(tmp_path / "b.jsonl", BAD[place : place + 1])
        with pytest.raises(ValueError, match=message):
            cached(**files | {"TRAIN_FILES": tmp_path / "b.jsonl"}, STRICT=True)
    with pytest.raises(ValueError, match="b.jsonl: 1: messages.1. of 'assistant' is empty|none of the first 1 records"):
        cached(**files | {"TRAIN_FILES": tmp_path / "b.jsonl"})


def test_chats_that_a_template_refuses_are_counted(cached, tmp_path):
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.role + m.content + "
        "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    system = {"role": "system", "content": "x"}
    lines(tmp_path / "a.jsonl", [{"messages": CHATS[0]}, {"messages": [system, *CHATS[1]]}])
    lines(tmp_path / "v.jsonl", [{"messages": CHATS[2]}])
    files = {"TRAIN_FILES": tmp_path / "a.jsonl", "VALIDATION_FILES": tmp_path / "v.jsonl", "TEMPLATE": strict}
    cache = cached(**files)
    assert cache.manifest["dropped"] == {"chat.template": 1}
    assert "no system" in (cache.folder / "rejects.jsonl").read_text()
    with pytest.raises(ValueError, match=r"record 2: chat.template: a.jsonl:2: ValueError: .*no system"):
        cached(**files, STRICT=True)


@pytest.mark.parametrize(
    "template, message",
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}", "does not show messages"),
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "changes messages"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "none of which is a stop token"),
        ("{% for m in messages %}{{ m.content ", "cannot render these"),
    ],
)
def test_templates_that_do_not_fit_are_named_before_reading(template, message, cached, tmp_path):
    (tmp_path / "bad.jinja").write_text(template)
    lines(tmp_path / "a.jsonl", [{"messages": messages} for messages in CHATS])
    with pytest.raises(ValueError, match=message):
        cached(TRAIN_FILES=tmp_path / "a.jsonl", TEMPLATE=tmp_path / "bad.jinja")


def test_templates_by_name(cached, tmp_path, vocabulary):
    system = {"role": "system", "content": " Be kind. "}
    lines(tmp_path / "a.jsonl", [{"messages": [system, *CHATS[2]]} for _ in range(2)])
    files = {
        "TRAIN_FILES": tmp_path / "a.jsonl",
        "VALIDATION_FILES": lines(tmp_path / "v.jsonl", [{"messages": CHATS[0]}]),
    }
    texts, end = {}, vocabulary[1].token(vocabulary[1].eos)
    for name in ("alpaca", "vicuna"):
        cache = cached(**files, TEMPLATE=name)
        ids, mask = documents(cache)[0]
        texts[name] = cache.vocabulary.tokenizer.decode(ids, skip_special_tokens=False)
        assert texts[name] == render_chat(cache.vocabulary, [system, *CHATS[2]], False)
        learned = [index for index, inside in zip(ids, mask, strict=True) if inside]
        said = [message["content"] for message in CHATS[2] if message["role"] == "assistant"]
        text = cache.vocabulary.tokenizer.decode(learned, skip_special_tokens=False)
        assert [part.strip() for part in text.split(end)] == [*said, ""]
    turns = [f"USER: what is {n} + {n}? ASSISTANT: it is {n + n}.{end}" for n in (2, 3, 4)]
    assert texts["vicuna"] == "Be kind. " + "".join(turns)
    assert (
        f"Be kind.\n\n### Instruction:\nwhat is 2 + 2?\n\n### Response:\nit is 4.{end}\n\n### Instr" in texts["alpaca"]
    )
    with pytest.raises(
        ValueError, match="template='alpacca' is no file, and none of the packaged ones: alpaca, vicuna"
    ):
        cached(**files, TEMPLATE="alpacca")
    with pytest.raises(ValueError, match="the vocabulary bytes/125 takes no chat template"):
        cached(**files, TEMPLATE="alpaca", VOCABULARY="bytes")


def test_a_mixture_has_the_template_of_its_chats(cached, tmp_path, vocabulary):
    lines(tmp_path / "a.jsonl", [{"messages": messages, "text": "x"} for messages in CHATS])
    caches = [cached(TRAIN_FILES=tmp_path / "a.jsonl", TEMPLATE=name) for name in ("alpaca", "vicuna")]
    rows = [PackedConversations(cache, 128) for cache in caches]
    with pytest.raises(ValueError, match="have chats by 2 templates"):
        mixing.Mixture(rows)
    arguments = {
        "train": str(tmp_path / "a.jsonl"),
        "text": "text",
        "vocabulary": vocabulary[0],
        "validation_one_in": 2,
    }
    arguments["validation"] = str(lines(tmp_path / "v.jsonl", [{"text": "y"}]))
    text = TokenCache("text", "train", "t5x_like.tasks.custom.files", str(tmp_path / "root"), arguments=arguments)
    both = mixing.Mixture([CausalLM(text, 8), PackedConversations(caches[0], 8)])
    assert both.vocabulary.chat_template == caches[0].vocabulary.chat_template != vocabulary[1].chat_template


def alone(batch):
    """Every segment of a batch in a row of its own."""
    parts = []
    for row in range(len(batch["decoder_segment_ids"])):
        for segment in range(1, batch["decoder_segment_ids"][row].max() + 1):
            here = batch["decoder_segment_ids"][row] == segment
            parts.append({name: np.pad(x[row][here], (0, (~here).sum())) for name, x in batch.items()})
            parts[-1]["decoder_segment_ids"] = np.minimum(parts[-1]["decoder_segment_ids"], 1)
    return {name: np.stack([part[name] for part in parts]) for name in batch}


def test_packed_is_alone_and_tokens_without_loss_have_no_gradient(cached, tmp_path):
    lines(tmp_path / "a.jsonl", [{"messages": messages} for messages in CHATS[:9]])
    lines(tmp_path / "v.jsonl", [{"messages": CHATS[9]}])
    cache = cached(TRAIN_FILES=tmp_path / "a.jsonl", VALIDATION_FILES=tmp_path / "v.jsonl")
    rows = PackedConversations(cache, 256, whole_turns=True)
    packed = rows.fetch(np.arange(len(rows)), np.zeros(len(rows), np.int64), 0)
    single = alone(packed)
    assert len(rows) < 9 == len(single["decoder_positions"])
    model = architectures.DecoderOnly(linear.Embed(cache.vocabulary.vocab_size, 32), tiny.tower(), heads.Untied())
    params = tiny.init(model, packed)

    @jax.jit
    def value_and_grad(params, batch):
        return jax.value_and_grad(lambda params: LanguageModel()(model.apply, params, batch)[0])(params)

    losses, gradients = zip(*(value_and_grad(params, batch) for batch in (packed, single)), strict=True)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), *gradients)
    assert packed["decoder_loss_weights"].sum() == single["decoder_loss_weights"].sum() > 0
    other = packed["decoder_target_tokens"] ^ (packed["decoder_loss_weights"] == 0)
    assert (other != packed["decoder_target_tokens"]).any()
    loss, gradient = value_and_grad(params, packed | {"decoder_target_tokens": other})
    assert loss == losses[0]
    jax.tree.map(np.testing.assert_array_equal, gradient, gradients[0])
