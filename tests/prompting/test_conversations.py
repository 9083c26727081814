"""Chats from records: the forms of files become one, and what is wrong with a chat is named."""

import json

import pytest

from t5x_like.prompting.conversations import ChatError, Layout, check_order

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "c1"},
    {"role": "assistant", "content": "2."},
    {"role": "user", "content": "Thanks"},
]


def test_forms_of_files_become_one():
    layout = Layout(messages="messages", tools="tools")
    assert layout.read({"messages": CHAT}) == (CHAT, None)
    assert layout.read({"messages": json.dumps(CHAT), "tools": ""}) == (CHAT, None)
    text = json.loads(json.dumps(CHAT))
    text[2] = {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": '{"a": 1}'}]}
    text[1]["content"] = [{"type": "text", "text": "1 +"}, {"type": "text", "text": " 1?"}]
    messages, tools = layout.read({"messages": text, "tools": json.dumps([{"name": "add"}])})
    assert messages[2]["tool_calls"] == [{key: CALL[key] for key in ("type", "function")}] and messages[1] == CHAT[1]
    assert tools == [{"type": "function", "function": {"name": "add"}}]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    expected = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert Layout(messages="conversations").read({"conversations": shared}) == (expected, None)
    assert Layout(prompt="q", completion="a").read({"q": "Hi", "a": "Hello"}) == (expected, None)
    jinja = Layout(prompt="{{ q }}{% if more %} {{ more }}{% endif %}", completion="a", system="For {{ who }}.")
    messages, _ = jinja.read({"q": "Hi", "more": "you", "a": "Hello", "who": "all"})
    assert [message["content"] for message in messages] == ["For all.", "Hi you", "Hello"]
    assert Layout(messages="messages", system="Other").read({"messages": CHAT})[0] == CHAT


@pytest.mark.parametrize(
    "roles, message",
    [
        ("a", r"messages\[0\] of 'assistant' comes first, which is out of order; it may follow 'user' or 'tool'"),
        ("ua s", None),
        ("us", r"messages\[1\] of 'system' follows one of 'user'.*it may follow the beginning"),
        ("uua", r"messages\[1\] of 'user' follows one of 'user'"),
        ("uaa", r"messages\[2\] of 'assistant' follows one of 'assistant'"),
        ("uat", r"messages\[2\] of 'tool' follows one of 'assistant' without calls of tools"),
        ("ut", r"messages\[1\] of 'tool' follows one of 'user'"),
        ("su", "none of the 2 messages is the assistant's"),
        ("sua", None),
        ("uctta", None),
        ("ucu", None),
    ],
)
def test_roles_out_of_order_are_named(roles, message):
    if " " in roles:
        roles, message = roles.replace(" ", ""), r"messages\[2\] of 'system'"
    names = {"s": "system", "u": "user", "a": "assistant", "c": "assistant", "t": "tool"}
    messages = [{"role": names[x], "content": "x", **({"tool_calls": [CALL]} if x == "c" else {})} for x in roles]
    if message is None:
        check_order(messages)
        return
    with pytest.raises(ChatError, match=message) as error:
        check_order(messages)
    assert error.value.rule in ("chat.role_order", "chat.no_answer")


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    "messages, rule, message",
    [
        (None, "missing_field", "the field 'messages' is missing .found: id, text"),
        ("text", "missing_field", "the field 'messages' is 'text', not a list"),
        ([], "missing_field", "not a list of messages"),
        (["x"], "message", r"messages\[0\] is 'x', not an object"),
        ([USER, {"role": "wizard", "content": "x"}], "role", r"messages\[1\] has the role 'wizard'; known are system"),
        ([{"content": "x"}], "role", r"messages\[0\] has the role None"),
        ([{"role": "user", "content": None}], "message", r"messages\[0\] has the content 'None', which is not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message", "which is not text"),
        ([{**USER, "weight": 0.5}], "message", r"messages\[0\] has weight=0.5; give 0"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty_completion", r"messages\[1\] of 'assistant' is empty"),
        ([USER, {"role": "assistant", "content": "", "tool_calls": [{}]}], "tools", "calls '{}', which has no name"),
        ([USER, {"role": "assistant", "content": "", "tool_calls": {"a": 1}}], "tools", "which is no list"),
    ],
)
def test_bad_messages_are_named(messages, rule, message):
    with pytest.raises(ChatError, match=message) as error:
        Layout(messages="messages").read({"id": "a:1", "text": "", "messages": messages})
    assert error.value.rule == f"chat.{rule}"


def test_bad_fields_tools_and_layouts_are_named():
    pair = Layout(prompt="q", completion="a")
    with pytest.raises(ChatError, match="the field completion='a' is missing .found: q"):
        pair.read({"q": "x"})
    with pytest.raises(ChatError, match="the field prompt='q' is a int, not text"):
        pair.read({"q": 1, "a": "x"})
    with pytest.raises(ChatError, match="is empty, so there is nothing to learn"):
        pair.read({"q": "x", "a": ""})
    with pytest.raises(ChatError, match="'who' is undefined; the example has the fields a, q"):
        Layout(prompt="{{ who }}", completion="a").read({"q": "x", "a": "y"})
    for tools, message in (("x", "is no list of functions"), ([{}], "has no name of a function")):
        with pytest.raises(ChatError, match=message):
            Layout(messages="messages", tools="tools").read({"messages": CHAT, "tools": tools})
    for arguments in ({}, {"messages": "m", "prompt": "p", "completion": "c"}, {"prompt": "p"}):
        with pytest.raises(ValueError, match="name either the field of the messages, or the fields of a prompt"):
            Layout(**arguments)
    with pytest.raises(ValueError, match="template 'prompt', inputs, line 1"):
        Layout(prompt="{{ q", completion="a")
