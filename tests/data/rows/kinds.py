"""Small instances of every kind of rows, on the caches of tests/tiny_cache.py."""

from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.noise import bart
from t5x_like.data.rows import bart as rows_bart
from t5x_like.data.rows import fim, pairs, permutation, ul2

OTHER_NOISERS = (bart.DocumentRotation(), bart.TokenDeletion(), bart.TokenMasking())
NOISED = {
    "spans": lambda cache: rows.SpanCorruption(cache("tiny"), 32, 16),
    "prefix": lambda cache: rows.PrefixLM(cache("tiny"), 48),
    "masked": lambda cache: rows.MaskedLM(cache("tiny"), 48),
    "whole_words": lambda cache: rows.WholeWordMaskedLM(cache("tiny"), 48),
    "ul2": lambda cache: ul2.MixtureOfDenoisers(cache("tiny"), 48, 40),
    "ul2_prefix": lambda cache: ul2.PrefixMixtureOfDenoisers(cache("tiny"), 64),
    "bart": lambda cache: rows_bart.Denoising(cache("tiny"), 32),
    "bart_others": lambda cache: rows_bart.Denoising(cache("tiny"), 32, OTHER_NOISERS),
    "next_sentence": lambda cache: pairs.NextSentence(cache("tiny"), 48),
    "sentence_order": lambda cache: pairs.SentenceOrder(cache("tiny"), 48),
    "permutation": lambda cache: permutation.PermutationLM(cache("tiny"), 48),
    "middle": lambda cache: fim.FillInTheMiddle(cache("tiny"), 48, rate=1.0),
}
KINDS = {
    "causal": lambda cache: rows.CausalLM(cache("tiny"), 16),
    "packed": lambda cache: rows.PackedExamples(cache("pairs"), 64, 64),
    "packed_documents": lambda cache: rows.PackedExamples(cache("tiny"), 64, 300),
    **NOISED,
}


def make(kind: str, root):
    """Rows of a kind from the caches under `root`."""
    return KINDS[kind](lambda task: TokenCache(task, "train", root=str(root)))
