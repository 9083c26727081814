"""Locks: one holder at a time, whose name the others are told; a killed holder never blocks the next."""

import dataclasses
import json
import os
import threading
import time

import pytest

from t5x_like import locks
from tests import locked


def write(path, **changes):
    """Writes a lock of this process, with changes."""
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(locks.this_process(), **changes))))


def test_a_second_process_is_refused_and_told_the_holder(tmp_path):
    path = tmp_path / "run" / "lock"
    with locked.by_another_process(path) as process:
        for refuse in (locks.hold(path, "run_dir=x").__enter__, lambda: locks.check_free(path, "run_dir=x")):
            with pytest.raises(
                locks.LockedError, match=rf"run_dir=x .*process {process.pid} on .*kill .*remove {path}"
            ):
                refuse()
        assert locks.find_holder(path).pid == process.pid
        process.communicate("\n")
    assert not path.exists() and not path.parent.exists()
    with locks.hold(path, "run_dir=x"):
        assert locks.find_holder(path).pid == os.getpid()


def test_a_killed_holder_does_not_block_even_before_its_parent_knows(tmp_path):
    with locked.by_another_process(tmp_path / "lock") as process:
        process.kill()
        while locks.find_holder(tmp_path / "lock") is not None:  # a zombie: nobody waited for it
            time.sleep(0.001)
        assert process.returncode is None
        with locks.hold(tmp_path / "lock", "x"):
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_an_incomplete_lock_is_free(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with locks.hold(tmp_path / "lock", "x"):
        pass


def test_a_reused_process_id_is_another_process(tmp_path):
    write(tmp_path / "lock", pid=os.getppid(), started="1")
    assert locks.find_holder(tmp_path / "lock") is None
    write(tmp_path / "lock", pid=os.getppid(), started=locks.process_start(os.getppid()))
    assert locks.find_holder(tmp_path / "lock") is not None


def test_a_lock_of_another_host_is_stale_if_it_is_not_renewed(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    write(path, host="far", machine="far")
    os.utime(path, (time.time() - 61,) * 2)
    assert locks.find_holder(path) is None
    os.utime(path)
    assert locks.find_holder(path).host == "far"
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.2)  # its process has ended: it is waited for, then taken over
    with locks.hold(path, "x"):
        assert locks.find_holder(path).host != "far"


def test_a_live_holder_on_another_host_is_seen_to_renew(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    write(path, host="far", machine="far")
    alive = threading.Timer(0.1, os.utime, [path])
    alive.start()
    with pytest.raises(locks.LockedError, match="on far since .*stop it on far"):
        locks.hold(path, "x").__enter__()


def test_a_holder_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    with locks.hold(tmp_path / "lock", "x"):
        os.utime(tmp_path / "lock", (0, 0))
        while not (tmp_path / "lock").stat().st_mtime:
            time.sleep(0.005)


def test_a_thread_may_hold_its_lock_again_another_thread_may_not(tmp_path):
    refused = []

    def other():
        with pytest.raises(locks.LockedError):
            locks.hold(tmp_path / "lock", "x").__enter__()
        refused.append(True)

    with locks.hold(tmp_path / "lock", "x"):
        with locks.hold(tmp_path / "lock", "x"):
            locks.check_free(tmp_path / "lock", "x")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused and not (tmp_path / "lock").exists()


def test_a_lock_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    with (
        locked.by_another_process(tmp_path / "lock"),
        locks.hold(tmp_path / "lock", "x", lambda holder: os.kill(holder.pid, 9)),
    ):
        assert locks.find_holder(tmp_path / "lock").pid == os.getpid()


def test_a_removed_lock_is_not_the_holders_any_more(tmp_path):
    with locks.hold(tmp_path / "lock", "x"):
        write(tmp_path / "lock", host="far", machine="far")
    assert (tmp_path / "lock").exists()


def test_links_to_a_file_have_its_lock(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "out.jsonl")
    expected = tmp_path.resolve() / "sub" / ".out.jsonl.lock"
    assert locks.beside(tmp_path / "link") == locks.beside(tmp_path / "sub" / "out.jsonl") == expected
