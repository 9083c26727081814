"""Checkpoints: bit-equal round trips onto any mesh, complete or absent, and errors that name what does not fit."""

import json
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like import checkpoints, partitioning
from t5x_like.checkpoints import Checkpointer, folder
from t5x_like.checkpoints.checkpointer import Snapshot


def placed(tree, mesh=None, spec=("fsdp",)):
    mesh = mesh or partitioning.make_mesh(data=1, fsdp=8)
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))), tree)


def state(seed=0):
    random = np.random.default_rng(seed)
    params = {
        "layer": {"kernel": random.normal(size=(8, 4)).astype(np.float32)},
        "bias": np.arange(8, dtype=jnp.bfloat16),
    }
    return placed({"params": params, "moments": [np.ones((8, 2), np.float32)], "step": np.int32(3)})


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def saved(directory, *steps, **options):
    checkpointer = Checkpointer(directory, **options)
    for step in steps:
        checkpointer.save(step, state(step), {"data": "abc"}, {"loss": abs(step - 2.0)})
    checkpointer.close()
    return checkpointer


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def test_only_folders_named_by_a_step_are_checkpoints(tmp_path):
    for name in ("3", "12", "007", "²", "٣", "-1", "12.damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / folder.MANIFEST).touch()
    assert checkpoints.complete_steps(tmp_path) == [3, 12]


def test_a_state_is_restored_bit_for_bit_with_its_metadata(tmp_path):
    checkpointer = saved(tmp_path, 1, 2)
    restored, meta = checkpointer.restore(abstract(state()))
    assert_equal(restored, state(2))
    assert restored["params"]["bias"].dtype == jnp.bfloat16 and meta == {"data": "abc"}
    assert_equal(checkpointer.restore(abstract(state()), 1)[0], state(1))


@pytest.mark.parametrize("devices", [1, 4])
def test_a_state_is_restored_onto_another_mesh(tmp_path, devices):
    checkpointer = saved(tmp_path, 1)
    mesh = partitioning.make_mesh(data=1, fsdp=devices, devices=jax.devices()[:devices])
    target = abstract(placed(jax.device_get(state()), mesh))
    restored, _ = checkpointer.restore(target)
    assert restored["params"]["layer"]["kernel"].sharding.mesh == mesh
    assert_equal(restored, state(1))


def test_the_state_can_be_reused_at_once(tmp_path):
    checkpointer, mine = Checkpointer(tmp_path), state(5)
    checkpointer.save(5, mine, {})
    jax.tree.map(lambda x: x.delete(), mine)  # as donation to the next step does
    checkpointer.close()
    assert_equal(checkpointer.restore(abstract(state()))[0], state(5))


def test_a_cpu_copies_a_state_to_pages_that_it_keeps():
    first = {"w": np.arange(1000, dtype=np.float32), "b": np.ones(3, jnp.bfloat16), "none": np.ones((0, 2), np.float32)}
    first = jax.device_put(first, jax.devices()[0])
    second = jax.tree.map(lambda x: x + 1, first)
    snapshot, places = Snapshot(), []
    for mine in (first, second):
        expected, copies = jax.device_get(mine), snapshot.copy(mine)
        assert all(x.sharding == mine[name].sharding for name, x in copies.items())
        jax.tree.map(lambda x: x.delete(), mine)
        assert_equal(copies, expected)
        places.append([x.unsafe_buffer_pointer() for x in copies.values() if x.size])
    assert places[0] == places[1] and np.ptp(places[0]) < 5000  # they were not copied again


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpointer = saved(tmp_path, 1, 2, 3, 4, 5, keep_last=2, keep_best=1)  # the loss is lowest at step 2
    assert checkpointer.steps() == [2, 4, 5]


def test_a_checkpoint_without_a_loss_is_not_the_best(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep_last=1, keep_best=1)
    for step, metrics in ((1, {"loss": 1.0}), (2, None), (3, None)):
        checkpointer.save(step, state(), {}, metrics)
    checkpointer.close()
    assert checkpointer.steps() == [1, 3]


def shorten(path: Path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [shorten, Path.unlink])
def test_a_damaged_checkpoint_is_skipped_whichever_file_is_damaged(tmp_path, harm):
    saved(tmp_path / "whole", 1, 2)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "2").rglob("*") if path.is_file()]
    files = [path for path in files if (tmp_path / "whole" / path).stat().st_size]
    assert len(files) > 5
    for number, name in enumerate(files):
        directory = tmp_path / str(number)
        subprocess.run(["cp", "-r", tmp_path / "whole", directory], check=True)
        harm(directory / name)
        if name.name == folder.MANIFEST and harm is Path.unlink:
            assert checkpoints.latest_step(directory) == 1  # never finished: nothing to warn of
            continue
        with pytest.warns(UserWarning, match=f"checkpoint 2 is damaged: .*{name.name}"):
            assert checkpoints.latest_step(directory) == 1


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    checkpointer, target, random = saved(tmp_path, 1, 2), abstract(state()), np.random.default_rng(0)
    noticed = 0
    for path in (path for path in sorted((tmp_path / "2").rglob("*")) if path.is_file()):
        whole = path.read_bytes()
        bits = random.choice(8 * len(whole), min(24, 8 * len(whole)), replace=False)
        for bit in map(int, bits):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                restored, meta = checkpointer.restore(target, 2)
            except checkpoints.DamagedCheckpointError as error:
                assert path.name in str(error) and "\n" not in str(error)
                noticed += 1
            else:
                assert_equal(restored, state(2))
                assert meta == {"data": "abc"}
        path.write_bytes(whole)
    assert noticed > 200
    assert_equal(checkpointer.restore(target)[0], state(2))


def without_checksums(step: Path):
    """Makes the manifest one of an earlier version."""
    content = json.loads((step / folder.MANIFEST).read_text())
    content = {name: value for name, value in content.items() if name not in ("checksums", "sha256")}
    (step / folder.MANIFEST).write_text(json.dumps(content))


def same_size(step: Path):
    largest = max((path for path in step.rglob("d/*")), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))


def undecodable(step: Path):
    without_checksums(step)
    for path in (step / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))


def damaged_key(step: Path):
    without_checksums(step)
    names = step / "arrays" / "_METADATA"
    names.write_text(names.read_text().replace("params.bias", "params.bIas"))


def damaged_manifest(step: Path):
    (step / folder.MANIFEST).write_text('{"step": 2')


def edited_manifest(step: Path):
    path = step / folder.MANIFEST
    path.write_text(path.read_text().replace('"abc"', '"abd"'))


def a_file_outside(step: Path):
    path, other = step / folder.MANIFEST, step.parent / "1" / folder.MANIFEST
    content = json.loads(path.read_text())
    del content["sha256"]
    content["checksums"]["../1/manifest.json"] = [zlib.crc32(other.read_bytes())]
    path.write_text(json.dumps(content))


HARMS = (same_size, undecodable, damaged_key, damaged_manifest, edited_manifest, a_file_outside)


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(tmp_path, harm):
    checkpointer = saved(tmp_path / "checkpoints", 1, 2)
    params = abstract(state()["params"])
    harm(tmp_path / "checkpoints" / "2")
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged: .*/2/.*reading the previous one"):
        restored, step = checkpoints.restore_params(tmp_path, params)
    assert step == 1
    assert_equal(restored, state(1)["params"])
    with pytest.raises(checkpoints.DamagedCheckpointError, match="/2/"):
        checkpoints.restore_params(tmp_path, params, 2)
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged"):
        restored, _ = checkpointer.restore(abstract(state()))
    assert_equal(restored, state(1))
    assert checkpointer.steps() == [1, 2]  # reading changes nothing
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep_last=2)
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged"):
        checkpointer.restore(abstract(state()))
    checkpointer.save(3, state(3), {})
    checkpointer.close()
    assert checkpointer.steps() == [1, 3]  # a damaged one is not among the newest that are kept
    assert (tmp_path / "checkpoints" / "2.damaged").exists()


def test_without_an_undamaged_checkpoint_an_error_names_the_steps(tmp_path):
    checkpointer = saved(tmp_path / "checkpoints", 1, 2)
    for step in (1, 2):
        same_size(tmp_path / "checkpoints" / str(step))
    for restore in (
        lambda: checkpointer.restore(abstract(state())),
        lambda: checkpoints.restore_params(tmp_path, abstract(state()["params"])),
        lambda: checkpoints.InitializeFrom(str(tmp_path)).restore(state()["params"]),
    ):
        with (
            pytest.warns(UserWarning, match="checkpoint 2 is damaged"),
            pytest.raises(checkpoints.DamagedCheckpointError) as error,
        ):
            restore()
        assert "every checkpoint in" in str(error.value) and "steps 1, 2" in str(error.value)
        assert "\n" not in str(error.value)


def test_checksums_can_be_left_out(tmp_path):
    checkpointer = saved(tmp_path, 1, checksums=False)
    assert folder.manifest(tmp_path / "1")["checksums"] == {}
    saved(tmp_path, 2)
    unread = tmp_path / "2" / "arrays" / "commit_success.txt"
    unread.write_bytes(bytes(unread.stat().st_size))
    with pytest.raises(checkpoints.DamagedCheckpointError, match="commit_success.txt .*its checksum differs"):
        Checkpointer(tmp_path).restore(abstract(state()), 2)
    assert_equal(checkpointer.restore(abstract(state()), 2)[0], state(2))


def test_a_damaged_manifest_does_not_stop_the_saving(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep_last=1, keep_best=1)
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), {}, {"loss": [1.0, 2.0, float("nan")][step - 1]})
        checkpointer.wait()
        if step == 1:
            damaged_manifest(tmp_path / "1")
    checkpointer.close()
    assert checkpointer.steps() == [2, 3]


def test_a_process_killed_while_saving_keeps_the_previous_step(tmp_path):
    program = f"""
import jax.numpy as jnp
from t5x_like.checkpoints import Checkpointer, folder
saved = Checkpointer({str(tmp_path)!r}, keep_last=1000)
for step in range(1, 1000):
    saved.save(step, {{"x": jnp.full((256, 1024), float(step))}}, {{}})
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[1])
    while len(checkpoints.complete_steps(tmp_path)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpointer = Checkpointer(tmp_path)
    step = checkpointer.latest_step()
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    restored, _ = checkpointer.restore({"x": jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=one)})
    assert step >= 3 and (restored["x"] == step).all()
    assert {path.name for path in tmp_path.iterdir()} == {str(s) for s in checkpointer.steps()}


def test_arrays_that_do_not_fit_are_named_with_both_shapes(tmp_path):
    checkpointer = saved(tmp_path, 1)
    other = state()
    other["params"] = placed({"layer": {"kernel": np.zeros((16, 4), np.float32)}, "extra": np.zeros(8, np.float32)})
    with pytest.raises(ValueError) as error:
        checkpointer.restore(abstract(other))
    said = str(error.value)
    assert r"params.layer.kernel: shape (16, 4) in the model, (8, 4) in the checkpoint" in said
    assert "params.extra: missing in the checkpoint" in said
    assert "params.bias: in the checkpoint, not in the model" in said


def test_only_parameters_are_restored_for_inference(tmp_path):
    saved(tmp_path / "checkpoints", 1, 2)
    params, step = checkpoints.restore_params(tmp_path, abstract(state()["params"]))
    assert step == 2
    assert_equal(params, state(2)["params"])
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7"):
        checkpoints.restore_params(tmp_path, abstract(state()["params"]), 7)


def test_parts_are_restored_by_expression(tmp_path):
    saved(tmp_path / "checkpoints", 1)
    fresh = state(9)["params"]
    params, taken, left, source = checkpoints.InitializeFrom(str(tmp_path), include=("layer",)).restore(fresh)
    assert (taken, left) == (["params.layer.kernel"], ["params.bias"])
    assert source == tmp_path / "checkpoints" / "1"
    assert_equal(params["layer"], state(1)["params"]["layer"])
    assert_equal(params["bias"], fresh["bias"])
    with pytest.raises(ValueError, match="'lyer' is found in no parameter's path"):
        checkpoints.InitializeFrom(str(tmp_path), include=("lyer",)).restore(fresh)


def test_errors_of_the_thread_are_raised(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(), {"not json": object()})
    with pytest.raises(TypeError, match="JSON"):
        checkpointer.wait()
    assert checkpointer.steps() == []
    checkpointer.close()


def test_a_manifest_lists_every_file(tmp_path):
    saved(tmp_path, 1)
    listed = json.loads((tmp_path / "1" / folder.MANIFEST).read_text())["files"]
    there = {str(path.relative_to(tmp_path / "1")) for path in (tmp_path / "1").rglob("*") if path.is_file()}
    assert there - set(listed) == {folder.MANIFEST}
