"""Functional Flax building blocks and the architectures made of them.

Every sublayer is `f(x_BLD, ctx) -> y_BLD`; a model family is one gin file that combines sublayers.

Names of arrays carry their shape, one letter per dimension, and einsum strings use the same letters:

    B batch     L length (queries)   M memory or key length   D model width   F mlp width
    H query heads   G key/value heads   R query heads per key/value head   K head dim
    V vocabulary    E experts   C capacity or classes   S experts chosen per token   N layers or buckets
    A is 1 or B: an array that is shared by all rows, or one per row

Parameters carry logical axis names (`embed`, `mlp`, `heads`, ...); `t5x_like.partitioning` maps each name to a mesh axis.
Modules have no dtype fields: they compute in the dtype of their input, and do norms, softmaxes and routing in float32.

Modules read every weight matrix as `kernel.astype(x.dtype)`, once. So a kernel in `params` may be replaced by any pytree node
(a `flax.struct.dataclass`) whose first leaf has the kernel's shape and whose `astype` returns the matrix, for example int8
values and scales. In a scanned stack all its leaves have the leading axis `layers`. See tests/models/test_parameter_contract.py.
The low-rank updates and factors of tuned models (`adapted`) are such nodes, with products of their own.
"""
