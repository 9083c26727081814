"""T5X rebuilt for today's JAX: gin-configured pretraining of language models on seqio tasks.

The folders in reading order are the way of the data: `tasks` (what an example is), `data` (token caches and the stream of
batches), `models`, `objectives`, `optimizers`, `trainer`, `checkpoints`, `evaluator`, `decoding`.
"""

from pathlib import Path

__version__ = "0.1.0"

# An installed package holds models/, tasks/ and gin_configs/; in a checkout they stand beside it.
if not Path(__file__).with_name("models").exists():
    __path__.append(str(Path(__file__).parents[1]))
