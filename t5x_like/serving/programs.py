"""The slots of an engine on its devices, and the programs that change them: one is compiled for every size of their arrays."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import partitioning
from t5x_like.accounting import runtime_memory
from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding import slots, state
from t5x_like.models import attention
from t5x_like.quantization import weights
from t5x_like.serving.requests import BIASES, TOP, Settings
from t5x_like.types import Model, Params, Vocabulary

BLOCK = 8  # the most tokens that one call of `decode` chooses per row


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of slots: rows, tokens per row, and tokens of the encoder (0 without one)."""

    rows: int
    length: int
    inputs: int = 0


class Programs:
    """Holds the slots, and rows that are kept to go on from later; every method changes them.

    Attributes:
      size: of the slots.
      traced: how often each program was traced, by its name and sizes. Every number is 1.
      strategy: how all rows choose tokens; None if as the settings of each say.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        mesh: Mesh,
        rules: partitioning.Rules,
        prefix: bool,
        size: Size,
        kept_rows: int,
        strategy: slots.Strategy | None = None,
    ) -> None:
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.stop_ids = tuple(id for id in vocabulary.stop_ids if id < model.vocab_size)
        self.mesh, self.rules, self.prefix = mesh, rules, prefix
        self.size, self.kept_rows, self.strategy = size, kept_rows, strategy
        self.traced: collections.Counter[tuple] = collections.Counter()
        self._jitted: dict[tuple, Any] = {}
        self._products: dict[tuple, int] = {}
        self._shapes: dict[Size, slots.Slots] = {}
        self.slots: Any = None
        self.kept: Any = None
        self._shardings: dict[int, slots.Slots] = {}
        one, two = (self._trace_shapes(dataclasses.replace(size, rows=rows)) for rows in (1, 2))
        self.axes = state.differing_axes(one, two)
        self.clear()

    @functools.cached_property
    def shards(self) -> int:
        """The number of parts that rows are split into, on the mesh axes of batches."""
        return partitioning.batch_devices(self.mesh, self.rules)

    @functools.cached_property
    def is_on_host(self) -> bool:
        """Whether this process alone takes the memory: several must agree, and devices raise RESOURCE_EXHAUSTED themselves."""
        return self.mesh.devices.flat[0].platform == "cpu" and jax.process_count() == 1

    def clear(self) -> None:
        """Makes all rows idle and empty."""
        self.slots = self.make_empty(self.size)
        self.kept = self.make_empty(self.of_kept(self.size)) if self.kept_rows else None

    def restart(self, size: Size) -> None:
        """Makes the rows idle ones of another size.

        Raises:
          ValueError: the model's position table is shorter.
          MemoryError: on CPU, if they exceed the free memory.
        """
        shapes, self.size = self.shapes(size), size
        self.slots = self.kept = None  # their memory is free for the new ones
        if self.is_on_host:
            needed = weights.size_in_bytes(shapes)
            runtime_memory.check_free(needed, f"the cache of {size.rows} rows of {size.length} tokens")
        self.clear()

    def of_kept(self, size: Size) -> Size:
        """The size of the kept rows beside slots of a size."""
        return dataclasses.replace(size, rows=self.kept_rows)

    def shapes(self, size: Size) -> slots.Slots:
        """The shapes of slots of a size."""
        one = self._trace_shapes(dataclasses.replace(size, rows=1))

        def widen(axis: int, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*x.shape[:axis], size.rows, *x.shape[axis + 1 :]), x.dtype)

        return jax.tree.map(widen, self.axes, one)

    def _trace_shapes(self, size: Size) -> slots.Slots:
        if size not in self._shapes:
            with partitioning.on(self.mesh, self.rules):
                self._shapes[size] = slots.shapes(
                    self.model, self.params, size.rows, size.length, size.inputs, self.prefix, self.stop_ids, BIASES
                )
        return self._shapes[size]

    def shardings(self, size: Size) -> slots.Slots:
        """Rows are split over the mesh axes of batches, key-value heads over theirs, if these divide their number."""
        if size.rows not in self._shardings:

            def place(path: Any, axis: int, x: jax.ShapeDtypeStruct) -> NamedSharding:
                names: list[str | None] = [None] * x.ndim
                names[axis] = "batch"
                if any(getattr(key, "key", None) in attention.CACHES for key in path):
                    names[axis + 1] = "kv_heads"
                return partitioning.fitting(x.shape, names, self.mesh, self.rules)

            self._shardings[size.rows] = jax.tree_util.tree_map_with_path(place, self.axes, self.shapes(size))
        return self._shardings[size.rows]

    def call(
        self,
        key: tuple,
        function: Callable,
        out: Any,
        *arguments: Any,
        donated: int | None = None,
        checked: bool = False,
    ) -> Any:
        """`function(*arguments)` on the mesh, compiled once for every key; `out` are the shardings of its result.

        Raises:
          MemoryError: on CPU, if it is `checked` and attention scores exceed the free memory.
        """
        if key not in self._jitted:

            def traced(*arguments: Any) -> Any:
                self.traced[key] += 1
                return function(*arguments)

            donate = () if donated is None else (donated,)
            self._jitted[key] = jax.jit(traced, donate_argnums=donate, out_shardings=out)
        with partitioning.on(self.mesh, self.rules):
            if checked and self.is_on_host:
                if key not in self._products:
                    program = self._jitted[key].trace(*arguments)
                    self._products[key] = runtime_memory.largest_product(program.jaxpr.jaxpr)
                runtime_memory.check_fits(self._products[key])
            return self._jitted[key](*arguments)

    def make_empty(self, size: Size) -> slots.Slots:
        """Idle rows."""
        like = self.shapes(size)
        return self.call(("empty", size), lambda: slots.empty(like), self.shardings(size))

    def resize(self, index: Sequence[int], size: Size) -> None:
        """Makes rows `index` the rows of the slots, which have `size` then."""
        self.slots = self._resized(self.slots, index, self.size, size)
        if self.kept is not None and (self.size.length, self.size.inputs) != (size.length, size.inputs):
            before, after = self.of_kept(self.size), self.of_kept(size)
            self.kept = self._resized(self.kept, range(self.kept_rows), before, after)
        self.size = size

    def _resized(self, rows: slots.Slots, index: Sequence[int], before: Size, after: Size) -> slots.Slots:
        like = self.shapes(after)
        return self.call(
            ("resize", before, after),
            lambda rows, index: slots.resize(self.axes, rows, index, like),
            self.shardings(after),
            rows,
            np.asarray(index, np.int32),
        )

    def copy(self, source: int, row: int) -> None:
        """Copies a row of the slots to another."""

        def copied(rows: slots.Slots, to_1: jax.Array, from_1: jax.Array) -> slots.Slots:
            return state.insert(self.axes, rows, to_1, state.take(self.axes, rows, from_1))

        places = np.array([row], np.int32), np.array([source], np.int32)
        self.slots = self.call(("copy", self.size), copied, self.shardings(self.size), self.slots, *places, donated=0)

    def keep(self, row: int, place: int) -> None:
        """Copies a row of the slots to a place among the kept ones."""
        self.kept = self._moved("keep", self.of_kept(self.size), self.kept, place, self.slots, row)

    def restore(self, place: int, row: int) -> None:
        """Copies a kept row to a row of the slots."""
        self.slots = self._moved("restore", self.size, self.slots, row, self.kept, place)

    def _moved(self, name: str, size: Size, target: Any, place: int, source: Any, row: int) -> slots.Slots:
        def move(target: Any, place_1: jax.Array, source: Any, row_1: jax.Array) -> Any:
            return state.insert(self.axes, target, place_1, state.take(self.axes, source, row_1))

        places = np.array([place], np.int32), np.array([row], np.int32)
        key, out = (name, self.size), self.shardings(size)
        return self.call(key, move, out, target, places[0], source, places[1], donated=0)

    def read(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        chunks: Sequence[Sequence[int]],
        complete: Sequence[bool],
        settings: slots.RowSettings,
        shape: tuple[int, int],
    ) -> None:
        """Reads a chunk of several prompts, see `slots.read`; `shape` are the rows and tokens that are computed."""
        batch = pad(chunks, shape, "decoder")
        if self.prefix:
            batch["decoder_prefix"] = batch["decoder_segment_ids"].copy()
        self.slots = self.call(
            ("read", self.size, shape),
            lambda params, *arguments: slots.read(self.model, params, self.axes, *arguments),
            self.shardings(self.size),
            self.params,
            self.slots,
            fill(rows, shape[0], self.size.rows),  # a row beyond the end is left out
            fill(starts, shape[0]),
            batch,
            fill(complete, shape[0]).astype(bool),
            settings,
            donated=1,
            checked=True,
        )

    def read_inputs(
        self,
        rows: Sequence[int],
        inputs: Sequence[Sequence[int]],
        settings: slots.RowSettings,
        shape: tuple[int, int],
    ) -> None:
        """Reads the whole inputs of an encoder, see `slots.read_inputs`."""
        batch = pad(inputs, shape, "encoder", positions=True)
        start_id = vocabularies.start_id(self.vocabulary)
        batch |= pad([[start_id]] * shape[0], (shape[0], 1), "decoder", positions=True)
        self.slots = self.call(
            ("read_inputs", self.size, shape),
            lambda params, *arguments: slots.read_inputs(self.model, params, self.axes, *arguments),
            self.shardings(self.size),
            self.params,
            self.slots,
            fill(rows, shape[0], self.size.rows),
            batch,
            settings,
            donated=1,
            checked=True,
        )

    def decode(self, live_B: np.ndarray, steps: int, top: bool, mask_BW: np.ndarray | None) -> slots.Decoded:
        """Chooses up to `steps` tokens of every live row, see `slots.decode`; `top` asks for alternatives."""
        key = ("decode", self.size, top, mask_BW is not None)
        out = self.shardings(self.size), NamedSharding(self.mesh, PartitionSpec())
        arguments = self.params, self.slots, live_B, np.int32(steps), mask_BW
        self.slots, decoded = self.call(key, functools.partial(self._decode, top), out, *arguments, donated=1)
        return jax.device_get(decoded)

    def _decode(self, top: bool, params: Params, rows: slots.Slots, live_B: Any, steps: Any, mask_BW: Any) -> Any:
        count = min(TOP, self.model.vocab_size) * top
        most = BLOCK if mask_BW is None else 1
        return slots.decode(self.model, params, rows, live_B, steps, most, count, mask_BW, self.strategy)

    def check_strategy(self) -> None:
        """Traces one choice of tokens, and so raises what the sampler and the processors raise."""
        with partitioning.on(self.mesh, self.rules):
            jax.eval_shape(lambda rows: slots.choose(rows, 0, None, self.strategy), self.slots)


def fill(values: Sequence[int], rows: int, other: int = 0) -> np.ndarray:
    """Values of the first rows, and another for the rest."""
    return np.array([*values, *[other] * (rows - len(values))], np.int32)


def pad(
    rows: Sequence[Sequence[int]], shape: tuple[int, int], side: str, positions: bool = False
) -> dict[str, np.ndarray]:
    """Ragged rows of tokens, padded to a shape."""
    tokens, segments = np.zeros((2, *shape), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        segments[i, : len(row)] = 1
    batch = {f"{side}_input_tokens": tokens, f"{side}_segment_ids": segments}
    return batch | ({f"{side}_positions": np.arange(shape[1], dtype=np.int32) * segments} if positions else {})


def row_settings(rows: Sequence[tuple[Settings, np.ndarray]], count: int) -> slots.RowSettings:
    """The settings and keys of rows as arrays of `count` rows."""
    rows = [*rows, *[rows[0]] * (count - len(rows))]

    def column(name: str, kind: Any) -> np.ndarray:
        return np.array([getattr(settings, name) for settings, _ in rows], kind)

    bias_ids, bias = np.zeros((count, BIASES), np.int32), np.zeros((count, BIASES), np.float32)
    for i, (settings, _) in enumerate(rows):
        bias_ids[i, : len(settings.logit_bias)] = list(settings.logit_bias)
        bias[i, : len(settings.logit_bias)] = list(settings.logit_bias.values())
    return slots.RowSettings(
        keys_B2=np.stack([key for _, key in rows]),
        temperature_B=column("temperature", np.float32),
        top_k_B=column("top_k", np.int32),
        top_p_B=column("top_p", np.float32),
        min_p_B=column("min_p", np.float32),
        typical_p_B=column("typical_p", np.float32),
        repetition_B=column("repetition_penalty", np.float32),
        frequency_B=column("frequency_penalty", np.float32),
        presence_B=column("presence_penalty", np.float32),
        min_new_B=column("min_new_tokens", np.int32),
        most_B=column("max_new_tokens", np.int32),
        stops_B=column("stop_ids", bool),
        bias_ids_BJ=bias_ids,
        bias_BJ=bias,
    )
