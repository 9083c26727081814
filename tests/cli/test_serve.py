"""`t5x_like serve`: who may ask is decided before anything is opened; mistakes are one line."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from t5x_like.cli import main, opening
from t5x_like.serving.http.keys import Keys
from tests import tiny
from tests.cli.test_hf import folder  # noqa: F401 - a fixture


def serve(capsys, *flags):
    """(exit code, standard output, standard error)."""
    code = main.main(["serve", *flags])
    return code, *capsys.readouterr()


def test_a_new_key_is_printed_and_its_hash_is_kept(tmp_path, capsys):
    path = tmp_path / "keys.jsonl"
    code, key, note = serve(capsys, f"--api_keys_file={path}", "--new_api_key=ann")
    assert code == 0 and key.strip() not in path.read_text() and "shown once" in note
    assert Keys.load(path).owner(key.strip()) == "ann" and json.loads(path.read_text())["name"] == "ann"


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "give --run_dir"),
        (["--run_dir=x", "--host=0.0.0.0"], "--host=0.0.0.0 lets other machines ask; give --api_keys_file"),
        (["--run_dir=x", "--host=::"], "lets other machines ask"),
        (["--run_dir=x", "--api_keys_file=a", "--without_api_keys"], "exclude each other"),
        (["--new_api_key=a"], "--new_api_key needs --api_keys_file"),
        (["--run_dir=x", "--port=70000"], "--port: 70000 is not 0 to 65535"),
        (["--run_dir=/nowhere", "--port=0"], "/nowhere does not exist; give a run directory"),
        (["--run_dir=/nowhere", "--port=0", "--host=nowhere.invalid", "--without_api_keys"], "cannot be listened on"),
        (["--run_dir=/nowhere", "--port=0", "--slots=0"], "0 is not 1 or more"),
    ],
)
def test_mistakes_are_one_line(given, message, capsys):
    code, _, error = serve(capsys, *given)
    assert code == 2 and message in error and error.count("\n") <= 2


def test_a_port_in_use_and_an_empty_file_of_keys(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, error = serve(capsys, "--run_dir=/nowhere", f"--port={taken.getsockname()[1]}")
    assert code == 2 and "Address already in use" in error
    (tmp_path / "keys").touch()
    code, _, error = serve(capsys, "--run_dir=/nowhere", f"--api_keys_file={tmp_path / 'keys'}")
    assert code == 2 and "has no API key" in error


def test_a_missing_library_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, error = serve(capsys, "--run_dir=/nowhere")
    assert code == 2 and "serve needs the library uvicorn: pip install 't5x_like[serve]'" in error


@pytest.mark.parametrize("flag", ["--max_length=64", "--prefix", "--warm_up", "--quantization=int8"])
def test_flags_of_decoding_are_refused_for_a_model_without_a_decoder(flag, monkeypatch, capsys):
    monkeypatch.setattr(opening, "open_model", lambda *_: (tiny.encoder(), None, None, None, None))
    code, _, error = serve(capsys, "--run_dir=x", "--port=0", flag)
    name = flag.partition("=")[0]
    assert code == 2 and f"{name} is for decoding, but x has no decoder; leave it out" in error


@pytest.fixture
def server(folder):  # noqa: F811
    """The process of a server of a tiny model, and its address."""
    flags = [f"--run_dir={folder}", "--port=0", "--slots=2", "--max_length=64", "--model_name=tiny", "--compile_cache="]
    flags += ["--warm_up"]
    command = [sys.executable, "-m", "t5x_like", "serve", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first, example = process.stdout.readline(), process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", first)[0]
        assert first.startswith("tiny is served at") and f"curl {url}/v1/completions" in example
        yield process, url
        process.kill()


def test_sigterm_ends_the_server_after_the_accepted_requests(server):
    process, url = server
    assert httpx.get(f"{url}/health").json() == {"status": "ready"}
    body = {"model": "tiny", "prompt": "a b c", "max_tokens": 50, "temperature": 0, "ignore_eos": True}
    expected = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"]
    answers = []
    ask = lambda: answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    while "t5x_like_engine_waiting 0.0" in httpx.get(f"{url}/metrics").text and len(answers) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    output, error = process.communicate(timeout=30)
    assert process.returncode == 143 and "the accepted requests were answered" in error and not output
    accepted = [answer.json()["choices"] for answer in answers if answer.status_code == 200]
    assert len(accepted) >= 2 and all(choices == expected for choices in accepted)
    assert {answer.status_code for answer in answers} <= {200, 503}
