"""A build that was killed, or ran out of disk space, resumes; the result equals that of an uninterrupted build."""

import errno
import json
import os
import time
import zlib

import numpy as np
import pytest

from t5x_like.data.cache.journal import CacheWriter, Place
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.cache.tokenizing import join_documents
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.cache.cache_builds import MODULE, built, content, error_of_build, journal, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return content(built(tmp_path_factory.mktemp("uninterrupted"), "long"))


def test_a_build_killed_several_times_equals_an_uninterrupted_one(tmp_path, uninterrupted):
    part_counts = [0]
    for _ in range(3):
        process = start(tmp_path, "long", part_seconds=0, environment={"SLOWLY": "0.1"})
        while process.is_alive() and len(journal(tmp_path, "long")) <= part_counts[-1]:
            time.sleep(0.005)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        if TokenCache("long", "train", MODULE, str(tmp_path)).find() is None:
            part_counts.append(len(journal(tmp_path, "long")))
    assert len(part_counts) > 1 and part_counts == sorted(set(part_counts))
    cache = built(tmp_path, "long")
    assert content(cache) == uninterrupted
    assert cache.manifest["dropped"] == {"made_up.rule": 3}
    assert not list(tmp_path.rglob(".building_*"))


def test_a_full_disk_is_named_and_the_build_resumes_when_there_is_space(tmp_path, uninterrupted):
    message = error_of_build(tmp_path, "long", part_seconds=0, file_limit=8_000_000)
    assert "File too large for" in message and "bytes are free" in message
    assert "it resumes after the last complete part" in message
    assert 0 < journal(tmp_path, "long")[-1]["documents"] < 30
    process = start(tmp_path, "long")
    process.join()
    assert content(TokenCache("long", "train", MODULE, str(tmp_path))) == uninterrupted


def tokens(*documents):
    return {"targets": join_documents("targets", [list(document) for document in documents], ByteVocabulary())}


def writer(folder):
    return CacheWriter(folder, {"targets": np.dtype("uint16")}, examples=False)


def test_an_incomplete_part_is_written_again(tmp_path):
    first = writer(tmp_path)
    for number in range(1, 4):
        first.append(tokens([number] * 5), b"", Place(0, number))
        first.end_part()
    first.close()
    assert writer(tmp_path).documents == 3
    (tmp_path / "journal.jsonl").write_bytes((tmp_path / "journal.jsonl").read_bytes()[:-3])  # a torn line
    assert writer(tmp_path).place == Place(0, 2)
    data = bytearray((tmp_path / "targets.tokens").read_bytes())
    data[12] ^= 1  # of the second part
    (tmp_path / "targets.tokens").write_bytes(data)
    resumed = writer(tmp_path)
    assert resumed.documents == 1 and (tmp_path / "targets.tokens").stat().st_size == 10
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "targets.offsets").stat().st_size == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line["sizes"].update({"../other": 10}) or line["sizes"].pop("targets.tokens"),
        lambda line: line["sizes"].update({"targets.tokens": "10"}),
        lambda line: line.pop("sums"),
        lambda line: line["sums"].clear(),
        lambda line: line.update(place=3),
    ],
)
def test_a_journal_of_another_kind_is_not_resumed(tmp_path, change):
    first = writer(tmp_path)
    first.append(tokens([1] * 5), b"", Place(0, 1))
    first.end_part()
    first.close()
    line = json.loads((tmp_path / "journal.jsonl").read_text()[9:])
    change(line)
    text = json.dumps(line)
    (tmp_path / "journal.jsonl").write_text(f"{zlib.crc32(text.encode()):08x} {text}\n")
    assert writer(tmp_path).documents == 0


def test_a_full_disk_error_names_folder_and_bytes(tmp_path, monkeypatch):
    full = writer(tmp_path)
    monkeypatch.setattr(full.files["targets.tokens"], "file", Full())
    with pytest.raises(OSError, match=rf"No space left on device for {tmp_path}: [\d,]+ bytes are free, 20 are needed"):
        full.append(tokens(range(10)), b"", Place())


class Full:
    """A file on a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
