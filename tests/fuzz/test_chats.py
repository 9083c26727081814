"""Changed records of chats: each is a chat whose roles are in order and whose answers are learned, or is refused by a rule."""

from hypothesis import given
from hypothesis import strategies as st

from t5x_like.data.chats.masks import conversation_examples
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.prompting.conversations import ChatError, Layout
from tests.fuzz import mutations

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
RECORDS = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "2", "tool_call_id": "c"},
            {"role": "assistant", "content": "It is 2.", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
    },
    {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "tools": "[]"},
]


@given(record=st.sampled_from(RECORDS).flatmap(mutations.json_like))
def test_a_changed_record_is_a_chat_or_is_refused(record):
    if not isinstance(record, dict):
        return
    try:
        messages, tools = Layout(messages="messages", tools="tools").read(record)
    except ChatError as error:
        assert error.rule.startswith("chat.") and str(error)
        return
    assert tools is None or all(isinstance(tool["function"]["name"], str) for tool in tools)
    assert {message["role"] for message in messages} >= {"assistant"} and messages[0]["role"] in ("system", "user")
    if any(message["role"] == "assistant" and message.get("weight") != 0 for message in messages):
        [(ids, mask)] = conversation_examples(ByteVocabulary(), messages)
        assert len(ids) == len(mask) and any(mask)
