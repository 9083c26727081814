"""The command line: one file per command, and `gin/`, the only code that uses gin."""
