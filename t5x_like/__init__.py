"""T5X rebuilt for today's JAX: gin-configured pretraining of language models on seqio tasks.

The folders in reading order are the way of the data: `tasks` (what an example is), `data` (token caches and the stream of
batches), `models`, `objectives`, `optimizers`, `trainer`, `checkpoints`, `evaluator`, `decoding`.
"""

__version__ = "0.1.0"
