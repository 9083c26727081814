"""Evaluation of a model: losses on rows, and answers to tasks measured by the tasks' metrics.

`evaluator` computes losses. For tasks: `examples` (the questions) -> `task_evaluation` (a model answers) -> `task_metrics`
(metrics of the answers, one record per task and step) -> `background` (in a thread, during training) and `comparison` (two
records of the same examples).
"""
