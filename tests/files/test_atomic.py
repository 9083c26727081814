"""Files and folders appear complete or not at all, with the permissions of the umask; what killed writers left is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.files import atomic

KILLED = """
import os, signal, sys
from t5x_like.files import atomic
with atomic.new_folder(sys.argv[1]) as folder:
    (folder / "part").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_permissions_are_those_of_the_umask(umask, file, folder, tmp_path):
    before = os.umask(umask)
    try:
        with atomic.new_file(tmp_path / "a" / "file") as out:
            out.write(b"x")
        with atomic.new_folder(tmp_path / "b" / "folder") as out:
            (out / "inside").write_text("x")
    finally:
        os.umask(before)
    for name, mode in (("a/file", file), ("b/folder", folder), ("b/folder/inside", file), ("a", folder), ("b", folder)):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic.new_file(tmp_path / "file") as out:
        out.write(b"x")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), atomic.new_folder(tmp_path / "folder") as out:
        (out / "part").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one_only(tmp_path):
    path = tmp_path / "name[1]"  # no glob
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    (abandoned,) = tmp_path.iterdir()
    with atomic.new_folder(path) as one:
        assert not abandoned.exists()
        (one / "a").write_text("one")
        with pytest.raises(OSError, match="not empty"), atomic.new_folder(path) as two:
            (two / "a").write_text("two")
            assert one.exists()  # another process writes it
            path.mkdir()
            (path / "b").write_text("")
        (path / "b").unlink()
    assert [each.name for each in tmp_path.iterdir()] == [path.name] and (path / "a").read_text() == "one"
