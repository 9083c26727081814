"""Prompts from examples: templates, zero-shot, few-shot, chain-of-thought and chat renderings, held-out tasks."""
