"""Overlap of generated texts with references: BLEU, chrF, ROUGE, edit distance."""

import itertools
from collections.abc import Sequence

import numpy as np

from t5x_like.text_metrics.pairs import check_pairs, import_library, list_answers

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def transpose_references(targets: Sequence) -> list[tuple]:
    """The form of sacrebleu: first references of all texts, then the second ones; None for a text with fewer."""
    return list(itertools.zip_longest(*map(list_answers, targets)))


def bleu(
    targets: Sequence, predictions: Sequence[str], tokenize: str = "13a", lowercase: bool = False
) -> dict[str, float]:
    """Corpus BLEU, 0-100, by sacrebleu (Post 2018), exponential smoothing; T5 reports tokenize="intl".

    A target is one reference or several. `bleu_length_ratio` is predicted words over reference words.
    """
    targets, predictions = check_pairs(targets, predictions)
    sacrebleu = import_library("sacrebleu", "sacrebleu")
    score = sacrebleu.corpus_bleu(predictions, transpose_references(targets), tokenize=tokenize, lowercase=lowercase)
    return {"bleu": float(score.score), "bleu_length_ratio": float(score.ratio)}


def chrf(targets: Sequence, predictions: Sequence[str], word_order: int = 0) -> dict[str, float]:
    """Corpus chrF2, 0-100, by sacrebleu (Popović 2015); chrF++ with `word_order=2`."""
    targets, predictions = check_pairs(targets, predictions)
    score = import_library("sacrebleu", "sacrebleu").corpus_chrf(
        predictions, transpose_references(targets), word_order=word_order
    )
    return {"chrf": float(score.score)}


def rouge(targets: Sequence, predictions: Sequence[str], use_stemmer: bool = False) -> dict[str, float]:
    """Mean F of ROUGE-1, -2, -L and -Lsum, 0-100, by rouge-score (Lin 2004); the best of several references.

    Lsum treats each line as a sentence, and " . " ends a line, as in T5 (t5/evaluation/metrics.py), whose tokenizer has no
    line breaks. `use_stemmer` is Porter's, English only.
    """
    targets, predictions = check_pairs(targets, predictions)
    scorer = import_library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(list(ROUGE), use_stemmer=use_stemmer)
    scores = [
        scorer.score_multi([split_sentences(answer) for answer in list_answers(target)], split_sentences(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE}


def split_sentences(text: str) -> str:
    """The text with a line break after each " . "."""
    return text.replace(" . ", " .\n")


def levenshtein(target: Sequence, prediction: Sequence) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein 1966); O(mn) time, O(n) memory."""
    codes = {symbol: i for i, symbol in enumerate(dict.fromkeys([*target, *prediction]))}
    prediction_N = np.array([codes[symbol] for symbol in prediction], np.int64)
    steps_N = np.arange(len(prediction) + 1)
    costs_N = steps_N
    for count, symbol in enumerate(target, 1):
        changed_N = np.minimum(costs_N[1:] + 1, costs_N[:-1] + (prediction_N != codes[symbol]))
        # The minimum along the row: costs_N[j] = min over i <= j of changed_N[i] + (j - i).
        costs_N = np.minimum.accumulate(np.concatenate([[count], changed_N]) - steps_N) + steps_N
    return int(costs_N[-1])


def edit_distance(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean distance in characters; character and word error rate in percent of the targets' length (may exceed 100).

    Raises:
      ValueError: the targets contain no word.
    """
    targets, predictions = check_pairs(targets, predictions)
    words = sum(len(target.split()) for target in targets)
    if not words:
        raise ValueError(f"the {len(targets)} targets contain no word, so there is no error rate; give texts")
    pairs = list(zip(targets, predictions, strict=True))
    by_character = sum(levenshtein(target, prediction) for target, prediction in pairs)
    by_word = sum(levenshtein(target.split(), prediction.split()) for target, prediction in pairs)
    return {
        "edit_distance": by_character / len(targets),
        "character_error_rate": 100 * by_character / sum(map(len, targets)),
        "word_error_rate": 100 * by_word / words,
    }
