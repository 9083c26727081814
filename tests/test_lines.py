"""Text files are split at line feeds alone, and a byte order mark at the start of a file is no part of its text."""

import tracemalloc

import pytest

from t5x_like import inference, lines

# Every character at which str.splitlines or text mode splits, besides the line feed.
INSIDE = ["a\rb", "a\vb", "a\fb", "a\x1cb\x1db\x1eb", "a\x85b", "a\u2028b\u2029b", "", "\ufeffa", "z"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_at_line_feeds(end, mark, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes((mark + end.join(INSIDE)).encode())
    assert list(lines.read_lines(path)) == INSIDE
    path.write_bytes((mark + end.join(INSIDE) + end).encode())
    assert list(lines.read_lines(path)) == INSIDE


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    assert list(lines.read_lines(tmp_path / "a.txt")) == []


def test_the_mark_is_removed_once(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\ufeffa\n\ufeffb\n".encode())
    assert list(lines.read_lines(tmp_path / "a.txt")) == ["\ufeffa", "\ufeffb"]


def test_invalid_utf8_names_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\nna\xefve\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2 is not UTF-8 text \(invalid continuation byte at byte 2\)"):
        list(lines.read_lines(tmp_path / "a.txt"))


def test_a_file_is_never_held_as_a_whole(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a prompt of some words\n" * 200_000)
    tracemalloc.start()
    count = sum(1 for _ in inference.read_prompts(tmp_path / "a.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200_000 and peak < 500_000
