"""Examples as text for a model: templates of wordings, and zero-shot, few-shot, chain-of-thought and chat renderings."""
