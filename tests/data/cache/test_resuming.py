"""A build that was killed, or ran out of room, goes on where it was, and what comes out is what comes of one go."""

import errno
import os
import time

import pytest

from t5x_like.data.cache import journal as cache_journal
from t5x_like.data.cache.journal import Place, Writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.cache.tokenizing import joined
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.cache.cache_builds import MODULE, built, complaint, content, journal, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return content(built(tmp_path_factory.mktemp("uninterrupted"), "long"))


def test_killed_at_several_moments_and_run_again_it_equals_one_go(tmp_path, uninterrupted):
    seen = [0]
    for _ in range(3):
        process = start(tmp_path, "long", part_seconds=0, environment={"SLOWLY": "0.1"})
        while process.is_alive() and len(journal(tmp_path, "long")) <= seen[-1]:
            time.sleep(0.005)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        if TokenCache("long", "train", MODULE, str(tmp_path)).find() is None:
            seen.append(len(journal(tmp_path, "long")))
    assert len(seen) > 1 and seen == sorted(set(seen))
    cache = built(tmp_path, "long")
    assert content(cache) == uninterrupted
    assert cache.manifest["dropped"] == {"made_up.rule": 3}
    assert not list(tmp_path.rglob(".building_*"))


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(tmp_path, uninterrupted):
    said = complaint(tmp_path, "long", part_seconds=0, file_limit=8_000_000)
    assert "File too large for" in said and "bytes are free" in said and "it goes on from the last whole part" in said
    assert 0 < journal(tmp_path, "long")[-1]["documents"] < 30
    process = start(tmp_path, "long")
    process.join()
    assert content(TokenCache("long", "train", MODULE, str(tmp_path))) == uninterrupted


def tokens(*documents):
    return {"targets": joined("targets", [list(one) for one in documents], ByteVocabulary())}


def writer(folder):
    return Writer(folder, {"targets": cache_journal.np.dtype("uint16")}, examples=False)


def test_a_part_that_is_not_whole_is_written_again(tmp_path):
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
    again = writer(tmp_path)
    assert again.documents == 1 and (tmp_path / "targets.tokens").stat().st_size == 10
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "targets.offsets").stat().st_size == 16


def test_no_room_names_folder_and_bytes(tmp_path, monkeypatch):
    full = writer(tmp_path)
    monkeypatch.setattr(full.files["targets.tokens"], "file", Full())
    with pytest.raises(OSError, match=rf"No space left on device for {tmp_path}: [\d,]+ bytes are free, 20 were to be"):
        full.append(tokens(range(10)), b"", Place())


class Full:
    """A file on a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
