"""The process of a command: restarted once with the allocator settings, with the same arguments."""

import os
import sys

import pytest

from t5x_like import __main__ as process
from t5x_like.cli import main
from t5x_like.data.cache import token_cache


class RestartedError(Exception):
    """Raised instead of replacing the process."""


@pytest.fixture
def run_command(monkeypatch):
    def replaced(program, arguments):
        raise RestartedError(program, arguments)

    monkeypatch.setattr(os, "execv", replaced)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "t5x_like", "--help"])
    monkeypatch.setattr(sys, "argv", ["t5x_like", "--help"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("GLIBC_TUNABLES", None)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_command_restarts_once_with_its_arguments(run_command, capsys):
    with pytest.raises(RestartedError) as caught:
        process.start()
    assert caught.value.args == (sys.executable, [sys.executable, "-X", "dev", "-m", "t5x_like", "--help"])
    assert process.start() == 0
    assert "t5x_like train" in capsys.readouterr().out


def test_modules_in_the_working_directory_are_found_after_all_others(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    before = list(sys.path)
    main.search_working_directory()
    main.search_working_directory()
    assert sys.path == [*before, str(tmp_path)]
    assert token_cache.import_environment()["PYTHONPATH"].split(os.pathsep) == [
        *map(os.path.abspath, before),
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "path", ["", *before])
    main.search_working_directory()
    assert sys.path == ["", *before]
    assert token_cache.import_environment()["PYTHONPATH"].startswith(f"{tmp_path}{os.pathsep}")


def test_settings_of_the_user_are_kept(run_command, capsys):
    os.environ["GLIBC_TUNABLES"] = ""
    assert process.start() == 0
    assert os.environ["GLIBC_TUNABLES"] == ""
