"""Rows of batches: each class turns a token cache into the rows of one objective.

`rows.fetch(index_n, epoch_n, seed)` returns rows `index_n` of epochs `epoch_n` as {feature: [n, ...]}, with the names of
`t5x_like.batches`; `len(rows)` is the number of rows per epoch. Randomness depends on (seed, epoch, row) alone.
"""

from t5x_like.data.rows.bart import Denoising
from t5x_like.data.rows.base import Rows
from t5x_like.data.rows.chat import PackedConversations
from t5x_like.data.rows.examples import PackedExamples
from t5x_like.data.rows.fim import FillInTheMiddle
from t5x_like.data.rows.language_model import CausalLM, PrefixLM
from t5x_like.data.rows.masked_lm import MaskedLM, WholeWordMaskedLM
from t5x_like.data.rows.pairs import NextSentence, SentenceOrder
from t5x_like.data.rows.permutation import PermutationLM
from t5x_like.data.rows.repeated import RepeatedTokens
from t5x_like.data.rows.span_corruption import SpanCorruption
from t5x_like.data.rows.ul2 import MixtureOfDenoisers, PrefixMixtureOfDenoisers

__all__ = [
    "CausalLM",
    "Denoising",
    "FillInTheMiddle",
    "MaskedLM",
    "MixtureOfDenoisers",
    "NextSentence",
    "PackedConversations",
    "PackedExamples",
    "PermutationLM",
    "PrefixLM",
    "PrefixMixtureOfDenoisers",
    "RepeatedTokens",
    "Rows",
    "SentenceOrder",
    "SpanCorruption",
    "WholeWordMaskedLM",
]
