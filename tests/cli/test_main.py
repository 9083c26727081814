"""The program: commands, exit codes, and errors as one line."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.cli import main
from t5x_like.cli.gin.runtime import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_an_unknown_command_returns_2(capsys):
    assert main.main(["tarin"]) == 2
    assert "did you mean train" in capsys.readouterr().err
    assert main.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in main.COMMANDS) and "--gin_file=" in printed


def test_the_command_line_prints_a_config_error_without_a_traceback(capsys, monkeypatch):
    def fails(argv):
        raise ConfigError("here: this")

    monkeypatch.setitem(sys.modules, "t5x_like.cli.train", argparse.Namespace(main=fails))
    assert main.main(["train"]) == 2
    assert capsys.readouterr().err == "t5x_like: error: here: this\n"


def test_the_lines_that_gin_adds_are_left_out():
    error = ValueError("a\n  In call to configurable 'f' (<function f at 0x7f>) in scope 'X'\nb")
    assert main.message(error) == "a\nb"


@pytest.mark.parametrize("error", [TypeError("a\nb"), KeyError("x"), RecursionError("deep"), MemoryError()])
def test_an_unexpected_exception_is_logged_and_can_be_reported(error, capsys, monkeypatch, tmp_path):
    def fails(argv):
        raise error

    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "t5x_like.cli.train", argparse.Namespace(main=fails))
    assert main.main(["train", "--a=b c"]) == 70
    printed = capsys.readouterr().err
    assert printed.startswith(f"t5x_like: error: internal error: {type(error).__name__}") and "report" in printed
    log = Path(re.search(r"is in (\S+);", printed)[1])
    text = log.read_text()
    assert log.parent == tmp_path / "errors" and "t5x_like train '--a=b c'" in text
    assert "Traceback" in text and "jax" in text and "in fails" in text


def test_the_log_may_go_elsewhere(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(main.tempfile, "gettempdir", lambda: str(tmp_path))
    assert main.report_internal_error([], TypeError("x")) == 70
    assert list(tmp_path.glob("t5x_like-error-*.txt"))


def test_a_reader_that_ends_is_no_error():
    """As `t5x_like ... | head` does, whether much is printed or little."""
    for count in (1, 10**5):
        code = (
            "import sys, argparse, time; from t5x_like.cli import main\n"
            f"say = lambda argv: (time.sleep(0.3), print('x' * {count}), 0)[-1]\n"
            "sys.modules['t5x_like.cli.train'] = argparse.Namespace(main=say); sys.exit(main.main(['train']))"
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
        process.stdout.close()
        assert process.wait(timeout=60) == 141 and process.stderr.read() == b""


def test_a_warning_is_one_line():
    assert main.format_warning("damaged", UserWarning, "a.py", 3) == "t5x_like: warning: damaged\n"
    assert (
        main.format_warning("old", DeprecationWarning, "a.py", 3)
        == "t5x_like: warning: a.py:3: DeprecationWarning: old\n"
    )


@pytest.mark.parametrize("commands", [[""], list(main.COMMANDS)])
def test_help_loads_no_jax(commands):
    code = f"""
import contextlib, sys
from t5x_like.cli import main
for name in {commands}:
    with contextlib.suppress(SystemExit):
        main.main([*([name] if name else []), "--help"])
    assert not {{"jax", "orbax", "tensorflow"}} & set(sys.modules), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
