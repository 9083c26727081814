"""Runs with adapters: optimizer, checkpoints and FLOPs see them alone; what reads a run reads the updated model."""

import jax
import numpy as np
import pytest

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.checkpoints import frozen
from t5x_like.parameters import Freeze
from t5x_like.peft.ia3 import IA3
from t5x_like.peft.lora import LoRA
from t5x_like.quantization.weights import size_in_bytes
from tests import tiny
from tests.training.test_frozen import record
from tests.training.test_step import MESH, build
from tests.training.test_trainer import arguments, arrays, logged

LORA = LoRA(("mixer/(query|value)/kernel$", "head/table"), rank=2)
TRAINED = 2 * (2 * 2 * (32 + 32) + (2 * 384 + 2 * 32) // 2)


@pytest.fixture(scope="module")
def base(tiny_root, tmp_path_factory):
    """The run that the other runs start from."""
    run_dir = tmp_path_factory.mktemp("peft") / "base"
    tiny.train(**arguments(tiny_root, run_dir, steps=3))
    return run_dir


def tune(root, base, run_dir, steps=4, transform=LORA, **changes):
    start = checkpoints.InitializeFrom(str(base))
    options = dict(steps=steps, transform=transform, initialize_from=start, checkpoint_every=2) | changes
    return tiny.train(**arguments(root, run_dir, **options))


def read(run_dir, transform):
    """The model's parameters of a run, as `infer` and `eval` read them."""
    model = arguments(".", ".", train_rows=None, eval_rows=None)["model"]
    boxed = jax.eval_shape(model.init, jax.random.key(0), tiny.batch())["params"]
    parts = parameters.split_abstract(transform, boxed)
    trained, fixed = (parameters.abstract(x, partitioning.shardings(x, MESH)) for x in parts)
    params, rest, _ = checkpoints.restore_parts(run_dir, trained, fixed)
    return checkpoints.leaves_by_name(jax.device_get(parameters.plain(transform.merge(params, rest))))


def test_checkpoints_and_the_optimizer_hold_the_adapters_alone(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "tuned")
    stored, before = arrays(tmp_path / "tuned"), arrays(base)
    adapters = {name for name in stored if name.startswith("params.")}
    assert all("@lora" in name for name in adapters) and len(adapters) == 2 * 5
    elements = sum(stored[name].size for name in adapters)
    assert elements == TRAINED
    assert sum(x.size for x in stored.values()) < 3 * elements + 8  # two moments, the step, the key and the rate
    assert record(tmp_path / "tuned")["folder"] == str(base / "checkpoints" / "3")
    after = read(tmp_path / "tuned", LORA)
    assert set(after) == {name.removeprefix("params.") for name in before if name.startswith("params.")}
    for name, x in after.items():
        adapted = "query.kernel" in name or "value.kernel" in name or name == "head.table"
        assert np.array_equal(x, before[f"params.{name}"]) != adapted, name


def test_a_resumed_run_equals_the_uninterrupted_one_on_another_mesh_too(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "whole")
    tune(tiny_root, base, tmp_path / "parts", steps=2)
    tune(tiny_root, base, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "parts"), arrays(tmp_path / "whole"))
    mesh = partitioning.make_mesh(data=2, fsdp=2, tensor=2)
    tune(tiny_root, base, tmp_path / "split", mesh=mesh)
    losses = [list(logged(tmp_path / name).values()) for name in ("split", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_run_that_would_leave_out_the_adapters_is_refused(tiny_root, base, tmp_path):
    tune(tiny_root, base, tmp_path / "first", steps=2)
    with pytest.raises(ValueError, match=r"arrays that its transform added .*@lora.*t5x_like merge RUN_DIR"):
        tune(tiny_root, tmp_path / "first", tmp_path / "second", transform=Freeze())
    assert not (tmp_path / "second" / "checkpoints").exists() or not list(
        (tmp_path / "second" / "checkpoints").glob("*/*")
    )
    with pytest.raises(ValueError, match="arrays that its transform added"):
        read(tmp_path / "first", Freeze())


@pytest.mark.parametrize(
    "transform", [LoRA(("(query|value)/kernel$",), rank=2), LoRA(("value",), 2, magnitudes=True), IA3()]
)
def test_frozen_parameters_cost_no_gradient_and_stay_bitwise(transform):
    """A step costs the forward pass and the gradient of activations: below 3/4 of the full step, adapters included."""
    model = tiny.decoder(repeats=4)
    flops = {}
    for name, each in (("full", Freeze()), ("adapter", transform)):
        step, state, batch = build(each, model)
        with partitioning.on(MESH):
            program = step.lower(state, batch, {}).compile()
        flops[name] = program.cost_analysis()["flops"]
    before = jax.device_get(state.frozen)
    assert size_in_bytes(state.opt_state) < 2 * size_in_bytes(state.params) + 100
    with partitioning.on(MESH):
        after, _ = step(state, batch, {})
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.frozen), before)
    assert flops["adapter"] < 0.75 * flops["full"]


def test_the_source_of_frozen_parameters_is_kept(tiny_root, base, tmp_path):
    """Its hash is in every checkpoint of a run with adapters, and is checked when they are read."""
    tune(tiny_root, base, tmp_path / "tuned", steps=2)
    assert record(tmp_path / "tuned")["sha256"] == frozen.hash_of(base / "checkpoints" / "3")
