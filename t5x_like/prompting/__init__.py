"""Prompts from examples: templates, zero-shot, few-shot, chain-of-thought and chat renderings, held-out tasks; chats from the
records of files; Self-Instruct."""
