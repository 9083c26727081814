"""Token caches and the stream of batches made from them, in plain numpy: training needs no TensorFlow.

A token cache holds a task's split as flat files of token ids (`token_cache`), rows are made from it on the fly (`rows`,
with `noise` and `packing`), a stream puts them in order (`stream`): batch k depends on nothing but k. Only
`build`, which fills caches and is run as a program of its own, imports seqio and TensorFlow.
"""
