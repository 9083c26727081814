"""Instruction tasks: registration with templates, naming of variants, and groups with held-out tasks."""
