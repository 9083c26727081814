"""Chats with a model in the terminal; /help lists what can be typed besides messages.

RUN_DIR is a run made by `train` or `hf import`, a folder of Hugging Face, or a .gguf file. Every line of the standard input is a
message or a command. Answers are printed to the standard output, all else to the standard error. Control characters in an answer
are shown as \\xNN. Ctrl-C stops an answer, Ctrl-D or /quit ends.

Without a chat template, the messages are written as lines ("User:", "Assistant:"), as conversations are in training, and an
encoder-decoder reads the last message alone.
"""

import argparse
import contextlib
import dataclasses
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from t5x_like import interrupts
from t5x_like.cli import flags
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.cli.dialog.conversation import Conversation
    from t5x_like.serving.engine import Engine, Prompt

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 and C1 but tab and newline: a terminal obeys them
NEXT_TURN = "\n\nUser:\n"  # a model that was not trained on chats goes on with it


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like chat`."""
    parser = flags.Parser(
        prog="t5x_like chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_run(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--temperature", type=flags.amount, default=0.7, help="0 is greedy decoding (default: %(default)s)"
    )
    parser.add_argument("--top_p", type=flags.amount, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--max_new_tokens", type=flags.length, default=512, help="(default: %(default)s)")
    parser.add_argument("--seed", type=flags.seed, default=0, help="seed of the answers (default: %(default)s)")
    parser.add_argument(
        "--max_length",
        type=flags.length,
        help="tokens of a chat with its next answer (default: 2048, or the position table if it is shorter)",
    )
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    flags.add_quantization(parser)
    flags.add_compile_cache(parser)
    args = parser.parse_args(argv)
    read = make_reader()
    from t5x_like.cli import setup
    from t5x_like.cli.dialog.conversation import Conversation
    from t5x_like.cli.opening import Engine
    from t5x_like.serving.options import Options
    from t5x_like.serving.requests import Settings

    settings = Settings(args.max_new_tokens, args.temperature, top_p=args.top_p, seed=args.seed)
    conversation = Conversation(settings)
    if args.system:
        conversation.system(args.system)
    setup.use_compile_cache(args.compile_cache)
    options = Options(
        args.max_length,
        max_rows=1,
        kept_rows=0,
        prefix=args.prefix,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
    )
    with Engine.from_run(args.run_dir, options, args.step) as engine, interrupts.each():
        notify(f"{args.run_dir}: rows of {engine.max_length} tokens. /help lists the commands, Ctrl-D ends.")
        if engine.vocabulary.chat_template is None:
            notify(UNTEMPLATED[engine.model.encoder_decoder])
        talk(engine, conversation, read)
    return 0


UNTEMPLATED = {
    False: "The vocabulary has no chat template: messages are written as lines, User: and Assistant:. A model that was not "
    "trained on conversations continues them as any text. A chat_template.jinja next to tokenizer.json is a remedy.",
    True: "The vocabulary has no chat template: the model reads the last message alone.",
}


def make_reader() -> Callable[[], str]:
    """A function that reads a line: with an editor and a history in a terminal, else as it is. It raises EOFError at the end.

    Raises:
      ConfigError: the library is not installed.
    """
    if not (sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())):
        return read_line
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output
    except ImportError as error:
        raise ConfigError(
            "chat needs the library prompt_toolkit in a terminal: pip install 't5x_like[chat]'"
        ) from error
    session: PromptSession[str] = PromptSession(output=create_output(always_prefer_tty=True))

    def read() -> str:
        while True:
            try:
                return session.prompt("> ")
            except KeyboardInterrupt as interrupt:
                raise_if_ended(interrupt)
                notify("Ctrl-D ends the chat.")

    return read


def read_line() -> str:
    """A line of the standard input; raises EOFError at the end."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def talk(engine: "Engine", conversation: "Conversation", read: Callable[[], str]) -> None:
    """Reads messages and commands, and answers, until the input ends."""
    while True:
        try:
            line = read()
        except EOFError:
            return
        if line.strip() == "/quit":
            return
        try:
            if line.startswith("/"):
                notify(conversation.run(line))
            elif line.strip():
                conversation.say(line)
            if conversation.waits:
                answer(engine, conversation)
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            notify(f"error: {error}")
            if conversation.waits:
                conversation.undo("")


def answer(engine: "Engine", conversation: "Conversation") -> None:
    """Prints the answer to the last message as it comes and adds it; Ctrl-C ends it, and what came is kept.

    Raises:
      ValueError: the messages or the settings do not fit the model.
    """
    settings, text, end = conversation.answer_settings, "", None
    if engine.vocabulary.chat_template is None and not engine.model.encoder_decoder:
        settings = dataclasses.replace(settings, stop=[*settings.stop, NEXT_TURN])
    try:
        with contextlib.closing(engine.stream(prompt_of(engine, conversation), settings)) as deltas:
            for end in deltas:
                text += end.text
                print(plain(end.text), end="", flush=True)
    except KeyboardInterrupt as interrupt:
        raise_if_ended(interrupt)
    print(flush=True)
    if end is not None and end.finish_reason == "error":
        raise ValueError(f"{end.error}; the message is removed")
    conversation.messages.append({"role": "assistant", "content": text})
    if end is not None and end.finish_reason == "length":
        notify(f"[stopped after max_new_tokens={settings.max_new_tokens}; /set max_new_tokens=N and /retry]")
    elif end is None or end.finish_reason is None:
        notify("[stopped; /retry answers again, /undo removes the message]")


def prompt_of(engine: "Engine", conversation: "Conversation") -> "Prompt":
    """What the model continues: the messages by the template, or without one as the module says."""
    from t5x_like.data.chats import chat

    if engine.vocabulary.chat_template is not None:
        return conversation.messages
    if engine.model.encoder_decoder:
        return str(conversation.messages[-1]["content"])
    return chat.untemplated_prompt_ids(engine.vocabulary, conversation.messages)


def raise_if_ended(interrupt: KeyboardInterrupt) -> None:
    """Raises an interrupt by another signal than Ctrl-C again."""
    if getattr(interrupt, "number", signal.SIGINT) != signal.SIGINT:
        raise interrupt


def plain(text: str) -> str:
    """A text without control characters but tab and newline; the others are written as \\xNN."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def notify(text: str) -> None:
    """Prints what is no answer."""
    if text:
        print(plain(text), file=sys.stderr, flush=True)
