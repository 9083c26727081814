"""Gin configuration for the command line; the only code that uses gin.

`source` reads files as text, `names` resolves names to functions and classes, `trust` limits what a run's configuration may
name, `checks` validates the result, and `runtime` passes it to gin. `text` writes a model as gin text.
"""
