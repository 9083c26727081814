"""Texts to clean: English-like prose of a seed, so that two seeds share no long phrase."""

import random

STOP = ("the", "of", "and", "to", "that", "with", "have", "be")


def vocabulary(count: int, seed: int = 0) -> list[str]:
    """Invented words of four to nine letters."""
    drawn = random.Random(seed)
    return ["".join(drawn.choices("aeioulnrstmdkp", k=drawn.randint(4, 9))) for _ in range(count)]


WORDS = vocabulary(3000)


def sentence(drawn: random.Random, length: int = 12) -> str:
    """A sentence of `length` words, a third of them stop words."""
    words = [drawn.choice(STOP if place % 3 == 0 else WORDS) for place in range(length)]
    return " ".join(words).capitalize() + "."


def prose(seed: int, sentences: int = 12) -> str:
    """Lines of two sentences."""
    drawn = random.Random(seed)
    return "\n".join(f"{sentence(drawn)} {sentence(drawn)}" for _ in range((sentences + 1) // 2))


def document(text: str, name: str = "x") -> dict[str, str]:
    return {"text": text, "id": name}


def rule(result) -> str:
    """The rule that dropped the document, or "kept"."""
    return getattr(result, "rule", "kept")


def text(result) -> str:
    """The text of a document that is kept, edited or not."""
    return getattr(result, "document", result)["text"]
