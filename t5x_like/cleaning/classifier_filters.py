"""Filters by the language and by the quality score of a classifier."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from t5x_like.cleaning.hashing import word_hash
from t5x_like.cleaning.ngram_classifier import NgramClassifier
from t5x_like.cleaning.steps import Document, Dropped, normalize_lines


@dataclass(frozen=True)
class LanguageFilter:
    """Keeps a document in one of `languages`; 0.65 is FineWeb's threshold (arXiv:2406.17557, section 3.3).

    `identify` returns (language, probability): NgramClassifier.classify, or Py3LangId().
    """

    identify: Callable[[str], tuple[str, float]]
    languages: tuple[str, ...] = ("en",)
    min_probability: float = 0.65

    def __call__(self, document: Document) -> Document | Dropped:
        language, probability = self.identify(normalize_lines(document["text"]))
        if language not in self.languages:
            return Dropped("language.other", f"{language} ({probability:.2f}), expected {', '.join(self.languages)}")
        if probability < self.min_probability:
            return Dropped(
                "language.uncertain", f"{language} {probability:.2f}, allowed at threshold {self.min_probability:g}"
            )
        return document


@dataclass(frozen=True)
class Py3LangId:
    """py3langid (97 languages, model in the package) with probabilities, over `languages` only if any are given."""

    languages: tuple[str, ...] = ()

    @cached_property
    def identifier(self) -> Any:
        """The loaded model.

        Raises:
          ImportError: py3langid is not installed.
        """
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise ImportError("Py3LangId needs py3langid: pip install py3langid") from error
        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        if self.languages:
            identifier.set_languages(list(self.languages))
        return identifier

    def __call__(self, text: str) -> tuple[str, float]:
        language, probability = self.identifier.classify(text)
        return language, float(probability)


def load_language_classifier(path: Path | str) -> Callable[[str], tuple[str, float]]:
    """The function text -> (language, probability) of a classifier file."""
    return NgramClassifier.load(path).classify


def load_quality_score(path: Path | str, label: str = "good") -> Callable[[str], float]:
    """The function text -> probability of `label` of a classifier file.

    Raises:
      ValueError: the classifier has no such label.
    """
    classifier = NgramClassifier.load(path)
    if label not in classifier.labels:
        raise ValueError(f"label={label!r} is not among those of {path}: {', '.join(classifier.labels)}")
    return partial(classifier.probability, label)


@dataclass(frozen=True)
class QualityFilter:
    """Keeps a document with a high score; with `pareto`, sometimes also one with a low score.

    GPT-3 (Brown et al. 2020, appendix A) keeps a document if a draw of numpy's pareto(9) exceeds 1 - score, so that the corpus
    does not only resemble the reference. The draw is a function of the document's id.
    """

    score: Callable[[str], float]
    min_score: float = 0.5
    pareto: float | None = None

    def __call__(self, document: Document) -> Document | Dropped:
        score = self.score(normalize_lines(document["text"]))
        threshold = self.min_score if self.pareto is None else 1 - lomax(self.pareto, str(document.get("id")))
        if score < threshold:
            return Dropped("quality.score", f"{score:.3f}, allowed at threshold {threshold:.3f}")
        return document


def lomax(shape: float, name: str) -> float:
    """A Lomax (numpy's pareto) draw, by inversion: u**(-1 / shape) - 1 for u uniform by the hash of a name."""
    return ((word_hash(f"quality {name}") + 1) / 2.0**64) ** (-1 / shape) - 1
