"""`t5x_like info`: counts match the shapes, memory matches the real layout, and it runs without devices."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from t5x_like import optimizers, partitioning
from t5x_like.accounting import memory
from t5x_like.cli import info, main
from t5x_like.cli.gin import runtime
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from tests import tiny

ROOT = Path(__file__).parents[2]
LLAMA, MIXTRAL = "sizes/llama/7b.gin", "sizes/mixtral/8x7b.gin"
TINY = sorted(path.parent.name for path in (ROOT / "gin_configs" / "sizes").glob("*/tiny.gin"))


@pytest.fixture
def facts(capsys):
    """The JSON object that the command prints for some files and flags."""

    def run(*arguments: str) -> dict:
        flags = [f"--gin_file={a}" if a.endswith(".gin") else a for a in arguments]
        assert info.main([*flags, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def error_of(capsys, *flags: str) -> str:
    assert main.main(["info", *flags]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("family", TINY)
def test_totals_are_the_sums_of_the_shapes(facts, family):
    size = f"sizes/{family}/tiny.gin"
    model = runtime.parse([size]).evaluate("%MODEL")
    sides = [side for side in ("encoder", "decoder") if hasattr(model, side)]
    shapes = jax.eval_shape(model.init, jax.random.key(0), tiny.batch(1, 8, sides) | types(sides))["params"]
    counts = facts(size)["parameters"]
    assert counts["total"] == sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert counts["total"] == sum(counts["parts"].values()) == counts["embedding"] + counts["non_embedding"]
    mixture = "EXPERTS = " in (ROOT / "gin_configs" / size).read_text()
    assert (counts["active_per_token"] < counts["total"]) == mixture
    assert mixture or counts["active_per_token"] == counts["total"]


def types(sides):
    return {"encoder_token_types": jnp.zeros((1, 8), jnp.int32)} if "encoder" in sides else {}


def test_mixtral_has_12_9_billion_active_parameters(facts):
    assert round(facts(MIXTRAL)["parameters"]["active_per_token"] / 1e9, 1) == 12.9


def test_doubling_the_length_doubles_flops_and_quadruples_attention(facts):
    short, long = (facts(LLAMA, f"--length={length}")["flops"] for length in (1024, 2048))
    assert long["attention_per_token"] == 2 * short["attention_per_token"]
    weights = [f["forward_per_token"] - f["attention_per_token"] for f in (short, long)]
    assert weights[0] == weights[1] and long["train_per_token"] == 3 * long["forward_per_token"]


def test_a_step_costs_its_rows(facts):
    flops = facts(LLAMA, "--batch_size=6")["flops"]
    assert flops["train_per_step"] == 6 * flops["train_per_row"] and flops["tokens_per_step"] == 6 * 2048


def test_grouped_queries_and_bfloat16_shrink_the_cache(facts):
    plain, half = facts(LLAMA)["decoding"], facts(LLAMA, "precision/bfloat16.gin")["decoding"]
    grouped = facts(LLAMA, "--gin.KV_HEADS=8")["decoding"]
    assert plain["kv_cache_bytes_per_token"] == 32 * 2 * 32 * 128 * 4
    assert half["kv_cache_bytes_per_token"] * 2 == grouped["kv_cache_bytes_per_token"] * 4 == 32 * 2 * 32 * 128 * 4
    assert plain["kv_cache_bytes_per_sequence"] == 2048 * plain["kv_cache_bytes_per_token"]


def test_the_encoder_has_its_own_length_and_does_not_decode(facts):
    both = facts("sizes/t5_1_1/small.gin", "--length=64", "--encoder_length=256")
    assert both["lengths"] == {"encoder": 256, "decoder": 64}
    assert "decoding" not in facts("sizes/bert/base.gin")


def test_the_default_length_fits_the_position_table(facts, capsys):
    assert facts("sizes/gpt2/small.gin")["lengths"] == {"decoder": 1024}
    assert "max_length" in error_of(capsys, "--gin_file=sizes/gpt2/small.gin", "--length=1025")


@pytest.mark.parametrize("optimizer", [(), ("optimizers/adafactor.gin",), ("optimizers/lion.gin",)])
def test_twice_the_devices_hold_half_each(facts, optimizer):
    one, two = (facts(LLAMA, "meshes/fsdp.gin", *optimizer, f"--devices={n}")["memory"] for n in (128, 256))
    # Norms and counters are whole on every device, and so are Adafactor's means over the split width.
    factored = optimizer == ("optimizers/adafactor.gin",)
    for name in ("parameters", "gradients", "optimizer_state", "total"):
        expected = 1 if factored and name == "optimizer_state" else 2
        assert one[name] / two[name] == pytest.approx(expected, rel=0.05 if factored else 0.02)
    alone = facts(LLAMA, "--devices=256")["memory"]
    assert alone["mesh"]["data"] == 256 and alone["parameters"] == 4 * 6_738_415_616


def test_optimizer_state_matches_the_configured_optimizer(facts):
    kept = {name: facts(LLAMA, f"optimizers/{name}.gin")["memory"] for name in ("adamw", "lion", "adafactor")}
    assumed = facts(LLAMA)["memory"]
    assert "assumed" in assumed["optimizer"] and kept["adamw"]["optimizer"] == "adamw"
    assert kept["adamw"]["optimizer_state"] - assumed["optimizer_state"] < 100  # two counters and a learning rate
    assert kept["lion"]["optimizer_state"] == pytest.approx(assumed["optimizer_state"] / 2, rel=1e-6)
    assert kept["adafactor"]["optimizer_state"] < assumed["optimizer_state"] / 100


def test_mixed_precision_adds_a_compute_copy(facts):
    plain, mixed = facts(LLAMA)["memory"], facts(LLAMA, "precision/bfloat16.gin")["memory"]
    assert plain["computing_copy"] == 0 and mixed["parameters"] == plain["parameters"]
    assert mixed["computing_copy"] == pytest.approx(plain["parameters"] / 2, rel=1e-3)  # norms stay float32


@pytest.mark.parametrize("sizes", [{"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "expert": 2}])
def test_planned_memory_matches_a_real_state(sizes):
    mesh, batch = partitioning.make_mesh(**sizes), tiny.batch()
    model, optimizer = tiny.decoder(experts=True), optimizers.adamw(1e-3)
    layout = train_state.layout(model, optimizer, batch, mesh)
    state = layout.create(0)
    first = jax.devices()[0]

    def held(tree):
        shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == first]
        return sum(shard.data.nbytes for shard in shards)

    planned = partitioning.make_mesh(**sizes, devices=memory.planned_devices(8))
    found = memory.per_device(layout.boxed.params, planned, optimizer)
    assert (found.parameters, found.optimizer) == (held(state.params), held(state.opt_state))
    assert found.total == 2 * found.parameters + found.optimizer


def test_gradients_have_the_dtype_of_the_parameters():
    boxed = jax.eval_shape(tiny.decoder().init, jax.random.key(0), tiny.batch(1))["params"]
    mesh = partitioning.make_mesh(devices=memory.planned_devices(1))
    half = memory.per_device(boxed, mesh, optax.identity(), precision=Precision(jnp.bfloat16, jnp.bfloat16))
    full = memory.per_device(boxed, mesh, optax.identity())
    assert half.gradients * 2 == full.gradients and half.computing_copy == half.optimizer == 0


def test_half_a_trillion_parameters_on_six_thousand_devices_in_seconds(facts):
    palm = "WIDTH=18432", "LAYERS=118", "HEADS=48", "KV_HEADS=1", "HEAD_DIM=256", "MLP_DIM=49152", "VOCAB_SIZE=256000"
    start = time.perf_counter()
    found = facts(LLAMA, "meshes/fsdp.gin", "--devices=6144", *(f"--gin.{macro}" for macro in palm))
    assert time.perf_counter() - start < 10
    assert 3e11 < found["parameters"]["total"] < 6e11


def test_it_needs_neither_tensorflow_nor_devices():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'seqio', 'tensorflow_datasets', 'tensorflow_text'): sys.modules[name] = None\n"
        "from t5x_like.cli.main import main\n"
        f"sys.exit(main(['info', '--gin_file={LLAMA}', '--gin_file=meshes/data_fsdp_tensor.gin', '--devices=256']))"
    )
    environment = {name: x for name, x in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ("6,738,415,616", "data 64, fsdp 2, tensor 2", "assumed: AdamW", "activations are not counted"):
        assert words in done.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        ((f"--gin_file={LLAMA}", "--length=0"), ["--length: 0 is not", "1 or more"]),
        ((f"--gin_file={LLAMA}", "--batch_size=-1"), ["--batch_size: -1 is not", "1 or more"]),
        ((f"--gin_file={LLAMA}", "--devices=0"), ["--devices: 0 is not", "1 or more"]),
        ((f"--gin_file={LLAMA}", "--encoder_length=8"), ["--encoder_length=8", "DecoderOnly", "--length"]),
        ((f"--gin_file={LLAMA}", "--gin_file=meshes/fsdp.gin", "--devices=3"), ["'embed' of size 4096", "3 devices"]),
        (
            (f"--gin_file={LLAMA}", "--gin_file=meshes/data_fsdp_tensor.gin", "--devices=6"),
            ["4 does not fit 6 devices", "--devices=6"],
        ),
        ((f"--gin_file={LLAMA}", "--devices=8", "--batch_size=12"), ["batch_size=12", "8 or 16"]),
        (("--gin_file=meshes/fsdp.gin",), ["no gin file sets MODEL", "--gin_file=sizes/llama/7b.gin"]),
        ((), ["no gin file sets MODEL", "--gin_file=sizes/llama/7b.gin"]),
        (("--gin_file=architectures/llama.gin",), ["WIDTH", "--gin.WIDTH=VALUE", "sizes/"]),
        ((f"--gin_file={LLAMA}", "--gin.WIDHT=8"), ["WIDHT", "did you mean WIDTH"]),
        ((f"--gin_file={LLAMA}", "--gin.KV_HEADS=5"), ["num_heads=32", "num_kv_heads=5"]),
    ],
    ids=lambda x: x[-1] if isinstance(x, tuple) and x else None,
)
def test_errors_name_the_flag(capsys, flags, words):
    error = error_of(capsys, *flags)
    assert all(word in error for word in words), error
