"""The nine tasks of GLUE (Wang et al. 2018), from GLUE's TSV files, the Hub's Parquet files, or TFDS.

The metrics are GLUE's, computed from text as T5 does (t5/data/glue_utils.py, t5/evaluation/metrics.py): an answer counts only
if it is a label, letter by letter; F1 and Matthews correlation count any other text as a wrong label; a similarity that is no
number is -1.
"""

import functools
from collections.abc import Mapping

from t5x_like import text_metrics
from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks.benchmarks.benchmark import Benchmark, Layout, Row, add_answer, parquet_layout, read_tsv
from t5x_like.tasks.synthetic.sampling import make_templates
from t5x_like.text_metrics import postprocess

NO_YES = ("no", "yes")
COLA = ("unacceptable", "acceptable")
SENTIMENT = ("negative", "positive")
ENTAILED = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
ACCURACY = (text_metrics.accuracy,)
ACCURACY_F1 = (text_metrics.accuracy, functools.partial(text_metrics.f1, positive="yes", negative="no"))


def classification_example(
    row: Row, fields: tuple[str, ...], answers: tuple[str, ...], names: tuple[str, ...] = ()
) -> dict | Dropped:
    """Returns the texts of a row and its label as a word; see `add_answer`."""
    return add_answer({name: row[name] for name in fields}, row["label"], answers, names)


TSV = {"train": "train.tsv", "validation": "dev.tsv"}


def tsv_layout(
    folder: str, names: Mapping[str, str], columns: tuple[str, ...] = (), files: Mapping[str, str] = TSV
) -> Layout:
    """Returns GLUE's layout, one folder per task; for `names` and `columns` see `read_tsv`, `files` is {split: file}."""
    read = functools.partial(read_tsv, names=names, columns=columns)
    return Layout({split: f"glue/{folder}/{file}" for split, file in files.items()}, read)


def stsb_example(row: Row) -> dict | Dropped:
    """Returns an example of STS-B; the answer is the score rounded to a multiple of 0.2, as in T5."""
    score = float(row["label"])
    if not 0 <= score <= 5:
        return Dropped("benchmark.no_label", f"label={score} is not a similarity from 0 to 5")
    fields = {name: row[name] for name in ("sentence1", "sentence2")}
    return fields | {"label": score, "answer": f"{round(score * 5) / 5:.1f}"}


PAIR = ("sentence1", "sentence2")
MNLI_SPLITS = {
    "train": "train",
    "validation": "validation_matched",
    "validation_mismatched": "validation_mismatched",
}

cola = Benchmark(
    functools.partial(classification_example, fields=("sentence",), answers=COLA),
    make_templates(
        "Is this sentence acceptable English? {{ sentence }}\nAnswer acceptable or unacceptable.",
        "{{ sentence }}\nWould a linguist call this acceptable or unacceptable?",
        "Judge the grammar (acceptable, unacceptable): {{ sentence }}",
        choices=COLA,
    ),
    (functools.partial(text_metrics.matthews_correlation, classes=COLA), text_metrics.accuracy),
    (
        tsv_layout("CoLA", {"sentence": "sentence", "label": "label"}, ("source", "label", "mark", "sentence")),
        parquet_layout("glue/cola"),
    ),
    "acceptability",
    "glue/cola",
)

sst2 = Benchmark(
    functools.partial(classification_example, fields=("sentence",), answers=SENTIMENT),
    make_templates(
        "{{ sentence }}\nIs this positive or negative?",
        "What feeling does this review express, positive or negative? {{ sentence }}",
        "Review: {{ sentence }}\nSentiment (negative or positive):",
        choices=SENTIMENT,
    ),
    ACCURACY,
    (tsv_layout("SST-2", {"sentence": "sentence", "label": "label"}), parquet_layout("glue/sst2")),
    "sentiment",
    "glue/sst2",
)

PARAPHRASE = make_templates(
    "{{ sentence1 }}\n{{ sentence2 }}\nDo these two mean the same? Answer yes or no.",
    "Is the second sentence a paraphrase of the first (yes or no)?\n1. {{ sentence1 }}\n2. {{ sentence2 }}",
    "First: {{ sentence1 }}\nSecond: {{ sentence2 }}\nThe same meaning, yes or no?",
    choices=NO_YES,
)

mrpc = Benchmark(
    functools.partial(classification_example, fields=PAIR, answers=NO_YES),
    PARAPHRASE,
    ACCURACY_F1,
    (
        tsv_layout("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
        parquet_layout("glue/mrpc"),
    ),
    "paraphrase",
    "glue/mrpc",
)

qqp = Benchmark(
    functools.partial(classification_example, fields=("question1", "question2"), answers=NO_YES),
    make_templates(
        "{{ question1 }}\n{{ question2 }}\nDo these ask for the same thing? Answer yes or no.",
        "Would one answer do for both questions (yes or no)?\n1. {{ question1 }}\n2. {{ question2 }}",
        "Question 1: {{ question1 }}\nQuestion 2: {{ question2 }}\nDuplicates, yes or no?",
        choices=NO_YES,
    ),
    ACCURACY_F1,
    (
        tsv_layout("QQP", {"question1": "question1", "question2": "question2", "label": "is_duplicate"}),
        parquet_layout("glue/qqp"),
    ),
    "paraphrase",
    "glue/qqp",
)

stsb = Benchmark(
    stsb_example,
    make_templates(
        "How similar are these, from 0.0 to 5.0?\n{{ sentence1 }}\n{{ sentence2 }}",
        "{{ sentence1 }}\n{{ sentence2 }}\nRate how close in meaning they are, 0.0 (not at all) to 5.0 (the same).",
        "First: {{ sentence1 }}\nSecond: {{ sentence2 }}\nSimilarity (0.0 to 5.0):",
    ),
    (text_metrics.pearson, text_metrics.spearman),
    (
        tsv_layout("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}),
        parquet_layout("glue/stsb"),
    ),
    "paraphrase",
    "glue/stsb",
    postprocess=functools.partial(postprocess.parse_number, field="label"),
)

mnli = Benchmark(
    functools.partial(classification_example, fields=("premise", "hypothesis"), answers=INFERENCE),
    make_templates(
        "{{ premise }}\nDoes it follow that {{ hypothesis }}\nAnswer entailment, neutral or contradiction.",
        "Premise: {{ premise }}\nHypothesis: {{ hypothesis }}\nentailment, neutral or contradiction?",
        "How does the second sentence relate to the first (contradiction, entailment, neutral)?\n"
        "1. {{ premise }}\n2. {{ hypothesis }}",
        choices=INFERENCE,
    ),
    ACCURACY,
    (
        tsv_layout(
            "MNLI",
            {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
            files={
                "train": "train.tsv",
                "validation": "dev_matched.tsv",
                "validation_mismatched": "dev_mismatched.tsv",
            },
        ),
        parquet_layout("glue/mnli", MNLI_SPLITS),
    ),
    "inference",
    "glue/mnli",
    MNLI_SPLITS,
)

qnli = Benchmark(
    functools.partial(classification_example, fields=("question", "sentence"), answers=("yes", "no"), names=ENTAILED),
    make_templates(
        "{{ sentence }}\nDoes this answer the question: {{ question }}\nyes or no?",
        "Question: {{ question }}\nSentence: {{ sentence }}\nIs the answer in the sentence (yes or no)?",
        "Can you answer {{ question }} from this? {{ sentence }}\nSay yes or no.",
        choices=("yes", "no"),
    ),
    ACCURACY,
    (
        tsv_layout("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}),
        parquet_layout("glue/qnli"),
    ),
    "inference",
    "glue/qnli",
)

rte = Benchmark(
    functools.partial(classification_example, fields=PAIR, answers=("yes", "no"), names=ENTAILED),
    make_templates(
        "{{ sentence1 }}\nDoes it follow that {{ sentence2 }}\nAnswer yes or no.",
        "Text: {{ sentence1 }}\nClaim: {{ sentence2 }}\nIs the claim true according to the text (yes or no)?",
        "If {{ sentence1 }}\nthen {{ sentence2 }}\nyes or no?",
        choices=("yes", "no"),
    ),
    ACCURACY,
    (
        tsv_layout("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
        parquet_layout("glue/rte"),
    ),
    "inference",
    "glue/rte",
)

wnli = Benchmark(
    functools.partial(classification_example, fields=PAIR, answers=NO_YES),
    make_templates(
        "{{ sentence1 }}\nDoes that mean that {{ sentence2 }}\nAnswer yes or no.",
        "Text: {{ sentence1 }}\nIs it true that {{ sentence2 }}\nyes or no?",
        "First: {{ sentence1 }}\nSecond: {{ sentence2 }}\nDoes the second follow from the first (yes or no)?",
        choices=NO_YES,
    ),
    ACCURACY,
    (
        tsv_layout("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
        parquet_layout("glue/wnli"),
    ),
    "coreference",
    "glue/wnli",
)

BENCHMARKS = {
    "glue_cola": cola,
    "glue_sst2": sst2,
    "glue_mrpc": mrpc,
    "glue_qqp": qqp,
    "glue_stsb": stsb,
    "glue_mnli": mnli,
    "glue_qnli": qnli,
    "glue_rte": rte,
    "glue_wnli": wnli,
}
