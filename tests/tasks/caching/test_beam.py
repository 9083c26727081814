"""Caches built with Apache Beam, in a separate environment ($T5X_LIKE_BEAM_PYTHON, see requirements-beam.txt)."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.data.cache.token_cache import TokenCache
from tests.data.cache.cache_builds import MODULE, built, content, warm

REPOSITORY = Path(__file__).parents[3]


def build(python: str, root, task: str, *flags: str) -> subprocess.CompletedProcess:
    command = [python, "-m", "t5x_like.tasks.caching", f"--task={task}", "--split=train", f"--module={MODULE}"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*command, f"--root={root}", *flags], env=environment, capture_output=True, text=True)


@pytest.mark.skipif("T5X_LIKE_BEAM_PYTHON" not in os.environ, reason="$T5X_LIKE_BEAM_PYTHON is not set")
def test_a_cache_from_beam_is_byte_identical_to_a_local_one(tmp_path):
    options = ["--runner=DirectRunner", "--", "--direct_num_workers=1"]
    process = build(os.environ["T5X_LIKE_BEAM_PYTHON"], tmp_path / "beam", "pairs_judged", *options)
    assert process.returncode == 0, process.stderr
    local = built(tmp_path / "local", "pairs_judged")
    theirs = TokenCache("pairs_judged", "train", MODULE, str(tmp_path / "beam"))
    assert content(theirs) == content(local)
    assert len(local.manifest["dropped"]) == 1
    assert [path.name for path in theirs.folder.parent.parent.iterdir() if path.is_dir()] == [theirs.folder.parent.name]


def without_beam(log: Path, root: Path) -> None:
    """In a child process: the building program's `main` if Beam cannot be imported."""
    from t5x_like.tasks.caching import __main__ as program

    sys.modules["apache_beam"] = None
    with open(log, "w") as f, contextlib.redirect_stderr(f):
        flags = ["--task=pairs", "--split=train", f"--module={MODULE}", f"--root={root}", "--runner=DirectRunner"]
        raise SystemExit(program.main(flags))


def test_without_beam_the_error_says_how_to_install_it(tmp_path):
    process = warm.Process(target=without_beam, args=(tmp_path / "log", tmp_path))
    process.start()
    process.join()
    message = (tmp_path / "log").read_text()
    assert process.exitcode == 1
    assert "--runner=DirectRunner needs Apache Beam" in message and "requirements-beam" in message
