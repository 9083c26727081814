"""Text of tokens that arrive one after the other, without characters that are not complete, up to a stop text."""

from collections.abc import Sequence

from t5x_like.types import Vocabulary

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no whole character are decoded to
OVERLAP = 8  # tokens that are decoded again, because the text of a token may depend on those before it
LONGEST = 64  # tokens that may wait for the end of a character


class TextStream:
    """Decodes tokens as they come.

    A piece of text is given out once no later token can change it: the last character may be incomplete, and the last
    characters may be the beginning of a stop text. At a stop text the stream ends; the text before it remains.

    Attributes:
      text: what has been given out.
      stopped: whether a stop text was found.
    """

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = ()) -> None:
        self.vocabulary, self.stops = vocabulary, tuple(stops)
        self.text, self.stopped = "", False
        self._ids: list[int] = []  # the last tokens, from `OVERLAP` before the first whose text is not known
        self._known = 0  # how many of them are decoded
        self._held = ""  # decoded, but may begin a stop text

    def push(self, token: int) -> str:
        """Adds a token; returns the text that it completes. Stop ids have no text."""
        if token in self.vocabulary.stop_ids:
            return ""
        self._ids.append(token)
        return self._give(self._decode(final=False), final=False)

    def finish(self) -> str:
        """Ends the text; returns what was held back."""
        return self._give(self._decode(final=True), final=True)

    def _decode(self, final: bool) -> str:
        before = self.vocabulary.decode(self._ids[: self._known])
        after = self.vocabulary.decode(self._ids)
        waiting = len(self._ids) - self._known
        if not final and after.endswith(INCOMPLETE) and waiting < LONGEST:
            return ""
        self._ids, self._known = self._ids[-OVERLAP:], min(len(self._ids), OVERLAP)
        return after[len(before) :]

    def _give(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [(text.find(stop), stop) for stop in self.stops if stop in text]
        if found:
            text, self._held, self.stopped = text[: min(found)[0]], "", True
        else:
            held = 0 if final else max((overlap(text, stop) for stop in self.stops), default=0)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        self.text += text
        return text


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that is a beginning of a stop text, but not all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
