"""Studies of evaluation scores across scales: emergence, in-context learning, statistical power."""
