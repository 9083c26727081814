"""Evaluation of a model: losses on rows, and the metrics of tasks on generated or scored answers.

`evaluator` computes losses. For tasks: `examples` reads the questions, `task_evaluation` has a model answer them,
`task_metrics` computes the metrics and one record per task and step, `background` does so in a thread during training, and
`comparison` compares two records of the same examples.
"""
