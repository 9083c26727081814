"""Changed token caches and checkpoints: read as they were written, or refused; nothing is written outside their folders."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_like.checkpoints import Checkpointer
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from tests import tiny_cache
from tests.fuzz import mutations


def read_rows(cache: TokenCache) -> dict[str, np.ndarray]:
    """A few rows of a cache, and one text."""
    packed = rows.CausalLM(cache, 16)
    flat = cache.tokens("targets")
    cache.vocabulary.decode(np.asarray(flat[:20]).tolist())
    return packed.fetch(np.arange(2), np.zeros(2, np.int64), seed=0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the user's caches, which stays as it is."""
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tiny_cache.write(tmp_path_factory.mktemp("caches"), {"targets": tiny_cache.documents(30)})


@pytest.mark.parametrize("remote", [False, True])
@given(data=st.data())
def test_a_changed_manifest_gives_the_same_rows_or_is_refused(written, home, remote, data):
    right, fingerprint = read_rows(written), written.manifest["fingerprint"]
    changed = data.draw(mutations.json_like(written.manifest))
    for folder in (home / "home", home / "changed"):
        shutil.rmtree(folder, ignore_errors=True)
    root = Path(shutil.copytree(written.root, home / "changed"))
    (root / "tiny" / fingerprint / "train" / "manifest.json").write_text(json.dumps(changed))
    before = set(home.rglob("*"))
    cache = TokenCache("tiny", "train", root=f"file://{root}" if remote else str(root), fingerprint=fingerprint)
    got = mutations.outcome(read_rows, cache)
    if not isinstance(got, Exception):
        jax.tree.map(np.testing.assert_array_equal, got, right)
    assert all(path.is_relative_to(home / "home") for path in set(home.rglob("*")) - before)


def state() -> dict:
    return {"params": {"kernel": np.arange(12.0).reshape(3, 4)}, "moments": [np.ones(3)], "step": np.int32(3)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    checkpointer = Checkpointer(tmp_path_factory.mktemp("checkpoints"))
    for step in (1, 2):
        checkpointer.save(
            step, jax.tree.map(lambda x, step=step: x + step, jax.device_put(state())), {"data": {"seed": 1}}
        )
    checkpointer.close()
    return checkpointer.directory


@pytest.mark.filterwarnings("ignore:checkpoint")
@given(data=st.data())
def test_a_changed_checkpoint_falls_back_or_is_refused(checkpoints, tmp_path_factory, data):
    directory = Path(shutil.copytree(checkpoints, tmp_path_factory.mktemp("changed") / "checkpoints"))
    path = data.draw(st.sampled_from(sorted(path for path in (directory / "2").rglob("*") if path.is_file())))
    content = path.read_bytes()
    if path.name == "manifest.json":
        path.write_text(json.dumps(data.draw(mutations.json_like(json.loads(content)))))
    else:
        path.write_bytes(data.draw(mutations.bytes_like(content)))
    placed = jax.device_put(state())
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed)
    got = mutations.outcome(lambda: Checkpointer(directory).restore(abstract)[0])
    if not isinstance(got, Exception):
        step = int(got["step"]) - 3
        assert step in (1, 2)
        jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(lambda x: x + np.asarray(step, x.dtype), placed))
    shutil.rmtree(directory.parent)
