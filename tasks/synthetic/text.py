"""Words and their letters, sequences that go on, tables to look things up in: {"word" or "items", ..., "answer", "rationale"}."""

import random
import string

from t5x_like.tasks.synthetic.lists import WORDS
from t5x_like.tasks.synthetic.sampling import Offline, World, offline, worded

LONGER = tuple(word for word in WORDS if len(word) > 3)


def spelled(word: str) -> str:
    return "-".join(word)


def with_word(rng: random.Random, answer, rationale: str) -> dict:
    """A word of ours or letters in any order, and what `answer` makes of it."""
    word = (
        rng.choice(WORDS) if rng.random() < 0.5 else "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 6)))
    )
    made = answer(word)
    return {"word": word, "answer": made, "rationale": f"{spelled(word)}: {rationale}{made}"}


def uppercase(rng: random.Random) -> dict:
    return with_word(rng, str.upper, "in capitals ")


def spelling(rng: random.Random) -> dict:
    return with_word(rng, spelled, "with lines between its letters ")


def backward_word(rng: random.Random) -> dict:
    return with_word(rng, lambda word: word[::-1], "from its end ")


def first_letter(rng: random.Random) -> dict:
    return with_word(rng, lambda word: word[0], "it begins with ")


def last_letter(rng: random.Random) -> dict:
    return with_word(rng, lambda word: word[-1], "it ends with ")


def word_length(rng: random.Random) -> dict:
    return with_word(rng, lambda word: str(len(word)), "count ")


def doubled_word(rng: random.Random) -> dict:
    return with_word(rng, lambda word: f"{word} {word}", "twice ")


def letter_count(rng: random.Random) -> dict:
    """Few different letters, so that they repeat."""
    letters = rng.sample(string.ascii_lowercase, 3)
    word = "".join(rng.choices(letters, k=rng.randint(3, 7)))
    item = rng.choice(letters)
    answer = str(word.count(item))
    return {"word": word, "item": item, "answer": answer, "rationale": f"{spelled(word)}: {item} is there {answer}"}


def last_letters(rng: random.Random) -> dict:
    items = rng.sample(WORDS, rng.randint(2, 4))
    answer = "".join(item[-1] for item in items)
    steps = ", ".join(f"{item} ends with {item[-1]}" for item in items)
    return {"items": items, "answer": answer, "rationale": f"{steps}. Together {answer}"}


def longest_word(rng: random.Random) -> dict:
    """One word is longer than all others."""
    answer = rng.choice(LONGER)
    items = [answer, *rng.sample([word for word in WORDS if len(word) < len(answer)], rng.randint(1, 3))]
    rng.shuffle(items)
    steps = ", ".join(f"{item} {len(item)}" for item in items)
    return {"items": items, "answer": answer, "rationale": f"{steps}. The longest is {answer}"}


def induction(rng: random.Random) -> dict:
    """A B ... A -> B: what came after the last item when it was there before."""
    items = rng.sample(WORDS, rng.randint(3, 6))
    place = rng.randrange(len(items) - 1)
    answer = items[place + 1]
    again = [*items, items[place]]
    return {"items": again, "answer": answer, "rationale": f"{items[place]} was there before, and then came {answer}"}


def cycle(rng: random.Random) -> dict:
    """A pattern of 2 or 3 letters that repeats."""
    pattern = rng.sample(string.ascii_lowercase, rng.randint(2, 3))
    length = rng.randint(2 * len(pattern), 3 * len(pattern))
    items = [pattern[i % len(pattern)] for i in range(length)]
    answer = pattern[length % len(pattern)]
    return {"items": items, "answer": answer, "rationale": f"{' '.join(pattern)} repeats, so next is {answer}"}


def lookup(rng: random.Random) -> dict:
    """A table of words and numbers."""
    keys = rng.sample(WORDS, rng.randint(2, 5))
    values = [str(value) for value in rng.sample(range(100), len(keys))]
    place = rng.randrange(len(keys))
    rows = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    rationale = f"The row is {rows[place]}"
    return {"rows": rows, "item": keys[place], "answer": values[place], "rationale": rationale}


def reverse_lookup(rng: random.Random) -> dict:
    """The same table asked the other way round."""
    keys = rng.sample(WORDS, rng.randint(2, 5))
    values = [str(value) for value in rng.sample(range(100), len(keys))]
    place = rng.randrange(len(keys))
    rows = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    rationale = f"{values[place]} stands beside {keys[place]}"
    return {"rows": rows, "item": values[place], "answer": keys[place], "rationale": rationale}


def of_a_word(question: str, order: str, result: str) -> tuple:
    """Wordings about one word: a question, an order, and what the result is called."""
    return worded(
        f"{question} {{{{ word }}}}?",
        f"{order}: {{{{ word }}}}",
        f"{{{{ word }}}}\n{result} is",
        f"Take the word {{{{ word }}}}. {order}.",
        f"Word: {{{{ word }}}}\nTask: {order[0].lower()}{order[1:]}.",
    )


ROWS = "{{ rows | join('\\n') }}"

WORLDS = {
    "uppercase": World(
        uppercase,
        ("word",),
        of_a_word("What is in capitals", "Write it in capital letters", "In capitals it"),
        "spelling",
    ),
    "spelling": World(
        spelling,
        ("word",),
        of_a_word("How do you spell", "Write its letters with - between", "Spelled, it"),
        "spelling",
    ),
    "backward_word": World(
        backward_word, ("word",), of_a_word("What is backwards", "Write it backwards", "Backwards it"), "spelling"
    ),
    "doubled_word": World(
        doubled_word, ("word",), of_a_word("What is twice", "Write it two times", "Written twice it"), "spelling"
    ),
    "first_letter": World(
        first_letter,
        ("word",),
        of_a_word("What is the first letter of", "Write its first letter", "Its first letter"),
        "letter",
    ),
    "last_letter": World(
        last_letter,
        ("word",),
        of_a_word("What is the last letter of", "Write its last letter", "Its last letter"),
        "letter",
    ),
    "word_length": World(
        word_length,
        ("word",),
        of_a_word("How many letters are in", "Count its letters", "The number of its letters"),
        "counting",
    ),
    "letter_count": World(
        letter_count,
        ("word", "item"),
        worded(
            "How many times is the letter {{ item }} in {{ word }}?",
            "Count the letter {{ item }}: {{ word }}",
            "{{ word }}\nThe number of letters {{ item }} is",
            "Take the word {{ word }}. How often does it have {{ item }}?",
            "Word: {{ word }}\nTask: count {{ item }}.",
        ),
        "counting",
    ),
    "last_letters": World(
        last_letters,
        ("items",),
        worded(
            "Join the last letters of these words: {{ items | join(' ') }}",
            "Take the last letter of each word and write them together.\n{{ items | join(', ') }}",
            "{{ items | join(', ') }}\nThe last letters together are",
            "What do the last letters of {{ items | join(', ') }} make?",
            "List: {{ items | join(', ') }}\nTask: join the last letters.",
        ),
        "letter",
    ),
    "longest_word": World(
        longest_word,
        ("items",),
        worded(
            "Which of these words is the longest? {{ items | join(', ') }}",
            "Write the longest word: {{ items | join(', ') }}",
            "{{ items | join(', ') }}\nThe longest word is",
            "Of these words, copy the one with the most letters: {{ items | join(', ') }}",
            "List: {{ items | join(', ') }}\nTask: copy the longest word.",
            choices="{{ items | join('\\n') }}",
        ),
        "counting",
    ),
    "induction": World(
        induction,
        ("items",),
        worded(
            "{{ items | join(' ') }}",
            "Go on as before: {{ items | join(' ') }}",
            "What comes next if everything repeats?\n{{ items | join(', ') }}",
            "Sequence: {{ items | join(', ') }}\nTask: write the next word.",
            "The last of these words was there before. Copy the word that followed it: {{ items | join(', ') }}",
        ),
        "sequence",
    ),
    "cycle": World(
        cycle,
        ("items",),
        worded(
            "{{ items | join(' ') }}",
            "Go on as before: {{ items | join(' ') }}",
            "What comes next if everything repeats?\n{{ items | join(', ') }}",
            "Sequence: {{ items | join(', ') }}\nTask: write the next letter.",
            "A pattern of letters repeats. Write the letter that is next: {{ items | join(', ') }}",
        ),
        "sequence",
    ),
    "lookup": World(
        lookup,
        ("rows", "item"),
        worded(
            f"{ROWS}\nWhich number belongs to {{{{ item }}}}?",
            f"Find {{{{ item }}}} and write its number.\n{ROWS}",
            f"{ROWS}\n{{{{ item }}}}:",
            f"Table:\n{ROWS}\nTask: copy the number of {{{{ item }}}}.",
            f"What stands beside {{{{ item }}}}?\n{ROWS}",
        ),
        "table",
    ),
    "reverse_lookup": World(
        reverse_lookup,
        ("rows", "item"),
        worded(
            f"{ROWS}\nWhich word belongs to {{{{ item }}}}?",
            f"Find {{{{ item }}}} and write its word.\n{ROWS}",
            f"{ROWS}\nThe word with the number {{{{ item }}}} is",
            f"Table:\n{ROWS}\nTask: copy the word of {{{{ item }}}}.",
            f"Beside which word does {{{{ item }}}} stand?\n{ROWS}",
        ),
        "table",
    ),
}


def named(name: str) -> World:
    """The world of a name, found again in any process."""
    return WORLDS[name]


def tasks() -> dict[str, Offline]:
    """The worlds of this file by their names."""
    return offline(WORLDS, named)
