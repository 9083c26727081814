"""Ctrl-C and SIGTERM: the first ends the work in order, a second Ctrl-C ends the process at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_like import interrupts

PROGRAM = """
import hashlib, sys, threading, time
from t5x_like import interrupts
try:
    with interrupts.program():
        threading.Timer(0.2, print, ["ready"], {{"flush": True}}).start()
        {body}
except interrupts.Interrupted as interrupt:
    print(str(interrupt), flush=True)
    sys.exit(interrupt.exit_code)
"""


def start(body: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_program_with_its_code(number, code):
    process = start("with interrupts.explain('kept'): time.sleep(60)")
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("kept\n", "") and process.returncode == code


def test_a_second_ctrl_c_ends_the_process_at_once_while_the_main_thread_computes():
    process = start("hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)")  # runs no handler, like a compilation
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopping; Ctrl-C again ends at once\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_an_import_is_raised_after_it(tmp_path, number, code):
    (tmp_path / "slow.py").write_text(
        "import time\nprint('ready', flush=True)\ntime.sleep(2)\nprint('whole', flush=True)\n"
    )
    body = f"sys.path.append({str(tmp_path)!r})\n        with interrupts.explain('kept'): import slow; time.sleep(60)"
    process = start(body)
    process.send_signal(number)
    assert process.stderr.readline() == "stopping; Ctrl-C again ends at once\n"
    assert process.communicate(timeout=20)[0].endswith("whole\nkept\n") and process.returncode == code


def test_a_second_ctrl_c_ends_an_import(tmp_path):
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = start(f"sys.path.append({str(tmp_path)!r}); import slow")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopping; Ctrl-C again ends at once\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_the_first_signal_is_postponed_and_the_second_ctrl_c_raised(monkeypatch):
    before = signal.getsignal(signal.SIGINT)  # ignored, if the tests run in the background of a shell
    with pytest.raises(interrupts.Interrupted), interrupts.postpone() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # a wrapper that repeats signals
        assert request.number == signal.SIGTERM
        monkeypatch.setattr(interrupts, "REPEAT_SECONDS", 0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before
