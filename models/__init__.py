"""Functional Flax building blocks and the three architectures made of them.

Every sublayer is `f(x_BLD, ctx) -> y_BLD`; a model family is one gin file that puts sublayers together.

Names of arrays carry their shape, one letter per dimension, and einsum strings use the same letters:

    B batch     L length (queries)   M memory or key length   D model width   F mlp width
    H query heads   G key/value heads   R query heads per key/value head   K head dim
    V vocabulary    E experts   C capacity   S experts chosen per token   N layers or buckets
    A is 1 or B: an array that is the same for every row, or not

Parameters carry logical axis names (`embed`, `mlp`, `heads`, ...); which mesh axis each name is laid on is decided
outside, by `t5x_like.partitioning`. Modules have no dtype fields: they compute in the dtype of the parameters they are
given, and do norms, softmaxes and routing in float32.
"""
