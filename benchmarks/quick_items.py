"""The items of quick.py: `quick_items.py ITEM` serves one, see turns.py.

The name of an item stands for its work: who changes the work changes the name, so that no two works are compared.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import steps
import synthetic
from flax import linen as nn

import turns
from t5x_like import optimizers, parameters
from t5x_like.checkpoints import Checkpointer
from t5x_like.cleaning.c4 import C4
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.repetition import GopherRepetition
from t5x_like.cleaning.report import Report
from t5x_like.cli.gin import runtime
from t5x_like.data import rows
from t5x_like.data.stream import Stream
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy
from t5x_like.types import Model

VOCAB, ROWS, LENGTH = 8192, 8, 128
SIZE = {"VOCAB_SIZE": VOCAB, "WIDTH": 256, "LAYERS": 4, "HEADS": 4, "HEAD_DIM": 64, "MLP_DIM": 1024, "SCAN": False}
MOE = {"EXPERTS": 4, "KV_HEADS": 4, "MLP_DIM": 512}

Run = Callable[[], Any]


def build_model(architecture: str, **macros: Any) -> Model:
    """Builds a model of an architecture's gin file at the size of the items."""
    overrides = [f"--gin.{name}={value}" for name, value in (SIZE | macros).items()]
    return runtime.parse([f"architectures/{architecture}.gin"], overrides).evaluate("%MODEL")


def batch_of(*sides: str) -> dict[str, np.ndarray]:
    """Returns a batch of random tokens for these sides."""
    tokens = np.random.default_rng(0).integers(3, VOCAB, (ROWS, LENGTH + 1), dtype=np.int32)
    batch = {"decoder_target_tokens": tokens[:, 1:], "decoder_loss_weights": np.ones((ROWS, LENGTH), np.float32)}
    for side in sides:
        batch[f"{side}_input_tokens"] = tokens[:, :-1]
        batch[f"{side}_positions"] = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
        batch[f"{side}_segment_ids"] = np.ones((ROWS, LENGTH), np.int32)
    return batch


def train(model: Model, *sides: str) -> Run:
    """Train steps with AdamW."""
    batch = jax.device_put(batch_of(*sides))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    step, layout = steps.build(model, optimizers.adamw(1e-3), shapes)
    state = layout.create(0)

    def run() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def decode() -> Run:
    """32 new tokens of every row after a prompt of 32, greedy, three times."""
    model, batch = build_model("llama"), batch_of("decoder")
    names = ("input_tokens", "positions", "segment_ids")
    prompt = {f"decoder_{name}": jnp.asarray(batch[f"decoder_{name}"][:, :32]) for name in names}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    keys = jax.random.split(jax.random.key(0), ROWS)
    run = jax.jit(lambda p, b, k: generate(model, p, b, k, Greedy(), 32, stop_ids=()))
    return lambda: [jax.block_until_ready(run(params, prompt, keys)) for _ in range(3)]


def read_rows() -> Run:
    """400 batches of 128 rows of 512 tokens from a token cache of 4 MB."""
    stream = Stream(rows.CausalLM(synthetic.make_cache(2000), 512), 128)
    return lambda: [stream[k] for k in range(400)]


def clean() -> Run:
    """Gopher's and C4's rules over 2 MB of text."""
    words = np.array(["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "was", "on", "are", "as", "with"])
    random = np.random.default_rng(0)

    def sentence() -> str:
        numbers = random.integers(0, 3000, 12)
        return " ".join(words[n] if n < len(words) else f"word{n}" for n in numbers).capitalize() + "."

    documents = [{"text": "\n".join(sentence() for _ in range(40))} for _ in range(400)]
    pipeline = Pipeline((GopherRepetition(), GopherQuality(), C4()))
    return lambda: list(pipeline(iter(documents), Report()))


def checkpoint() -> Run:
    """Saves 64 MB in 30 arrays and restores them."""
    keys = jax.random.split(jax.random.key(0), 30)
    state = {f"array_{i}": jax.random.normal(key, (64 * 2**20 // 4 // 30,)) for i, key in enumerate(keys)}
    checkpointer = Checkpointer(tempfile.mkdtemp(), keep_last=1)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)

    def run() -> None:
        step = (checkpointer.latest_step() or 0) + 1
        checkpointer.save(step, state, {})
        checkpointer.wait()
        jax.block_until_ready(checkpointer.restore(abstract, step))

    return run


def parse() -> Run:
    """Parses the files and macros of a pretraining run, ten times."""
    files = (
        "architectures/llama",
        "tasks/python_source_bytes",
        "objectives/causal_lm",
        "optimizers/adamw",
        "runs/pretrain",
    )
    overrides = [f"--gin.{name}={value}" for name, value in SIZE.items()] + ["--gin.RUN_DIR=run", "--gin.STEPS=10"]
    return lambda: [runtime.parse([f"{name}.gin" for name in files], overrides) for _ in range(10)]


def start(*arguments: str) -> Run:
    """Python with these arguments, in a process of its own."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def products() -> Run:
    """Calibration: products of float32 matrices of 1024 x 1024."""
    a = jnp.eye(1024)
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, 30, lambda _, x: jnp.tanh(x @ a), a))
    return lambda: chain(a).block_until_ready()


def memory() -> Run:
    """Calibration: additions of two arrays of 64 MB."""
    x, y = np.ones(2**24, np.float32), np.ones(2**24, np.float32)
    return lambda: [np.add(x, y, out=y) for _ in range(40)]


def python() -> Run:
    """Calibration: compressed JSON, that is Python, its objects and a C library."""
    table = {f"name {i}": [i, str(i), {"value": i / 3}] for i in range(20000)}

    def run() -> None:
        text = json.dumps(table)
        assert len(json.loads(gzip.decompress(gzip.compress(text.encode(), 1)))) == len(table)
        sum(i * i for i in range(3 * 10**6))

    return run


# Name -> (its preparation, the calibration that it is divided by where another machine's figures are compared).
ITEMS: dict[str, tuple[Callable[[], Run], str]] = {
    "train step, decoder": (lambda: train(build_model("llama"), "decoder"), "products"),
    "train step, T5": (lambda: train(build_model("t5_1_1"), "encoder", "decoder"), "products"),
    "train step, MoE": (lambda: train(build_model("mixtral", **MOE), "decoder"), "products"),
    "decode 32 tokens": (decode, "products"),
    "rows from a cache": (read_rows, "memory"),
    "cleaning 2 MB": (clean, "python"),
    "checkpoint of 64 MB": (checkpoint, "memory"),
    "gin parse": (parse, "python"),
    "--help": (lambda: start("-m", "t5x_like", "--help"), "python"),
    "import trainer": (lambda: start("-c", "import t5x_like.training.trainer"), "python"),
}
CALIBRATIONS: dict[str, Callable[[], Run]] = {"products": products, "memory": memory, "python": python}


def main() -> None:
    """Serves the item or calibration that the argument names."""
    runs = {name: item for name, (item, _) in ITEMS.items()} | CALIBRATIONS
    run = runs[sys.argv[1]]()

    def step() -> None:
        run()

    turns.serve(step, tree=str(Path(parameters.__file__).parents[1]))


if __name__ == "__main__":
    main()
