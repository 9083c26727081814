"""A few invented lines in the layouts of the benchmarks: {path below the data folder: text}."""

import json


def lines(*rows) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def tabbed(*rows: tuple) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Oslo",
            "paragraphs": [
                {
                    "context": "The old bridge was built by Ada Berg in 1871.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who built it?",
                            "answers": [
                                {"text": "Ada Berg", "answer_start": 28},
                                {"text": "Berg", "answer_start": 32},
                            ],
                        },
                        {"id": "2", "question": "When?", "answers": [{"text": "1871", "answer_start": 40}]},
                    ],
                }
            ],
        }
    ],
}
TRIVIA = {
    "Data": [
        {"Question": "Which river runs through Vienna?", "Answer": {"Value": "Danube", "Aliases": ["Donau", "Danube"]}},
        {"Question": "How many legs has an ant?", "Answer": {"Value": "Six", "Aliases": ["6"]}},
    ]
}
PASSAGE = "Lena met Otto in Riga.\n@highlight\nOtto lives there"
PROBLEMS = (
    {
        "task_id": "Fixture/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
    },
    {
        "task_id": "Fixture/1",
        "prompt": 'def last(items):\n    """The last item."""\n',
        "entry_point": "last",
        "canonical_solution": "    return items[-1]\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 2\n",
    },
)
INFERENCE = ("entailment", "neutral", "contradiction")
RTE = ("entailment", "not_entailment", "entailment")
PAIRS = (("It rained.", "Water fell."), ("He sleeps.", "He runs."), ("We ate.", "We had food."))


def inference(labels: tuple[str, ...], first: str = "sentence1", second: str = "sentence2") -> str:
    rows = [(n, *pair, label) for n, (pair, label) in enumerate(zip(PAIRS, labels, strict=False))]
    return tabbed(("index", first, second, "label"), *rows)


GLUE = {
    "glue/CoLA/dev.tsv": tabbed(
        ("a1", 1, "", "The cat sat."), ("a2", 0, "*", "Cat the sat."), ("a3", 1, "", "She left.")
    ),
    "glue/SST-2/dev.tsv": tabbed(("sentence", "label"), ("a fine film", 1), ("dull", 0), ('it is "good', 1)),
    "glue/MRPC/dev.tsv": tabbed(
        ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), (1, 7, 8, *PAIRS[0]), (0, 9, 10, *PAIRS[1])
    ),
    "glue/QQP/dev.tsv": tabbed(
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        (1, 2, 3, "What is it?", "What may it be?", 1),
        (2, 4, 5, "Where?", "When?", 0),
    ),
    "glue/STS-B/dev.tsv": tabbed(
        ("index", "genre", "sentence1", "sentence2", "score"),
        (0, "x", *PAIRS[0], 4.2),
        (1, "x", *PAIRS[1], 0.4),
        (2, "x", *PAIRS[2], 3.6),
    ),
    "glue/MNLI/dev_matched.tsv": tabbed(
        ("index", "sentence1", "sentence2", "label1", "gold_label"),
        *((n, *pair, label, label) for n, (pair, label) in enumerate(zip(PAIRS, INFERENCE, strict=True))),
        (3, "No gold.", "None.", "neutral", "-"),
    ),
    "glue/QNLI/dev.tsv": inference(("entailment", "not_entailment"), "question", "sentence"),
    "glue/RTE/dev.tsv": inference(("entailment", "not_entailment", "entailment")),
    "glue/WNLI/dev.tsv": inference(("1", "0", "1")),
}
SUPER_GLUE = {
    "super_glue/BoolQ/val.jsonl": lines(
        {"question": "is rain wet", "passage": "Rain is water.", "idx": 0, "label": True},
        {"question": "is fire wet", "passage": "Fire is hot.", "idx": 1, "label": False},
    ),
    "super_glue/CB/val.jsonl": lines(
        *({"premise": a, "hypothesis": b, "label": c, "idx": 0} for (a, b), c in zip(PAIRS, INFERENCE, strict=True))
    ),
    "super_glue/COPA/val.jsonl": lines(
        {
            "premise": "The cup broke.",
            "choice1": "It fell.",
            "choice2": "It sang.",
            "question": "cause",
            "label": 0,
            "idx": 0,
        },
        {
            "premise": "It rained.",
            "choice1": "He flew.",
            "choice2": "He got wet.",
            "question": "effect",
            "label": 1,
            "idx": 1,
        },
    ),
    "super_glue/MultiRC/val.jsonl": lines(
        {
            "idx": 0,
            "passage": {
                "text": "Ben has a dog and a cat.",
                "questions": [
                    {
                        "idx": 0,
                        "question": "What has Ben?",
                        "answers": [
                            {"idx": 0, "text": "a dog", "label": 1},
                            {"idx": 1, "text": "a cow", "label": 0},
                        ],
                    },
                    {"idx": 1, "question": "Who has pets?", "answers": [{"idx": 2, "text": "Ben", "label": 1}]},
                ],
            },
        }
    ),
    "super_glue/ReCoRD/val.jsonl": lines(
        {
            "idx": 0,
            "passage": {
                "text": PASSAGE,
                "entities": [{"start": 0, "end": 3}, {"start": 9, "end": 12}, {"start": 17, "end": 20}],
            },
            "qas": [
                {"idx": 0, "query": "@placeholder is in Riga", "answers": [{"start": 9, "end": 12, "text": "Otto"}]},
                {"idx": 1, "query": "They met in @placeholder", "answers": [{"start": 17, "end": 20, "text": "Riga"}]},
            ],
        }
    ),
    "super_glue/RTE/val.jsonl": lines(
        *({"premise": a, "hypothesis": b, "label": c, "idx": 0} for (a, b), c in zip(PAIRS, RTE, strict=True))
    ),
    "super_glue/WiC/val.jsonl": lines(
        {"word": "bank", "sentence1": "A river bank.", "sentence2": "A bank loan.", "label": False, "idx": 0},
        {"word": "bank", "sentence1": "A big bank.", "sentence2": "The bank lends.", "label": True, "idx": 1},
    ),
    "super_glue/WSC/val.jsonl": lines(
        *(
            {
                "text": "Mia thanked Eva because she had helped.",
                "target": {"span1_text": name, "span1_index": 0, "span2_text": "she", "span2_index": 4},
                "label": label,
                "idx": 0,
            }
            for name, label in (("Eva", True), ("Mia", False))
        )
    ),
}
ANSWERS = {
    "squad/dev-v1.1.json": json.dumps(SQUAD),
    "trivia_qa/triviaqa-unfiltered/unfiltered-web-dev.json": json.dumps(TRIVIA),
    "gsm8k/test.jsonl": lines(
        {"question": "Two bags of 6?", "answer": "2 * 6 = <<2*6=12>>12\n#### 12"},
        {"question": "Half of 2400?", "answer": "2400 / 2 = <<2400/2=1200>>1200\n#### 1,200"},
    ),
    "mmlu/data/val/high_school_biology_val.csv": '"Which, if any, flies?",cow,"bird, small",pig,cat,B\nHow many?,1,2,3,4,D\n',
}
GENERATION = {
    **{
        f"{folder}/validation.{language}": text
        for folder, other in (("wmt14/de-en", "de"), ("wmt14/fr-en", "fr"), ("wmt16/ro-en", "ro"))
        for language, text in (
            ("en", "The small house is very old today.\nWe are all going home now.\n"),
            (other, "Das kleine Haus ist heute sehr alt.\nWir gehen jetzt alle nach Hause.\n"),
        )
    },
    "cnn_dailymail/validation.csv": (
        'id,article,highlights\n1,"A long, long story.","A story .\nIt is long ."\n2,Snow fell.,Winter came .\n'
    ),
    "human_eval/HumanEval.jsonl": lines(*PROBLEMS),
}
FILES = GLUE | SUPER_GLUE | ANSWERS | GENERATION
