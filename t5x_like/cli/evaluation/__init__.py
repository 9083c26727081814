"""The command `eval`: losses of a run on rows, and the metrics of tasks."""
