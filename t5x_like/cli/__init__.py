"""The command line: one file per command, and gin/runtime.py, the only code that knows gin."""
