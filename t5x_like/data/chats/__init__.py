"""Chats as text and as ids: templates, the prompts of inference, and the loss masks of training."""
