"""Runs a program that nobody trusts in a process of its own, and its tests in another process.

`confinement`, `guard` and `program` are the program's side, `judge` is the tests' side, `candidate`, `values` and `channel` are
between them; `runner` starts them. Python only: the processes import nothing else of the project.
"""
