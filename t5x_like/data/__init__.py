"""Token caches and the stream of batches made from them, in plain NumPy: training needs no TensorFlow.

`cache/` holds a task's split as flat files of token ids, `rows/` makes rows from a cache on the fly (with `noise/`),
`mixing` mixes rows of several tasks, and `stream` orders them: batch k is a function of k alone. Only the program that
fills caches, `t5x_like/tasks/caching/build.py`, imports seqio and TensorFlow.
"""
