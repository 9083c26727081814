"""Runs with frozen parameters: checkpoints hold the trained ones and name the source of the others."""

import json
import shutil

import jax
import numpy as np
import pytest

from t5x_like import checkpoints, partitioning
from t5x_like.parameters import Freeze
from tests import tiny
from tests.training.test_trainer import arguments, arrays, logged

BODY = Freeze(("^(embed|decoder)/",))


@pytest.fixture(scope="module")
def base(tiny_root, tmp_path_factory):
    """The run that the other runs start from."""
    run_dir = tmp_path_factory.mktemp("frozen") / "base"
    tiny.train(**arguments(tiny_root, run_dir, steps=3))
    return run_dir


def tune(root, base, run_dir, steps=6, **changes):
    start = checkpoints.InitializeFrom(str(base))
    options = dict(steps=steps, transform=BODY, initialize_from=start, checkpoint_every=2) | changes
    return tiny.train(**arguments(root, run_dir, **options))


def record(run_dir):
    step = checkpoints.latest_step(run_dir / "checkpoints")
    return json.loads((run_dir / "checkpoints" / str(step) / "manifest.json").read_text())["meta"]["frozen"]


def all_parameters(run_dir):
    """{name: array} of the run's model, read as evaluation and inference read it."""
    model = arguments(".", ".", train_rows=None, eval_rows=None)["model"]
    shapes = jax.eval_shape(lambda: tiny.init(model, tiny.batch()))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
    return checkpoints.leaves_by_name(jax.device_get(checkpoints.restore_params(run_dir, abstract)[0]))


def test_checkpoints_hold_the_trained_parameters_and_name_the_source(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "tuned")
    stored, before = arrays(tmp_path / "tuned"), arrays(base)
    assert {name.split(".")[1] for name in stored if name.startswith("params.")} == {"head"}
    assert record(tmp_path / "tuned")["folder"] == str(base / "checkpoints" / "3")
    after = all_parameters(tmp_path / "tuned")
    for name, x in after.items():
        same = np.array_equal(x, before[f"params.{name}"])
        assert same == (not name.startswith("head.")), name


def test_a_resumed_run_equals_the_uninterrupted_one(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "whole")
    tune(tiny_root, base, tmp_path / "parts", steps=2)
    mesh = partitioning.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
    tune(tiny_root, base, tmp_path / "parts", steps=4)
    tune(tiny_root, base, tmp_path / "parts")
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "parts"), arrays(tmp_path / "whole"))
    tune(tiny_root, base, tmp_path / "moved", steps=4)
    tune(tiny_root, base, tmp_path / "moved", mesh=mesh)
    np.testing.assert_allclose(
        list(logged(tmp_path / "moved").values()), list(logged(tmp_path / "whole").values()), rtol=1e-5
    )


def test_frozen_parameters_without_a_source_are_saved_in_the_run_directory(tiny_root, tmp_path):
    """Fresh frozen parameters are written once, and found again when the run directory has moved."""
    tiny.train(**arguments(tiny_root, tmp_path / "run", steps=2, transform=BODY, checkpoint_every=1))
    assert record(tmp_path / "run")["folder"] == "frozen"
    before = all_parameters(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    jax.tree.map(np.testing.assert_array_equal, all_parameters(tmp_path / "elsewhere"), before)
    tiny.train(**arguments(tiny_root, tmp_path / "elsewhere", steps=4, transform=BODY, checkpoint_every=1))
    after = all_parameters(tmp_path / "elsewhere")
    assert all(np.array_equal(after[name], before[name]) != name.startswith("head.") for name in before)


def test_another_run_can_start_from_a_run_with_frozen_parameters(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "first", steps=2)
    tune(tiny_root, tmp_path / "first", tmp_path / "second", steps=2, transform=Freeze(("^(decoder|head)/",)))
    first, second = all_parameters(tmp_path / "first"), all_parameters(tmp_path / "second")
    assert all(np.array_equal(first[name], second[name]) != name.startswith("embed.") for name in first)


def test_a_changed_or_missing_source_is_refused(tiny_root, base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    tune(tiny_root, tmp_path / "base", tmp_path / "tuned", steps=2)
    shutil.rmtree(tmp_path / "base")
    tiny.train(**arguments(tiny_root, tmp_path / "base", steps=3, seed=1))
    for action in (
        lambda: tune(tiny_root, tmp_path / "base", tmp_path / "tuned"),
        lambda: all_parameters(tmp_path / "tuned"),
    ):
        with pytest.raises(
            ValueError, match=r"frozen parameters of .*tuned come from .*base/checkpoints/3, whose arrays"
        ):
            action()
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match=r"base/checkpoints/3, which is missing; restore it"):
        all_parameters(tmp_path / "tuned")
