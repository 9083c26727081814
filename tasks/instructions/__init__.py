"""Instruction tasks: templates, variants and groups of held-out tasks."""
