"""Remote caches: rows equal those of the local cache, a block is fetched once, corruption is reported."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data import rows
from t5x_like.data.cache import checks as cache_checks
from t5x_like.data.cache import mirror
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows.pairs import SentenceOrder
from tests import tiny_cache

BLOCK = 1024
KINDS = {
    "joined": lambda cache: rows.CausalLM(cache, 16),
    "packed": lambda cache: rows.PackedExamples(cache, 32, 48),
    "spans": lambda cache: rows.SpanCorruption(cache, 32, 16),
    "pairs": lambda cache: SentenceOrder(cache, 24),
}


class Ranges(http.server.BaseHTTPRequestHandler):
    """A web server of a folder that supports `Range` and records what it sent."""

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, requested = path.read_bytes(), self.headers.get("Range")
        start, stop = 0, len(content)
        if requested:
            start, stop = (int(bound) for bound in requested.removeprefix("bytes=").split("-"))
            stop = min(stop + 1, len(content))
        self.send_response(206 if requested else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if not head:
            self.wfile.write(content[start:stop])
            self.server.sent.append((path.name, start, stop))

    def log_message(self, *_):
        pass


@pytest.fixture
def small_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(cache_checks, "BLOCK", BLOCK)
    monkeypatch.setattr(mirror, "BLOCK", BLOCK)
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "home"))
    tiny_cache.write_all(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def server(small_blocks):
    web_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    web_server.folder, web_server.sent = small_blocks, []
    threading.Thread(target=web_server.serve_forever, daemon=True).start()
    yield web_server
    web_server.shutdown()


def local(folder, task="tiny"):
    return TokenCache(task, "train", root=str(folder))


def by_http(server, task="tiny"):
    pytest.importorskip("aiohttp")
    pinned = next(server.folder.glob(f"{task}/*/train")).parent.name
    return TokenCache(task, "train", root=f"http://127.0.0.1:{server.server_port}", fingerprint=pinned)


def in_memory(folder, task="tiny"):
    """The same cache in fsspec's memory file system."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.put(f"{folder}/", "/bucket/", recursive=True)
    return TokenCache(task, "train", root="memory://bucket")


def sent_tokens(server):
    return [(start, stop) for name, start, stop in server.sent if name == "targets.tokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_remote_cache_equal_those_of_the_local_one(kind, small_blocks):
    task = "pairs" if kind == "packed" else "tiny"
    here, there = KINDS[kind](local(small_blocks, task)), KINDS[kind](in_memory(small_blocks, task))
    assert here.fingerprint == there.fingerprint and len(here) == len(there)
    index_n = np.arange(len(here))[::-2]
    ours, theirs = (data.fetch(index_n, np.zeros_like(index_n), 3) for data in (here, there))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_only_what_is_read_is_fetched_and_only_once(server):
    cache = by_http(server)
    first = rows.CausalLM(cache, 16).fetch(np.arange(3), np.zeros(3, int), 0)
    assert sent_tokens(server) == [(0, BLOCK)]
    again = rows.CausalLM(by_http(server), 16).fetch(np.arange(3), np.zeros(3, int), 0)
    assert sent_tokens(server) == [(0, BLOCK)]
    np.testing.assert_array_equal(first["decoder_target_tokens"], again["decoder_target_tokens"])
    assert np.array_equal(np.asarray(cache.tokens("targets")), local(server.folder).tokens("targets"))
    size = local(server.folder).manifest["files"]["targets.tokens"]["bytes"]
    assert sorted(sent_tokens(server)) == [(k, min(k + BLOCK, size)) for k in range(0, size, BLOCK)]
    cache.verify()


def test_indexing_a_remote_array_equals_indexing_the_array(small_blocks):
    here, there = (of(small_blocks).tokens("targets") for of in (local, in_memory))
    count = len(here) // 7
    for index in (
        lambda x: x[5],
        lambda x: x[-3:],
        lambda x: x[100:900:7],
        lambda x: x[[-1, 4, 4]],
        lambda x: x[1000:5000][np.arange(6).reshape(2, 3) * 600],
        lambda x: x[: count * 7].reshape(count, 7)[np.array([3, 500, 2])],
        lambda x: x[np.arange(len(x)) % 1000 == 3],
        lambda x: x.take(np.array([[3, 10**9]]), mode="clip"),
    ):
        np.testing.assert_array_equal(np.asarray(index(there)), index(here))


def test_a_corrupt_block_is_named_by_url_and_bytes(server):
    path = next(server.folder.glob("tiny/*/train/targets.tokens"))
    cache = by_http(server)
    content = bytearray(path.read_bytes())
    content[BLOCK + 5] ^= 1
    path.write_bytes(content)
    assert len(cache.tokens("targets")[:10])
    cache.tokens("targets")[np.arange(10)]
    with pytest.raises(
        ValueError, match=rf"http://127.*targets.tokens, bytes {BLOCK}-{2 * BLOCK - 1} \(block 1 of \d+\)"
    ):
        cache.tokens("targets")[np.arange(BLOCK)]


def test_processes_may_fetch_concurrently(server):
    cache = by_http(server)
    program = f"""
import sys, zlib
import numpy as np
from t5x_like.data.cache import checks as cache_checks, mirror as cache_mirror
cache_checks.BLOCK = cache_mirror.BLOCK = {BLOCK}
from t5x_like.data.cache.token_cache import TokenCache
cache = TokenCache("tiny", "train", root={cache.root!r}, fingerprint={cache.fingerprint!r})
ids = cache.tokens("targets")
order = np.random.default_rng(0).permutation(len(ids))
assert len(ids[order]) == len(ids)
print(zlib.crc32(np.asarray(ids)))
"""
    run = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    both = [run([sys.executable, "-c", program]) for _ in range(2)]
    outputs = {process.communicate()[0] for process in both}
    assert len(outputs) == 1 and all(process.returncode == 0 for process in both)
    assert np.array_equal(np.asarray(cache.tokens("targets")), local(server.folder).tokens("targets"))


def test_a_missing_remote_cache_is_reported(small_blocks):
    in_memory(small_blocks)
    with pytest.raises(FileNotFoundError, match=r"no token cache absent/\*/train/manifest.json at memory://bucket"):
        TokenCache("absent", "train", root="memory://bucket").ensure()


def test_a_copied_cache_is_verified_once(small_blocks, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", small_blocks, tmp_path / "copy"], check=True)
    checked = []
    monkeypatch.setattr(cache_checks, "check_files", lambda folder, files: checked.append(folder))
    copies = [local(tmp_path / "copy") for _ in range(2)]
    assert [cache.manifest["task"] for cache in copies] == ["tiny", "tiny"]
    assert checked == [copies[0].folder]
    tokens = copies[0].folder / "targets.tokens"
    tokens.write_bytes(tokens.read_bytes())
    assert local(tmp_path / "copy").manifest and len(checked) == 2
