"""A closed wiki of invented people, towns and works: articles to read, and questions of one and of two hops about them.

Every fact is in an article of both splits, in other words. One question in `HELD_OUT` validates; a held-out question of two
hops joins two facts that are both asked for in training, but never together.
"""

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from t5x_like.tasks.synthetic.sampling import Offline, worded

HELD_OUT = 5
SEED = 7
CONSONANTS = "b br d dr f fl g gr h j k kl l m n p pr r s st t tr v w z"
ONSETS = tuple(CONSONANTS.split())
VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
ENDINGS = ("l", "m", "n", "r", "s", "x")
LANDS = ("Arvenia", "Belmora", "Corvada", "Dunmark", "Estoria", "Farland")
JOBS = ("painter", "baker", "doctor", "sailor", "teacher", "farmer", "lawyer", "weaver")
FORMS = ("novel", "song", "play", "poem", "opera")
ADJECTIVES = (
    "Silent",
    "Golden",
    "Broken",
    "Hidden",
    "Early",
    "Second",
    "Distant",
    "Wooden",
    "Green",
    "Last",
    "Narrow",
    "Bright",
)
NOUNS = (
    "Bridge",
    "Winter",
    "Garden",
    "Letter",
    "Harbour",
    "Mirror",
    "Mountain",
    "Clock",
    "River",
    "Guest",
    "Window",
    "Road",
)


@dataclass(frozen=True)
class Relation:
    """How a fact is told (the last way in validation only), asked for, and named inside a longer question."""

    told: tuple[str, str, str]
    asked: str
    phrase: str


RELATIONS = {
    "land": Relation(
        ("{} is a town in {value}.", "The town of {} belongs to {value}.", "{value} is the country of {}."),
        "In which country is {}?",
        "the country of {}",
    ),
    "river": Relation(
        ("{} lies on the river {value}.", "The river of {} is the {value}.", "The {value} flows through {}."),
        "On which river is {}?",
        "the river of {}",
    ),
    "founded": Relation(
        ("{} was founded in {value}.", "The first houses of {} are of {value}.", "In {value}, {} was founded."),
        "When was {} founded?",
        "the founding year of {}",
    ),
    "home": Relation(
        ("{} was born in {value}.", "The birthplace of {} is {value}.", "{value} is where {} was born."),
        "In which town was {} born?",
        "the birthplace of {}",
    ),
    "job": Relation(
        ("{} was a {value}.", "{} worked as a {value}.", "The profession of {} was that of a {value}."),
        "What was the profession of {}?",
        "the profession of {}",
    ),
    "born": Relation(
        ("The birth year of {} is {value}.", "{} is of the year {value}.", "In {value}, {} was born."),
        "What is the birth year of {}?",
        "the birth year of {}",
    ),
    "maker": Relation(
        ("{} was made by {value}.", "The maker of {} is {value}.", "{value} made {}."),
        "Who made {}?",
        "the maker of {}",
    ),
    "form": Relation(
        ("{} is a {value}.", "As a work, {} is a {value}.", "By its form, {} is a {value}."),
        "What form of work is {}?",
        "the form of {}",
    ),
    "year": Relation(
        ("{} appeared in {value}.", "The year of {} is {value}.", "In {value}, {} appeared."),
        "In which year did {} appear?",
        "the year of {}",
    ),
}


def name(rng: random.Random, taken: set[str], syllables: int) -> str:
    """A new name of open syllables and a closed end."""
    while True:
        made = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDINGS)
        if made not in taken:
            taken.add(made)
            return made.capitalize()


@functools.cache
def facts() -> dict[str, dict[str, str]]:
    """{entity: {relation: value}}: 40 towns, 120 people who were born in them, 80 works that they made."""
    rng, taken = random.Random(SEED), set()
    rivers = [name(rng, taken, 1) for _ in range(12)]
    towns = {name(rng, taken, 2): None for _ in range(40)}
    for town in towns:
        towns[town] = {"land": rng.choice(LANDS), "river": rng.choice(rivers), "founded": str(rng.randint(900, 1500))}
    people = {}
    for _ in range(120):
        person = f"{name(rng, taken, 1)} {name(rng, taken, 1)}"
        born = str(rng.randint(1600, 1900))
        people[person] = {"home": rng.choice(list(towns)), "job": rng.choice(JOBS), "born": born}
    works = {}
    for adjective, noun in rng.sample(list(itertools.product(ADJECTIVES, NOUNS)), 80):
        maker = rng.choice(list(people))
        year = str(int(people[maker]["born"]) + rng.randint(20, 60))
        works[f"The {adjective} {noun}"] = {"maker": maker, "form": rng.choice(FORMS), "year": year}
    return towns | people | works


def hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def held_out(question: str) -> bool:
    return hashed(question) % HELD_OUT == 0


def article(entity: str, wording: int) -> str:
    """All that is known of an entity."""
    told = [
        RELATIONS[relation].told[wording].format(entity, value=value) for relation, value in facts()[entity].items()
    ]
    return f"{entity}. {' '.join(told)}"


def articles(split: str) -> Iterator[dict[str, str]]:
    """{"text"}: in training every article in two wordings, in validation in a third."""
    for wording in (0, 1) if split == "train" else (2,):
        for entity in facts():
            yield {"text": article(entity, wording)}


def asked(entity: str, relation: str) -> str:
    return RELATIONS[relation].asked.format(entity)


def known(entity: str, relation: str) -> str:
    """A fact as a step of a rationale."""
    phrase = RELATIONS[relation].phrase.format(entity)
    return f"{phrase[0].upper()}{phrase[1:]} is {facts()[entity][relation]}"


def with_context(example: dict, entities: list[str]) -> dict:
    """The articles that answer a question among others, in an order that the question's hash decides."""
    rng = random.Random(hashed(example["question"]))
    others = rng.sample([entity for entity in facts() if entity not in entities], 3 - len(entities))
    shown = [*entities, *others]
    rng.shuffle(shown)
    return example | {"context": "\n".join(article(entity, rng.randrange(2)) for entity in shown)}


def one_hop(split: str) -> Iterator[dict]:
    """Every question about one fact, shuffled."""
    every = [(entity, relation) for entity, about in facts().items() for relation in about]
    random.Random(SEED).shuffle(every)
    for entity, relation in every:
        question = asked(entity, relation)
        if held_out(question) == (split == "validation"):
            example = {"question": question, "answer": facts()[entity][relation], "rationale": known(entity, relation)}
            yield with_context(example, [entity])


def two_hop(split: str) -> Iterator[dict]:
    """Every question about a fact of what another fact names, both asked for alone in training."""
    every = [
        (entity, relation, between, further)
        for entity, about in facts().items()
        for relation, between in about.items()
        for further in facts().get(between, ())
    ]
    random.Random(SEED).shuffle(every)
    for entity, relation, between, further in every:
        question = asked(RELATIONS[relation].phrase.format(entity), further)
        if held_out(asked(entity, relation)) or held_out(asked(between, further)):
            continue
        if held_out(question) == (split == "validation"):
            rationale = f"{known(entity, relation)}. {known(between, further)}"
            example = {"question": question, "answer": facts()[between][further], "rationale": rationale}
            yield with_context(example, [entity, between])


CLOSED_BOOK = worded(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "From what you have read: {{ question }}",
    "Answer with a name, a word or a year. {{ question }}",
    "Q: {{ question }}",
)
READING = worded(
    "{{ context }}\n{{ question }}",
    "{{ question }}\n\n{{ context }}",
    "Read this:\n{{ context }}\n\nQuestion: {{ question }}",
    "Answer the question with words of the text.\n{{ context }}\nQ: {{ question }}",
    "Text: {{ context }}\nTask: {{ question }}",
)

QUESTIONS = {
    "wiki_one_hop": Offline(one_hop, CLOSED_BOOK, "wiki_closed_book"),
    "wiki_two_hop": Offline(two_hop, CLOSED_BOOK, "wiki_closed_book"),
    "wiki_one_hop_reading": Offline(one_hop, READING, "wiki_reading"),
    "wiki_two_hop_reading": Offline(two_hop, READING, "wiki_reading"),
}


def tasks() -> dict[str, Offline]:
    """The questions of this file by their names."""
    return QUESTIONS
