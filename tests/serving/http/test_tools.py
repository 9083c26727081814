"""Calls of tools: templates of several families, text that arrives in any pieces, and the public client."""

import itertools
import json

import pytest
from hypothesis import given, settings, strategies

from t5x_like.decoding.grammars import Matcher, tokenizer_of
from t5x_like.serving.http.tools import CallFormat, CallReader
from tests.serving import scripted
from tests.serving.http import servers
from tests.serving.http.servers import HI, MODEL

BEGIN = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for message in messages %}"
END = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
MISTRAL = (
    BEGIN + "<|im_start|>{{ message.role }}\n{% if message.tool_calls %}<|end|> [{% for call in message.tool_calls %}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}{% endfor %}]"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>" + END
)
LLAMA = (
    BEGIN + "<|im_start|>{{ message.role }}\n{% for call in message.tool_calls or [] %}"
    "{{ {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}{% endfor %}"
    "{{ message.content }}<|im_end|>" + END
)
OTHER = (
    BEGIN
    + "{{ message.content }}{% for call in message.tool_calls or [] %}call {{ call.function.name }}{% endfor %}"
    + END
)
HERMES = CallFormat("<tool_call>\n", "arguments", "<tool_call>", "</tool_call>")
RAW = CallFormat("", "parameters", "", "")
ARRAY = CallFormat("<|end|> [", "arguments", "", "]")
NAMES = {"add", "search"}


@pytest.mark.parametrize("template, found", [(scripted.TEMPLATE, HERMES), (LLAMA, RAW), (MISTRAL, ARRAY)])
def test_the_format_is_found_in_the_template(template, found):
    assert CallFormat.find(scripted.vocabulary(template)) == found


@pytest.mark.parametrize(
    "template, message",
    [
        ("{{ messages[-1].content }}", "does not show tools"),
        (
            BEGIN
            + "{{ message.content }}{% for c in message.tool_calls or [] %}call {{ c.function.name }}{% endfor %}"
            + END,
            "as JSON",
        ),
        (None, "has no chat_template"),
    ],
)
def test_a_template_without_calls_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        CallFormat.find(scripted.vocabulary(template))


def read(call_format, parts, forced=False, most=None):
    """(text, [(name, arguments)]) of a turn that arrives in parts."""
    reader = CallReader(call_format, NAMES, forced, most)
    text, calls = "", []
    for number, part in enumerate(parts):
        for piece in reader.feed(part, final=number == len(parts) - 1):
            if piece.call is None:
                text += piece.text
            elif piece.name is not None:
                assert piece.call == len(calls)
                calls.append([piece.name, ""])
            else:
                calls[piece.call][1] += piece.text
    return text, [tuple(call) for call in calls]


ADD = '{"name": "add", "arguments": {"a": [1, "}{"], "b": "\\"x\\\\"}}'
ADDED = ("add", '{"a": [1, "}{"], "b": "\\"x\\\\"}')
SEARCH = '{ "name":"search" ,"arguments": {}, "id": "x}" }'
SEARCHED = ("search", "{}")
TURNS = [
    (HERMES, 'just text {"name": 1}', ('just text {"name": 1}', [])),
    (HERMES, f"<tool_call>\n{ADD}\n</tool_call>", ("", [ADDED])),
    (
        HERMES,
        f"I add.\n\n<tool_call>{ADD}</tool_call>\n<tool_call>\n{SEARCH}\n</tool_call>",
        ("I add.", [ADDED, SEARCHED]),
    ),
    (HERMES, f"<tool_call>{SEARCH}</tool_call> and so on", ("and so on", [SEARCHED])),
    (HERMES, '<tool_call>{"arguments": {"é": 2}, "name": "add"}', ("", [("add", '{"é": 2}')])),
    (HERMES, '<tool_call>{"name": "other", "arguments": {}}', ('<tool_call>{"name": "other", "arguments": {}}', [])),
    (HERMES, "a <tool_call>b</tool_call>", ("a<tool_call>b</tool_call>", [])),
    (HERMES, 'a<tool_call>{"name": "ad', ('a<tool_call>{"name": "ad', [])),
    (HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1', ("", [("add", '{"a": 1')])),
    (HERMES, "a <tool", ("a <tool", [])),
    (RAW, ADD.replace("arguments", "parameters"), ("", [ADDED])),
    (RAW, '{"x": 1} y', ('{"x": 1} y', [])),
    (RAW, "text " + ADD, ("text " + ADD, [])),
    (RAW, " \n", (" \n", [])),
    (ARRAY, f"[{ADD}, {SEARCH}]", ("", [ADDED, SEARCHED])),
    (ARRAY, "[1, 2]", ("[1, 2]", [])),
]


@pytest.mark.parametrize("call_format, turn, expected", TURNS)
def test_calls_are_read_from_the_whole_and_from_single_characters(call_format, turn, expected):
    assert read(call_format, [turn]) == expected
    assert read(call_format, [*turn, ""]) == expected
    for size in (2, 5, 11):
        assert read(call_format, [turn[i : i + size] for i in range(0, len(turn), size)]) == expected


WORDS = [ADD, SEARCH, "<tool_call>", "</tool_call>", " ", "[", "{", '"', "x", "\n"]


@settings(max_examples=200, deadline=None)
@given(strategies.lists(strategies.sampled_from(WORDS)), strategies.data())
def test_pieces_do_not_matter(words, data):
    turn = "".join(words)
    cuts = sorted(data.draw(strategies.lists(strategies.integers(0, len(turn)), max_size=5)))
    parts = [turn[i:j] for i, j in itertools.pairwise([0, *cuts, len(turn)])]
    for call_format in (HERMES, RAW, ARRAY):
        assert read(call_format, parts) == read(call_format, [turn])


def test_forced_calls_and_the_most():
    assert read(HERMES, [ADD], forced=True) == ("", [ADDED])
    both = f"<tool_call>{ADD}</tool_call><tool_call>{SEARCH}</tool_call>"
    assert read(HERMES, [both], most=1) == ("", [ADDED])


PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTIONS = [{"name": "add", "description": "adds", "parameters": PARAMETERS}, {"name": "search"}]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]


def accepts(vocabulary, grammar, text):
    """Whether a text obeys a grammar."""
    matcher = Matcher(tokenizer_of(vocabulary), grammar)
    try:
        for index in vocabulary.encode(text, literal=True):
            matcher.consume(index)
    except ValueError:
        return False
    return matcher.may_end


def script(ids, settings):
    """A call; its beginning unless the prompt has it."""
    begun = scripted.vocabulary().tokenizer.decode(ids).endswith("<tool_call>\n")
    return (
        ("" if begun else "Wait.\n<tool_call>\n")
        + '{"name": "add", "arguments": {"a": 12}}'
        + "\n</tool_call>" * (not begun)
    )


@pytest.fixture(scope="module")
def engine():
    return scripted.ScriptedEngine(script, tick=0.001, max_length=512)


@pytest.fixture(scope="module")
def client(engine):
    with servers.serve(engine) as server, servers.client(server) as client:
        yield client


NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_the_client_reads_calls_and_their_stream(client, engine, choice):
    options = {"model": MODEL, "messages": HI, "tools": TOOLS, "tool_choice": choice}
    whole = client.chat.completions.create(**options).choices[0]
    (call,) = whole.message.tool_calls
    assert call.function.name == "add" and call.type == "function" and json.loads(call.function.arguments) == {"a": 12}
    assert whole.message.content == ("Wait." if choice == "auto" else None) and whole.finish_reason == "tool_calls"
    with client.chat.completions.stream(**options) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    streamed = message.tool_calls[0].function
    assert (streamed.name, streamed.arguments) == (call.function.name, call.function.arguments)
    assert (message.content or None) == whole.message.content
    arguments = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(arguments) == '{"a": 12}' and len([part for part in arguments if part]) > 2
    grammar = engine.submitted[-1].settings.grammar
    if choice == "auto":
        assert grammar is None
    else:
        assert accepts(engine.vocabulary, grammar, '{"name": "add", "arguments": {"a": 12}}')
        assert not accepts(engine.vocabulary, grammar, '{"name": "add", "arguments": {}}')
        assert accepts(engine.vocabulary, grammar, '{"name": "search", "arguments": {}}') == (choice == "required")


def test_tools_reach_the_template_unless_there_is_no_choice(client, engine):
    shown = json.dumps(TOOLS[0])
    for choice, expected in [("auto", True), ("none", False)]:
        answer = client.chat.completions.create(model=MODEL, messages=HI, tools=TOOLS, tool_choice=choice)
        assert (shown in engine.vocabulary.decode(engine.submitted[-1].ids[:-2]).replace("\n", "")) or not expected
        assert bool(answer.choices[0].message.tool_calls) == expected


def test_strict_functions_constrain_calls_but_not_text(client, engine):
    strict = [TOOLS[0] | {"function": FUNCTIONS[0] | {"strict": True}}, TOOLS[1]]
    client.chat.completions.create(model=MODEL, messages=HI, tools=strict)
    grammar = engine.submitted[-1].settings.grammar
    for text, allowed in [
        ("any { text", True),
        ('a\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', True),
        ('<tool_call>{"name": "add", "arguments": {"a": "1"}}', False),
        ('<tool_call>{"name": "search", "arguments": {"b": "1"}}</tool_call>', True),
        ('<tool_call>{"name": "find", "arguments": {}}', False),
        (
            '<tool_call>{"name": "search", "arguments": {}}</tool_call>\n<tool_call>{"name": "add", "arguments": {"a": 1}}',
            True,
        ),
        ("a <tool_call> b", False),
    ]:
        assert accepts(engine.vocabulary, grammar, text) == allowed, text
    client.chat.completions.create(model=MODEL, messages=HI, tools=strict, parallel_tool_calls=False)
    grammar = engine.submitted[-1].settings.grammar
    call = '<tool_call>{"name": "search", "arguments": {}}</tool_call>'
    assert accepts(engine.vocabulary, grammar, call) and not accepts(engine.vocabulary, grammar, call * 2)


def test_answers_obey_formats(client, engine):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    formats = [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            '{"a": 1}',
            '{"a": "b"}',
        ),
        ({"response_format": {"type": "json_object"}}, '{"b": []}', "[]"),
        ({"extra_body": {"guided_json": schema}}, '{"a": 1}', '{"a": "b"}'),
        ({"extra_body": {"guided_json": json.dumps(schema)}}, '{"a": 1}', '{"a": "b"}'),
        ({"extra_body": {"guided_regex": "[ab]+"}}, "abba", "abc"),
        ({"extra_body": {"guided_choice": ["yes", "no"]}}, "no", "maybe"),
        ({"extra_body": {"guided_grammar": 'start: "a" start "b" | "ab"'}}, "aabb", "aab"),
    ]
    for options, right, wrong in formats:
        client.chat.completions.create(model=MODEL, messages=HI, **options)
        grammar = engine.submitted[-1].settings.grammar
        assert accepts(engine.vocabulary, grammar, right) and not accepts(engine.vocabulary, grammar, wrong)
    client.chat.completions.create(model=MODEL, messages=HI, response_format={"type": "text"})
    assert engine.submitted[-1].settings.grammar is None
