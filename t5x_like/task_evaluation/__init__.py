"""What a model answers to the examples of a task, judged by the task's metrics: in training, from the command line, compared.

The way through: `examples` (what is asked) -> `evaluation` (a model answers) -> `judging` (metrics of the answers, one record
a task and step) -> `background` (in a thread, beside training) and `comparison` (two records of the same examples).
"""
