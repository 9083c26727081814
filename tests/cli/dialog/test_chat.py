"""`t5x_like chat`, driven by a pipe and by a terminal; the answers are those of the engine."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import t5x_like
from t5x_like.cli import main
from t5x_like.cli.dialog import chat
from t5x_like.cli.dialog.conversation import Conversation
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Delta, Settings
from tests.cli.test_hf import folder  # noqa: F401 - a fixture

TEMPLATE = (
    "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}{% if add_generation_prompt %}z{% endif %}"
)
ESCAPE = re.compile(rb"\x1b\[[?0-9;]*[A-Za-z]")
FLAGS = ["--max_length=64", "--max_new_tokens=5", "--compile_cache="]


@pytest.fixture(scope="module")
def chatty(folder, tmp_path_factory):  # noqa: F811
    """The folder of a model with a chat template."""
    path = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(folder, path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def run(monkeypatch, capsys, source, *lines, flags=()):
    """(answers, notices) of a chat whose input is `lines`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    code = main.main(["chat", f"--run_dir={source}", *FLAGS, *flags])
    output, notices = capsys.readouterr()
    assert code == 0, notices
    return output.splitlines(), notices


def test_the_answers_are_those_of_the_engine_after_the_same_messages(chatty, monkeypatch, capsys, tmp_path):
    saved = tmp_path / "chat.jsonl"
    lines = [
        "a b",
        "c d",
        "/retry",
        "/undo",
        "e",
        f"/save {saved}",
        "/reset",
        f"/load {saved}",
        "c d",
        "/quit",
        "never",
    ]
    answers, _ = run(monkeypatch, capsys, chatty, *lines, flags=["--system=s", "--seed=3"])
    messages, expected = [{"role": "system", "content": "s"}], []
    settings = Settings(max_new_tokens=5, temperature=0.7, seed=3)
    with t5x_like.Engine.from_run(chatty, Options(max_length=64)) as engine:

        def ask(text, sample=0):
            messages.append({"role": "user", "content": text})
            other = Settings(**vars(settings) | {"sample": sample})
            expected.append(engine.complete(messages, other).text)
            messages.append({"role": "assistant", "content": expected[-1]})

        ask("a b")
        ask("c d")
        del messages[-2:]
        ask("c d", sample=1)
        del messages[-2:]
        ask("e")
        assert [json.loads(line) for line in saved.read_text().splitlines()] == messages
        ask("c d")
    assert answers == expected and expected[1] != expected[2]


def test_mistakes_are_told_and_the_chat_goes_on(chatty, monkeypatch, capsys, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"role": "user", "content": "a"}\n{"role": "user"}\n')
    mistakes = {
        "/nothing": "there is no /nothing; /help lists the commands",
        "/retry": "there is no answer to try again",
        "/undo": "there is no message to remove",
        "/set top_p=7": "top_p=7 must be above 0 and at most 1",
        "/set color=7": "is not NAME=VALUE with one of the names max_new_tokens, temperature",
        "/set stop=x": "stop='x' must be a list of texts",
        "/set stop_ids=no": "stop_ids='no' must be True or False",
        f"/load {tmp_path / 'bad.jsonl'}": "bad.jsonl, line 2: messages[0]=",
        f"/load {tmp_path / 'none'}": "No such file",
        "/save": "needs the name of a file",
        "/set max_new_tokens=70": "",
        "a b c": "are more than the 64 tokens that a row holds",
    }
    answers, notices = run(monkeypatch, capsys, chatty, *mistakes, "/set max_new_tokens=4", "/show", "d", "/help")
    assert len(answers) == 1 and notices.count("error: ") == len(mistakes) - 1
    assert all(text in notices for text in mistakes.values())
    assert "max_new_tokens=4 " in notices and "user: a b c" not in notices and "/set NAME=VALUE" in notices


def test_without_a_template_the_chat_is_lines_of_text(folder, monkeypatch, capsys):  # noqa: F811
    answers, notices = run(monkeypatch, capsys, folder, "a b", flags=["--temperature=0"])
    with t5x_like.Engine.from_run(folder, Options(max_length=64)) as engine:
        ids = engine.vocabulary.encode("User:\na b\n\nAssistant:\n", literal=True)
        assert answers == [engine.complete(ids, Settings(max_new_tokens=5)).text]
    assert "has no chat template: messages are written as lines" in notices


def test_control_characters_do_not_reach_the_terminal():
    hostile = "".join(map(chr, range(256)))
    shown = chat.plain(hostile)
    assert not set(shown) & {chr(code) for code in [*range(9), *range(11, 32), *range(127, 160)]}
    assert [chr(int(code, 16)) for code in re.findall(r"\\x([0-9a-f]{2})", shown)] == [
        character for character in hostile if character not in shown
    ]
    assert chat.plain("a\tb\ncé\\") == "a\tb\ncé\\"


class Failing:
    """An engine whose answers end as told."""

    def __init__(self, model, vocabulary, deltas):
        self.model, self.vocabulary, self.deltas = model, vocabulary, deltas

    def stream(self, prompt, settings):
        for delta in self.deltas:
            if isinstance(delta, BaseException):
                raise delta
            yield delta


def test_a_failed_answer_removes_its_message_and_a_stopped_one_is_kept(chatty, capsys):
    with t5x_like.Engine.from_run(chatty) as engine:
        model, vocabulary = engine.model, engine.vocabulary
    conversation, lines = Conversation(Settings()), iter(["a", "/quit"])
    chat.talk(Failing(model, vocabulary, [Delta("x"), Delta("", (), "error", "lost")]), conversation, lines.__next__)
    assert conversation.messages == [] and "error: lost" in capsys.readouterr().err
    conversation, lines = Conversation(Settings()), iter(["a", "/quit"])
    chat.talk(Failing(model, vocabulary, [Delta("x\x1b[2J"), KeyboardInterrupt()]), conversation, lines.__next__)
    output, notices = capsys.readouterr()
    assert conversation.messages[-1] == {"role": "assistant", "content": "x\x1b[2J"}
    assert output == "x\\x1b[2J\n" and "[stopped" in notices


def test_a_missing_library_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert main.main(["chat", "--run_dir=/nowhere"]) == 2
    assert "prompt_toolkit in a terminal: pip install 't5x_like[chat]'" in capsys.readouterr().err


def test_ctrl_c_in_a_terminal_stops_answers_and_ctrl_d_ends(chatty):
    flags = [f"--run_dir={chatty}", "--max_length=100000", "--max_new_tokens=99000", "--compile_cache="]
    command = [sys.executable, "-m", "t5x_like", "chat", *flags]
    spawn = f"import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn({command!r})))"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-c", spawn], env=environment, **pipes) as process:
        timer = threading.Timer(90, process.kill)
        timer.start()
        seen = b""

        def wait(pattern):
            nonlocal seen
            while not (found := re.search(pattern, seen, re.DOTALL)):
                piece = os.read(process.stdout.fileno(), 4096)
                assert piece, seen.decode(errors="replace")
                seen = ESCAPE.sub(b"", seen + piece)
            seen = seen[found.end() :]

        def write(text):
            os.write(process.stdin.fileno(), text)

        wait(rb">")
        write(b"/set stop_ids=False\r")
        for _ in range(2):  # a second Ctrl-C does not end the program either
            wait(rb">")
            write(b"a b\r")
            wait(rb"a b.*\n.*\w+ \w+ \w+")
            write(b"\x03")
            wait(rb"\[stopped; /retry answers again")
        wait(rb">")
        write(b"\x03")
        wait(rb"Ctrl-D ends the chat")
        wait(rb">")
        write(b"\x04")
        assert process.wait() == 0, seen.decode(errors="replace")
        timer.cancel()
