"""Published pipelines, put together from the steps."""

from collections.abc import Callable

from t5x_like.cleaning.c4 import C4
from t5x_like.cleaning.classified import LanguageFilter
from t5x_like.cleaning.fineweb import FineWebQuality
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.minhash import NearDedup
from t5x_like.cleaning.pii import RedactPII
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.repetition import GopherRepetition


def fineweb(identify: Callable[[str], tuple[str, float]], languages: tuple[str, ...] = ("en",)) -> Pipeline:
    """FineWeb's steps in its order (arXiv:2406.17557, section 3), from the text of pages on; C4 without terminal marks.

    FineWeb removes near copies within each crawl: use one run for each. On code, Gopher's rules drop nearly everything.
    """
    return Pipeline(
        (
            LanguageFilter(identify, languages),
            GopherRepetition(),
            GopherQuality(),
            C4(terminal=()),
            FineWebQuality(),
            NearDedup(),
            RedactPII(),
        )
    )
