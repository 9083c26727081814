"""Tasks on words and their letters, repeating sequences, and lookup tables: {"word" or "items", ..., "answer", "rationale"}."""

import random
import string
from collections.abc import Callable

from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic.lists import WORDS
from t5x_like.tasks.synthetic.sampling import SyntheticTask, TaskGenerator, make_templates, to_tasks

LONG_WORDS = tuple(word for word in WORDS if len(word) > 3)


def spell(word: str) -> str:
    """Returns the letters of a word, joined by hyphens."""
    return "-".join(word)


def word_example(rng: random.Random, solve: Callable[[str], str], rationale: str) -> dict:
    """Draws a word or random letters; the answer is `solve(word)`."""
    word = (
        rng.choice(WORDS) if rng.random() < 0.5 else "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 6)))
    )
    answer = solve(word)
    return {"word": word, "answer": answer, "rationale": f"{spell(word)}: {rationale}{answer}"}


def uppercase(rng: random.Random) -> dict:
    """Asks for a word in capital letters."""
    return word_example(rng, str.upper, "in capitals ")


def spelling(rng: random.Random) -> dict:
    """Asks for the letters of a word."""
    return word_example(rng, spell, "with lines between its letters ")


def backward_word(rng: random.Random) -> dict:
    """Asks for a word in reverse."""
    return word_example(rng, lambda word: word[::-1], "from its end ")


def first_letter(rng: random.Random) -> dict:
    """Asks for the first letter of a word."""
    return word_example(rng, lambda word: word[0], "it begins with ")


def last_letter(rng: random.Random) -> dict:
    """Asks for the last letter of a word."""
    return word_example(rng, lambda word: word[-1], "it ends with ")


def word_length(rng: random.Random) -> dict:
    """Asks for the number of letters of a word."""
    return word_example(rng, lambda word: str(len(word)), "count ")


def doubled_word(rng: random.Random) -> dict:
    """Asks for a word twice."""
    return word_example(rng, lambda word: f"{word} {word}", "twice ")


def letter_count(rng: random.Random) -> dict:
    """Asks how often a letter occurs in a word of three different letters."""
    letters = rng.sample(string.ascii_lowercase, 3)
    word = "".join(rng.choices(letters, k=rng.randint(3, 7)))
    item = rng.choice(letters)
    answer = str(word.count(item))
    return {"word": word, "item": item, "answer": answer, "rationale": f"{spell(word)}: {item} is there {answer}"}


def last_letters(rng: random.Random) -> dict:
    """Asks for the last letters of several words, joined."""
    items = rng.sample(WORDS, rng.randint(2, 4))
    answer = "".join(item[-1] for item in items)
    steps = ", ".join(f"{item} ends with {item[-1]}" for item in items)
    return {"items": items, "answer": answer, "rationale": f"{steps}. Together {answer}"}


def longest_word(rng: random.Random) -> dict:
    """Asks for the longest of several words; there is only one."""
    answer = rng.choice(LONG_WORDS)
    items = [answer, *rng.sample([word for word in WORDS if len(word) < len(answer)], rng.randint(1, 3))]
    rng.shuffle(items)
    steps = ", ".join(f"{item} {len(item)}" for item in items)
    return {"items": items, "answer": answer, "rationale": f"{steps}. The longest is {answer}"}


def induction(rng: random.Random) -> dict:
    """Asks for the item that followed the earlier occurrence of the last item: A B ... A -> B."""
    items = rng.sample(WORDS, rng.randint(3, 6))
    place = rng.randrange(len(items) - 1)
    answer = items[place + 1]
    again = [*items, items[place]]
    return {"items": again, "answer": answer, "rationale": f"{items[place]} was there before, and then came {answer}"}


def cycle(rng: random.Random) -> dict:
    """Asks for the next letter of a repeating pattern of 2 or 3 letters."""
    pattern = rng.sample(string.ascii_lowercase, rng.randint(2, 3))
    length = rng.randint(2 * len(pattern), 3 * len(pattern))
    items = [pattern[i % len(pattern)] for i in range(length)]
    answer = pattern[length % len(pattern)]
    return {"items": items, "answer": answer, "rationale": f"{' '.join(pattern)} repeats, so next is {answer}"}


def lookup(rng: random.Random) -> dict:
    """Asks for the number of a word in a table."""
    keys = rng.sample(WORDS, rng.randint(2, 5))
    values = [str(value) for value in rng.sample(range(100), len(keys))]
    place = rng.randrange(len(keys))
    rows = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    rationale = f"The row is {rows[place]}"
    return {"rows": rows, "item": keys[place], "answer": values[place], "rationale": rationale}


def reverse_lookup(rng: random.Random) -> dict:
    """Asks for the word of a number in a table."""
    keys = rng.sample(WORDS, rng.randint(2, 5))
    values = [str(value) for value in rng.sample(range(100), len(keys))]
    place = rng.randrange(len(keys))
    rows = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    rationale = f"{values[place]} stands beside {keys[place]}"
    return {"rows": rows, "item": values[place], "answer": keys[place], "rationale": rationale}


def word_templates(question: str, command: str, result: str) -> tuple[Template, ...]:
    """Returns templates about one word from a question, a command, and the name of the result."""
    return make_templates(
        f"{question} {{{{ word }}}}?",
        f"{command}: {{{{ word }}}}",
        f"{{{{ word }}}}\n{result} is",
        f"Take the word {{{{ word }}}}. {command}.",
        f"Word: {{{{ word }}}}\nTask: {command[0].lower()}{command[1:]}.",
    )


ROWS = "{{ rows | join('\\n') }}"

GENERATORS = {
    "uppercase": TaskGenerator(
        uppercase,
        ("word",),
        word_templates("What is in capitals", "Write it in capital letters", "In capitals it"),
        "spelling",
    ),
    "spelling": TaskGenerator(
        spelling,
        ("word",),
        word_templates("How do you spell", "Write its letters with - between", "Spelled, it"),
        "spelling",
    ),
    "backward_word": TaskGenerator(
        backward_word, ("word",), word_templates("What is backwards", "Write it backwards", "Backwards it"), "spelling"
    ),
    "doubled_word": TaskGenerator(
        doubled_word, ("word",), word_templates("What is twice", "Write it two times", "Written twice it"), "spelling"
    ),
    "first_letter": TaskGenerator(
        first_letter,
        ("word",),
        word_templates("What is the first letter of", "Write its first letter", "Its first letter"),
        "letter",
    ),
    "last_letter": TaskGenerator(
        last_letter,
        ("word",),
        word_templates("What is the last letter of", "Write its last letter", "Its last letter"),
        "letter",
    ),
    "word_length": TaskGenerator(
        word_length,
        ("word",),
        word_templates("How many letters are in", "Count its letters", "The number of its letters"),
        "counting",
    ),
    "letter_count": TaskGenerator(
        letter_count,
        ("word", "item"),
        make_templates(
            "How many times is the letter {{ item }} in {{ word }}?",
            "Count the letter {{ item }}: {{ word }}",
            "{{ word }}\nThe number of letters {{ item }} is",
            "Take the word {{ word }}. How often does it have {{ item }}?",
            "Word: {{ word }}\nTask: count {{ item }}.",
        ),
        "counting",
    ),
    "last_letters": TaskGenerator(
        last_letters,
        ("items",),
        make_templates(
            "Join the last letters of these words: {{ items | join(' ') }}",
            "Take the last letter of each word and write them together.\n{{ items | join(', ') }}",
            "{{ items | join(', ') }}\nThe last letters together are",
            "What do the last letters of {{ items | join(', ') }} make?",
            "List: {{ items | join(', ') }}\nTask: join the last letters.",
        ),
        "letter",
    ),
    "longest_word": TaskGenerator(
        longest_word,
        ("items",),
        make_templates(
            "Which of these words is the longest? {{ items | join(', ') }}",
            "Write the longest word: {{ items | join(', ') }}",
            "{{ items | join(', ') }}\nThe longest word is",
            "Of these words, copy the one with the most letters: {{ items | join(', ') }}",
            "List: {{ items | join(', ') }}\nTask: copy the longest word.",
            choices="{{ items | join('\\n') }}",
        ),
        "counting",
    ),
    "induction": TaskGenerator(
        induction,
        ("items",),
        make_templates(
            "{{ items | join(' ') }}",
            "Go on as before: {{ items | join(' ') }}",
            "What comes next if everything repeats?\n{{ items | join(', ') }}",
            "Sequence: {{ items | join(', ') }}\nTask: write the next word.",
            "The last of these words was there before. Copy the word that followed it: {{ items | join(', ') }}",
        ),
        "sequence",
    ),
    "cycle": TaskGenerator(
        cycle,
        ("items",),
        make_templates(
            "{{ items | join(' ') }}",
            "Go on as before: {{ items | join(' ') }}",
            "What comes next if everything repeats?\n{{ items | join(', ') }}",
            "Sequence: {{ items | join(', ') }}\nTask: write the next letter.",
            "A pattern of letters repeats. Write the letter that is next: {{ items | join(', ') }}",
        ),
        "sequence",
    ),
    "lookup": TaskGenerator(
        lookup,
        ("rows", "item"),
        make_templates(
            f"{ROWS}\nWhich number belongs to {{{{ item }}}}?",
            f"Find {{{{ item }}}} and write its number.\n{ROWS}",
            f"{ROWS}\n{{{{ item }}}}:",
            f"Table:\n{ROWS}\nTask: copy the number of {{{{ item }}}}.",
            f"What stands beside {{{{ item }}}}?\n{ROWS}",
        ),
        "table",
    ),
    "reverse_lookup": TaskGenerator(
        reverse_lookup,
        ("rows", "item"),
        make_templates(
            f"{ROWS}\nWhich word belongs to {{{{ item }}}}?",
            f"Find {{{{ item }}}} and write its word.\n{ROWS}",
            f"{ROWS}\nThe word with the number {{{{ item }}}} is",
            f"Table:\n{ROWS}\nTask: copy the word of {{{{ item }}}}.",
            f"Beside which word does {{{{ item }}}} stand?\n{ROWS}",
        ),
        "table",
    ),
}


def find_generator(name: str) -> TaskGenerator:
    """Returns a generator of this file by name."""
    return GENERATORS[name]


def make_tasks() -> dict[str, SyntheticTask]:
    """Returns the tasks of this file by name."""
    return to_tasks(GENERATORS, find_generator)
