"""A closed wiki of invented people, towns and works: articles, and one-hop and two-hop questions about them.

Both splits have an article with every fact, in different wordings. 1 in `VALIDATION_ONE_IN` questions is in validation. The
two one-hop questions behind a two-hop question are both in training.
"""

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from t5x_like.tasks.synthetic.sampling import SyntheticTask, make_templates

VALIDATION_ONE_IN = 5
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
    """A kind of fact.

    Attributes:
      statements: wordings of the fact; the last one is used in validation only.
      question: asks for the value.
      phrase: names the value inside a longer question.
    """

    statements: tuple[str, str, str]
    question: str
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


def make_name(rng: random.Random, used: set[str], syllables: int) -> str:
    """Draws a name that is not in `used`, and adds it: open syllables and a final consonant."""
    while True:
        name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDINGS)
        if name not in used:
            used.add(name)
            return name.capitalize()


@functools.cache
def make_facts() -> dict[str, dict[str, str]]:
    """Returns {entity: {relation: value}}: 40 towns, 120 people born in them, 80 works by these people; cached."""
    rng = random.Random(SEED)
    used: set[str] = set()
    rivers = [make_name(rng, used, 1) for _ in range(12)]
    towns: dict[str, dict[str, str]] = {make_name(rng, used, 2): {} for _ in range(40)}
    for town in towns:
        towns[town] = {"land": rng.choice(LANDS), "river": rng.choice(rivers), "founded": str(rng.randint(900, 1500))}
    people = {}
    for _ in range(120):
        person = f"{make_name(rng, used, 1)} {make_name(rng, used, 1)}"
        born = str(rng.randint(1600, 1900))
        people[person] = {"home": rng.choice(list(towns)), "job": rng.choice(JOBS), "born": born}
    works = {}
    for adjective, noun in rng.sample(list(itertools.product(ADJECTIVES, NOUNS)), 80):
        maker = rng.choice(list(people))
        year = str(int(people[maker]["born"]) + rng.randint(20, 60))
        works[f"The {adjective} {noun}"] = {"maker": maker, "form": rng.choice(FORMS), "year": year}
    return towns | people | works


def hash_text(text: str) -> int:
    """Returns a 32-bit hash of a text, equal on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def is_validation(question: str) -> bool:
    """Returns whether a question is in validation."""
    return hash_text(question) % VALIDATION_ONE_IN == 0


def write_article(entity: str, wording: int) -> str:
    """Returns the article of an entity: all of its facts."""
    sentences = [
        RELATIONS[relation].statements[wording].format(entity, value=value)
        for relation, value in make_facts()[entity].items()
    ]
    return f"{entity}. {' '.join(sentences)}"


def articles(split: str) -> Iterator[dict[str, str]]:
    """Yields {"text"}: every article, in two wordings for training and in a third for validation."""
    for wording in (0, 1) if split == "train" else (2,):
        for entity in make_facts():
            yield {"text": write_article(entity, wording)}


def ask(entity: str, relation: str) -> str:
    """Returns the question for a fact."""
    return RELATIONS[relation].question.format(entity)


def state_fact(entity: str, relation: str) -> str:
    """Returns a fact as a step of a rationale."""
    phrase = RELATIONS[relation].phrase.format(entity)
    return f"{phrase[0].upper()}{phrase[1:]} is {make_facts()[entity][relation]}"


def add_context(example: dict, entities: list[str]) -> dict:
    """Adds "context": three articles, those of `entities` among others, shuffled by the hash of the question."""
    rng = random.Random(hash_text(example["question"]))
    others = rng.sample([entity for entity in make_facts() if entity not in entities], 3 - len(entities))
    subjects = [*entities, *others]
    rng.shuffle(subjects)
    return example | {"context": "\n".join(write_article(entity, rng.randrange(2)) for entity in subjects)}


def one_hop(split: str) -> Iterator[dict]:
    """Yields every question about one fact, shuffled."""
    every = [(entity, relation) for entity, about in make_facts().items() for relation in about]
    random.Random(SEED).shuffle(every)
    for entity, relation in every:
        question = ask(entity, relation)
        if is_validation(question) == (split == "validation"):
            answer, rationale = make_facts()[entity][relation], state_fact(entity, relation)
            yield add_context({"question": question, "answer": answer, "rationale": rationale}, [entity])


def two_hop(split: str) -> Iterator[dict]:
    """Yields every question that joins two facts (entity -> bridge -> answer), both in training as one-hop questions."""
    every = [
        (entity, relation, bridge, second)
        for entity, about in make_facts().items()
        for relation, bridge in about.items()
        for second in make_facts().get(bridge, ())
    ]
    random.Random(SEED).shuffle(every)
    for entity, relation, bridge, second in every:
        question = ask(RELATIONS[relation].phrase.format(entity), second)
        if is_validation(ask(entity, relation)) or is_validation(ask(bridge, second)):
            continue
        if is_validation(question) == (split == "validation"):
            rationale = f"{state_fact(entity, relation)}. {state_fact(bridge, second)}"
            example = {"question": question, "answer": make_facts()[bridge][second], "rationale": rationale}
            yield add_context(example, [entity, bridge])


CLOSED_BOOK = make_templates(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "From what you have read: {{ question }}",
    "Answer with a name, a word or a year. {{ question }}",
    "Q: {{ question }}",
)
READING = make_templates(
    "{{ context }}\n{{ question }}",
    "{{ question }}\n\n{{ context }}",
    "Read this:\n{{ context }}\n\nQuestion: {{ question }}",
    "Answer the question with words of the text.\n{{ context }}\nQ: {{ question }}",
    "Text: {{ context }}\nTask: {{ question }}",
)

TASKS = {
    "wiki_one_hop": SyntheticTask(one_hop, CLOSED_BOOK, "wiki_closed_book"),
    "wiki_two_hop": SyntheticTask(two_hop, CLOSED_BOOK, "wiki_closed_book"),
    "wiki_one_hop_reading": SyntheticTask(one_hop, READING, "wiki_reading"),
    "wiki_two_hop_reading": SyntheticTask(two_hop, READING, "wiki_reading"),
}


def make_tasks() -> dict[str, SyntheticTask]:
    """Returns the tasks of this file by name."""
    return TASKS
