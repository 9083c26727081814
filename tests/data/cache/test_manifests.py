"""A manifest is data from elsewhere: it names only files of its cache, imports nothing, and its counts bound what is read."""

import contextlib
import copy
import json
import sys

import numpy as np
import pytest

from t5x_like.data.cache import manifests, sources, token_cache
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.file_names import check_name
from tests import tiny_cache
from tests.data.cache.test_mirror import Ranges, by_http, server, small_blocks  # noqa: F401

BAD_NAMES = ("../x", "a/../../x", "/etc/x", "a\\b", "a//b", "", "a b", "ä", "~/x", "a/./b", "a\n", 3, None)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_stay_below_their_folder(name):
    with pytest.raises(ValueError, match="manifest contains the file name"):
        check_name(name, "manifest")


@pytest.mark.parametrize("name", ["a", "targets.tokens", "vocabulary/vocabulary.json", "..a", "a-b/C_9"])
def test_plain_names_are_returned(name):
    assert check_name(name, "manifest") == name


@contextlib.contextmanager
def changed(path):
    """Yields the content of a manifest, and writes it back as it is changed."""
    manifest = json.loads(path.read_text())
    yield manifest
    path.write_text(json.dumps(manifest))


def files_before(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../../../../evil.py", "/tmp/evil.py", "..\\evil.py", "vocabulary/../../x"])
def test_a_remote_manifest_writes_nothing_outside_its_mirror(name, server, tmp_path):  # noqa: F811
    with changed(next(server.folder.glob("tiny/*/train/manifest.json"))) as manifest:
        manifest["files"][name] = manifest["files"]["vocabulary/vocabulary.json"]
    before = files_before(tmp_path)
    with pytest.raises(ValueError, match=r"http://127.*manifest.json\).* contains the file name"):
        _ = by_http(server).vocabulary
    assert files_before(tmp_path) == before and not [name for name, _, _ in server.sent if "evil" in name]


def test_a_remote_file_is_not_larger_than_its_manifest_says(server):  # noqa: F811
    cache = by_http(server)
    path = next(server.folder.glob("tiny/*/train/targets.tokens"))
    path.write_bytes(path.read_bytes() + bytes(10**6))
    with pytest.raises(ValueError, match=r"targets.tokens has \d+ bytes instead of at most \d+"):
        np.asarray(cache.tokens("targets"))
    assert not [name for name, _, _ in server.sent if name == "targets.tokens"]


def test_a_file_cannot_pose_as_the_map_of_local_blocks(server):  # noqa: F811
    with changed(next(server.folder.glob("tiny/*/train/manifest.json"))) as manifest:
        manifest["files"]["targets.tokens.blocks"] = manifest["files"]["vocabulary/vocabulary.json"]
    with pytest.raises(ValueError, match="named as the maps of local blocks: targets.tokens.blocks"):
        _ = by_http(server).manifest


@pytest.fixture
def manifest(tiny_root):
    return copy.deepcopy(TokenCache("tiny", "train", root=str(tiny_root)).manifest)


CHANGES = {
    "no object": lambda m: 3,
    "a missing entry": lambda m: m.pop("documents"),
    "documents": lambda m: m.update(documents=m["documents"] + 1),
    "negative documents": lambda m: m.update(documents=-1),
    "tokens": lambda m: m["features"]["targets"].update(tokens=10**12),
    "dtype": lambda m: m["features"]["targets"].update(dtype="object"),
    "a feature that is a path": lambda m: m["features"].update({"../x": m["features"]["targets"]}),
    "blocks": lambda m: m["files"]["targets.tokens"].update(bytes=10**15),
    "a file without blocks": lambda m: m["files"]["targets.tokens"].pop("blocks"),
    "no vocabulary": lambda m: m["files"].pop("vocabulary/vocabulary.json"),
    "vocab_size": lambda m: m.update(vocab_size=10**12),
    "a module that is a path": lambda m: m["inputs"].update(modules={"../../x": "0"}),
    "a package that is a path": lambda m: m["inputs"].update(versions={"../x": "0"}),
    "examples": lambda m: m.update(metrics=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_contradicts_itself_is_refused(change, manifest):
    result = CHANGES[change](manifest)
    with pytest.raises(ValueError, match="there/manifest.json"):
        manifests.parse(json.dumps(result if isinstance(result, int) else manifest), "there/manifest.json")


def test_the_modules_of_a_manifest_are_hashed_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "loud" / "part.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sources.locate("loud.part") == tmp_path / "loud" / "part.py"
    assert token_cache.source_hash("loud.part") == token_cache.file_hash(tmp_path / "loud" / "part.py")
    assert sources.locate("loud.absent") is None and sources.locate("absent.part") is None
    assert "loud" not in sys.modules


def test_the_patterns_of_a_remote_manifest_are_not_searched_here(small_blocks, monkeypatch):  # noqa: F811
    import fsspec

    path = next(small_blocks.glob("tiny/*/train/manifest.json"))
    with changed(path) as manifest:
        manifest["inputs"]["data"] = {"/**": token_cache.data_hash("/nowhere/*")}
        manifest["fingerprint"] = token_cache.fingerprint_of(manifest["inputs"])
    fsspec.filesystem("memory").put(f"{small_blocks}/", "/searched/", recursive=True)
    monkeypatch.setattr(token_cache, "data_hash", lambda pattern: pytest.fail(f"searched {pattern}"))
    with pytest.raises(FileNotFoundError, match="required for .* tasks over files"):
        TokenCache("tiny", "train", root="memory://searched").ensure()


def test_a_damaged_manifest_is_not_fresh_and_named_if_pinned(tmp_path):
    cache = tiny_cache.write(tmp_path, {"targets": ["a text"]})
    fingerprint = cache.manifest["fingerprint"]
    (cache.folder / "manifest.json").write_text("{}")
    assert TokenCache("tiny", "train", root=str(tmp_path)).find() is None
    with pytest.raises(ValueError, match="manifest.json is not a manifest of a token cache: .*'files' is missing"):
        TokenCache("tiny", "train", root=str(tmp_path), fingerprint=fingerprint).find()


@pytest.mark.parametrize("content", ["[1]", "{}", '{"kind": "bytes"}', '{"kind": "tokenizer", "os": 1}'])
def test_a_damaged_vocabulary_is_named(content, tmp_path):
    from t5x_like.data.tokenizers import loading

    (tmp_path / "vocabulary.json").write_text(content)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="vocabulary.json"):
        loading.load(tmp_path)
