"""The command line: one file per command, and gin_runtime.py, the only code that knows gin."""
