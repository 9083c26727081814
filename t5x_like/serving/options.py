"""The sizes of an engine, and the formats of its arrays."""

import dataclasses

from t5x_like.quantization import formats


@dataclasses.dataclass(frozen=True)
class Options:
    """The sizes of an engine.

    Attributes:
      max_length: tokens of a prompt and its completion; of each of them if an encoder reads the prompt. None is 2048, or the
        model's position table if it is shorter.
      max_rows: how many requests are continued at once.
      kept_rows: how many rows are copied when a new request needs them, so that later prompts may go on from them.
      max_waiting: how many requests may wait for a row.
      chunk: the most tokens of prompts that are read between two tokens of a running request.
      prefix: the model is a prefix LM: prompts are read with attention to both sides, and at once.
      fixed: all rows are there from the start, with `max_length` tokens, so that no program is compiled after `Engine.warm_up`.
        Otherwise rows come and get longer as requests need them, which takes less memory, and on a CPU less time.
      quantization: the format of the weights, "int8"; None leaves them as they are.
      kv_cache_dtype: the format of the cached keys and values, "int8"; None is the dtype in which the model computes.

    Raises:
      ValueError: a number is too small, or a format is unknown.
    """

    max_length: int | None = None
    max_rows: int = 16
    kept_rows: int = 4
    max_waiting: int = 1024
    chunk: int = 256
    prefix: bool = False
    fixed: bool = False
    quantization: str | None = None
    kv_cache_dtype: str | None = None

    def __post_init__(self) -> None:
        formats.check("quantization", self.quantization, formats.WEIGHTS)
        formats.check("kv_cache_dtype", self.kv_cache_dtype, formats.CACHE)
        for name, least in {"max_length": 2, "max_rows": 1, "kept_rows": 0, "max_waiting": 1, "chunk": 1}.items():
            value = getattr(self, name)
            if name == "max_length" and value is None:
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")


DEFAULT = Options()
