"""The process of a command: started anew once, with the memory allocator that steps want, as its user typed it."""

import os
import sys

import pytest

from t5x_like import __main__ as process


class StartedAnewError(Exception):
    """Stands for the process that takes this one's place."""


@pytest.fixture
def typed(monkeypatch):
    def replaced(program, arguments):
        raise StartedAnewError(program, arguments)

    monkeypatch.setattr(os, "execv", replaced)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "t5x_like", "--help"])
    monkeypatch.setattr(sys, "argv", ["t5x_like", "--help"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("GLIBC_TUNABLES", None)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_command_starts_anew_with_all_its_arguments_and_only_once(typed, capsys):
    with pytest.raises(StartedAnewError) as caught:
        process.start()
    assert caught.value.args == (sys.executable, [sys.executable, "-X", "dev", "-m", "t5x_like", "--help"])
    assert process.start() == 0
    assert "t5x_like train" in capsys.readouterr().out


def test_what_the_user_chose_stays(typed, capsys):
    os.environ["GLIBC_TUNABLES"] = ""
    assert process.start() == 0
    assert os.environ["GLIBC_TUNABLES"] == ""
