"""Chats as training examples: the ids of the rendered text, with the loss on the assistant's words and the ends of its turns.

The assistant's text is what the template puts into {% generation %} blocks, as in transformers, or, without them, what it adds to
the prompt that the turn is generated from. Space after the token that ends a turn is never generated, and has no loss.
"""

from collections.abc import Mapping, Sequence

from t5x_like.data.chats.chat import Chat, Masked, Message, Tools, check_messages, count_equal, untemplated_ids
from t5x_like.types import Vocabulary


def conversation_ids(vocabulary: Vocabulary, messages: Sequence[Message], tools: Tools = None) -> Masked:
    """(ids, mask) of a whole chat: the mask is 1 on the assistant's tokens and on the ends of its turns, else 0.

    The ids are those of the whole text; a token that crosses the border of a turn belongs to the assistant.

    Raises:
      ValueError: no message is the assistant's, or the template does not show its content.
    """
    turns = learned_turns(messages)
    if vocabulary.chat_template is None and not tools:
        return untemplated_ids(vocabulary, messages)
    return masked_ids(Chat.quote(vocabulary, messages, tools), len(messages), turns)


def conversation_examples(vocabulary: Vocabulary, messages: Sequence[Message], tools: Tools = None) -> list[Masked]:
    """The chat as training examples (ids, mask): each assistant turn is learned once, after the text it is generated from.

    Most templates render the first messages of a chat as a prefix of the whole, and there is one example,
    `conversation_ids`. Others leave the thoughts of earlier turns out; then the chat is several examples, each with the
    messages up to a turn as the template renders them at inference.

    Raises:
      ValueError: no message is the assistant's, or the template changes its words, or does not render a turn after its own
        generation prompt.
    """
    turns = learned_turns(messages)
    if vocabulary.chat_template is None and not tools:
        return [untemplated_ids(vocabulary, messages)]
    chat = Chat.quote(vocabulary, messages, tools)
    check_tools(chat)
    texts = {turn: chat.render(turn + 1) for turn in turns}
    if not chat.has_marks:
        check_prompts(chat, texts)
    whole, examples = chat.render(len(messages)), []
    count = len(messages) if whole.startswith(texts[turns[-1]]) else turns[-1] + 1
    while turns:
        text = texts[turns[-1]]
        together = [turn for turn in turns if text.startswith(texts[turn])]
        examples.append(masked_ids(chat, count, together, verbatim=True))
        turns = [turn for turn in turns if turn not in together]
        count = turns[-1] + 1 if turns else 0
    return examples[::-1]


def assistant_turns(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's messages.

    Raises:
      ValueError: a message is invalid, or none is the assistant's.
    """
    check_messages(messages)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise ValueError(f"none of these {len(messages)} messages is the assistant's, so there are no targets; add one")
    return turns


def learned_turns(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's messages that are learned: all but those with {"weight": 0}, as in OpenAI's files.

    Raises:
      ValueError: a message is invalid, or there are none.
    """
    turns = [turn for turn in assistant_turns(messages) if messages[turn].get("weight") != 0]
    if not turns:
        raise ValueError(
            f"all of the assistant's turns in these {len(messages)} messages have weight=0, so there are no targets; remove one"
        )
    return turns


def check_prompts(chat: Chat, texts: Mapping[int, str]) -> None:
    """Checks that the texts up to the assistant's turns, by turn, begin with the prompts that they are generated from.

    Raises:
      ValueError: one does not.
    """
    for turn, text in texts.items():
        if not text.startswith(chat.render_prompt(turn)):
            raise ValueError(
                f"the chat template renders messages[{turn}] otherwise than after its own generation prompt, so what is trained "
                "would not be what the model generates; put {% generation %} and {% endgeneration %} around the assistant's "
                "text in the template"
            )


def check_tools(chat: Chat) -> None:
    """Checks that the template shows the tools of a chat.

    Raises:
      ValueError: its text is the same without them.
    """
    count = len(chat.messages)
    if chat.tools and chat.render(count) == chat.render_messages(chat.messages, None, False):
        raise ValueError(
            f"the chat template does not show the {len(chat.tools)} tools of the chat; leave tools out, or take a template that "
            "renders them"
        )


def check_words(chat: Chat, turn: int, shown: str) -> None:
    """Checks that the text of a turn has the words and calls of messages[turn]; space between words is the template's.

    Raises:
      ValueError: it has others.
    """
    content = chat.messages[turn]["content"]
    for call in chat.messages[turn].get("tool_calls") or ():
        if (name := str(call.get("function", call).get("name"))) not in shown:
            raise ValueError(
                f"the chat template does not show the call of {name!r} in messages[{turn}]; take another template"
            )
    if not isinstance(content, str):
        return
    said, written = ("".join(text.replace(chat.mark, "").split()) for text in (content, shown))
    if said not in written:
        raise ValueError(
            f"the chat template changes messages[{turn}], the assistant's: it has {content[:60]!r}, and the template writes "
            f"{shown.replace(chat.mark, '')[:60]!r}; what is learned must be what the message says: change the template"
        )


def check_ends(vocabulary: Vocabulary) -> None:
    """Checks that the assistant's turns end with a stop id, at which generation stops, by a chat of two turns.

    Raises:
      ValueError: they do not, or the template cannot render the chat.
    """
    roles, words = ("user", "assistant") * 2, ("Hello?", "Good morning.", "And now?", "Good night.")
    messages = [{"role": role, "content": text} for role, text in zip(roles, words, strict=True)]
    for ids, mask in conversation_examples(vocabulary, messages):
        for place, inside in enumerate(mask):
            if inside and not any(mask[place + 1 : place + 2]) and ids[place] not in vocabulary.stop_ids:
                stops = ", ".join(map(repr, map(vocabulary.token, vocabulary.stop_ids))) or "none"
                last = " ".join(repr(vocabulary.token(index)) for index in ids[place - 1 : place + 1])
                raise ValueError(
                    f"the chat template ends the assistant's turns by the tokens {last}, none of which is a stop token "
                    f"({stops}), so that a tuned model would not stop; write eos_token at the end of these turns in the "
                    "template, or name the token in eos_token_id of generation_config.json"
                )


def masked_ids(chat: Chat, count: int, turns: Sequence[int], verbatim: bool = False) -> Masked:
    """(ids, mask) of the first `count` messages, with the mask on `turns`; `verbatim` calls `check_words`."""
    text = chat.render(count)
    ids = chat.encode(text)
    mask = [0] * len(ids)
    marked = marked_spans(chat, count, text)
    stop_ids = chat.vocabulary.stop_ids
    for turn in turns:
        begin, end = marked[turn] if marked else find_span(chat, count, text, turn)
        if verbatim:
            check_words(chat, turn, text[begin:end])
        first, last = count_tokens(chat, ids, text[:begin])[0], count_tokens(chat, ids, text[:end])[1]
        # Text after the token that ends the turn (a newline) is never generated.
        ends = [i for i in range(first, last) if ids[i] in stop_ids]
        if ends:
            last = ends[-1] + 1
        elif last < len(ids) and ids[last] in stop_ids:
            last += 1
        mask[first:last] = [1] * (last - first)
    return ids, mask


def count_tokens(chat: Chat, ids: list[int], prefix: str) -> tuple[int, int]:
    """How many of a text's tokens lie inside its prefix, and that number including a token that crosses its end."""
    alone = chat.encode(prefix)
    inside = count_equal(ids, alone)
    return inside, inside + (inside < len(alone))


def marked_spans(chat: Chat, count: int, text: str) -> dict[int, tuple[int, int]]:
    """(begin, end) in `text` of the template's {% generation %} blocks, by turn; {} if it has no such blocks.

    Raises:
      ValueError: the blocks are not the assistant's turns.
    """
    if not chat.has_marks:
        return {}
    begin, end = chat.marks[1:3]
    parts = chat.render(count, marks=(begin, end)).split(begin)
    spans, position = [], len(parts[0])
    for part in parts[1:]:
        inside, _, after = part.partition(end)
        spans.append((position, position + len(inside)))
        position += len(inside) + len(after)
    turns = assistant_turns(chat.plain[:count])
    if len(spans) != len(turns) or position != len(text):
        raise ValueError(
            f"the chat template marks {len(spans)} turns by {{% generation %}}, the assistant has {len(turns)} in these "
            f"{count} messages; mark exactly the assistant's text"
        )
    return dict(zip(turns, spans, strict=True))


def find_span(chat: Chat, count: int, text: str, turn: int) -> tuple[int, int]:
    """(begin, end) of messages[turn] in the text of the first `count` messages.

    It lies between the texts of the messages before it and up to it, where these are prefixes of `text`. Where the template
    renders earlier turns otherwise, it is what changes if the content of the message is replaced.

    Raises:
      ValueError: the template does not show the content.
    """
    prompt, so_far = chat.render_prompt(turn), chat.render(turn + 1)
    if text.startswith(so_far) and so_far.startswith(prompt):
        begin, end = len(prompt), len(so_far)
    else:
        other = [*chat.messages[:count]]
        other[turn] = {**other[turn], "content": chat.marks[3]}
        changed = chat.render_messages(other, chat.tools, False)
        begin = count_equal(text, changed)
        end = len(text) - count_equal(text[begin:][::-1], changed[begin:][::-1])
        begin = min(len(prompt), end) if text.startswith(prompt) else begin
    if begin == end:
        raise ValueError(
            f"the chat template does not show messages[{turn}] of {count}, so it cannot be learned; remove the message, or put "
            "{% generation %} and {% endgeneration %} around the assistant's text in the template"
        )
    return begin, end
