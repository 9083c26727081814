"""The text of a growing collection that is most similar to a new one, by ROUGE-L."""

from collections import Counter

from t5x_like.text_metrics.pairs import import_library


class Collection:
    """Texts, of which `nearest` finds the most similar one.

    The similarity is the F of ROUGE-L of the package rouge-score, 0 to 1, without stemming (Lin 2004). It is computed only for
    texts whose words in common could make it the largest: a common subsequence is no longer than the words in common.

    Raises:
      ImportError: rouge-score is not installed.
    """

    def __init__(self) -> None:
        rouge = import_library("rouge_score.rouge_scorer", "rouge-score")
        self.tokenizer = import_library("rouge_score.tokenizers", "rouge-score").DefaultTokenizer(use_stemmer=False)
        self.scorer = rouge.RougeScorer(["rougeL"], tokenizer=self.tokenizer)
        self.words: dict[str, Counter[str]] = {}

    def add(self, text: str) -> None:
        """Adds a text."""
        self.words[text] = Counter(self.tokenizer.tokenize(text))

    def remove(self, text: str) -> None:
        """Removes a text that was added."""
        del self.words[text]

    def nearest(self, text: str) -> tuple[float, str | None]:
        """(similarity, text) of the most similar text, the first of several; (0, None) if no word is in common.

        Texts that differ in case and spaces alone have similarity 1, also in scripts whose words rouge-score does not know.
        """
        folded = fold(text)
        for other in self.words:
            if fold(other) == folded:
                return 1.0, other
        mine = Counter(self.tokenizer.tokenize(text))
        bounds = {other: bound(mine, theirs) for other, theirs in self.words.items()}
        best, found = 0.0, None
        for other in sorted(bounds, key=lambda other: -bounds[other]):
            if bounds[other] <= best:
                break
            similarity = self.scorer.score(other, text)["rougeL"].fmeasure
            if similarity > best:
                best, found = similarity, other
        return best, found


def fold(text: str) -> str:
    """The text in lower case, with single spaces."""
    return " ".join(text.casefold().split())


def bound(mine: Counter[str], theirs: Counter[str]) -> float:
    """The largest F that two texts with these words can have: that of their words in common in any order."""
    total = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / total if total else 0.0
