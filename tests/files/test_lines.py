"""Text files are split at line feeds alone, and a byte order mark at the start of a file is no part of its text.

However a file of JSON records ends, appending loses no whole line and changes none; a bad line is skipped with a warning.
"""

import json
import tracemalloc
import warnings

import pytest

from t5x_like import prompt_batches
from t5x_like.files import lines

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
    count = sum(1 for _ in prompt_batches.read_prompts(tmp_path / "a.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200_000 and peak < 500_000


RECORDS = [{"step": 1, "text": "é\u2028\x85"}, {"step": 2, "nested": {"a": [1, "}"]}}, {"step": 3}]
WHOLE = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in RECORDS).encode()


def test_a_file_cut_anywhere_is_repaired_at_its_end(tmp_path):
    path, ends = tmp_path / "a.jsonl", [i for i, byte in enumerate(WHOLE) if byte == ord("\n")]
    for size in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:size])
        kept = RECORDS[: sum(end <= size for end in ends)]  # a line that lacks only its end is whole
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert list(lines.read_records(path)) == kept
            lines.append_record(path, {"new": size})
            assert list(lines.read_records(path)) == [*kept, {"new": size}]
        assert path.read_bytes().startswith(WHOLE[: len(path.read_bytes()) - len(f'{{"new": {size}}}\n')])


@pytest.mark.parametrize("bad", [b'{"step": 2', b"\0\0\0\0", b"[1]", b'{"a": "\xff"}', b"[" * 100_000, b""])
def test_a_bad_line_is_skipped_and_said(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 3}\n')
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=r"a.jsonl, line 2: skipped, not a JSON object"):
        assert list(lines.read_records(path)) == [{"step": 1}, {"step": 3}]
    lines.append_record(path, {"step": 4})
    assert path.read_bytes() == before + b'{"step": 4}\n'


def test_a_last_line_longer_than_a_block_is_removed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"\0" * (3 * lines.BLOCK))
    lines.append_record(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_missing_file_is_empty(tmp_path):
    assert list(lines.read_records(tmp_path / "a.jsonl")) == []
    lines.append_record(tmp_path / "a.jsonl", {"step": 1})
    assert list(lines.read_records(tmp_path / "a.jsonl")) == [{"step": 1}]
