"""The gin configuration of the command line, the only code that knows gin.

Files are read as text (`source`), names are looked up in the code (`names`), the result is checked (`checks`) and
parsed by gin (`runtime`). `text` writes a model as gin text.
"""
