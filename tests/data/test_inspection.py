"""Printed rows: the text is complete, and the marks match the arrays."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from t5x_like.data import inspection, rows
from t5x_like.data.cache.memory import MemoryCache
from t5x_like.data.tokenizers.vocabularies import EOS, ByteVocabulary

TEXTS = ("The first text.", "Zwei: schöne Zeilen\nund mehr", "and a third one, which is longer than the others")


@pytest.fixture(scope="module")
def cache():
    vocabulary = ByteVocabulary()
    return MemoryCache(
        "made_up", "train", vocabulary, {"targets": [np.array([*vocabulary.encode(t), EOS]) for t in TEXTS]}
    )


def printed(made, count=3) -> str:
    out = io.StringIO()
    inspection.print_rows(made, count, console=Console(file=out, width=10_000, soft_wrap=True, highlight=False))
    return out.getvalue().split("\n", 1)[1]


def test_every_segment_is_printed(cache):
    out = printed(rows.PackedExamples(cache, 32, 128), 1)
    segments = re.findall(r"\[(.*?)\]", out.split("\n", 2)[2], re.DOTALL)
    assert sorted(s.replace("⏎\n", "\n").removesuffix("</s>") for s in segments) == sorted(TEXTS)
    assert "3 segments, 95 of 128 positions, 95 with loss" in out


def test_tokens_without_loss_are_marked(cache):
    made = rows.PrefixLM(cache, 16)
    batch = made.fetch(np.arange(3), np.zeros(3, int), 0)
    out = printed(made, 3)
    hidden = "".join(re.findall("‹(.*?)›", out, re.DOTALL)).replace("⏎\n", "\n")
    ids = batch["decoder_target_tokens"][batch["decoder_loss_weights"] == 0]
    assert len(hidden.replace("</s>", "~").encode()) >= len(ids)
    assert "«" in out and str(int((batch["decoder_loss_weights"][0] > 0).sum())) + " with loss" in out


def test_sentinels_are_named_on_both_sides(cache):
    out = printed(rows.SpanCorruption(cache, 48, 24), 1)
    inputs, targets = out.split("decoder targets")
    assert "<0>" in inputs and "<0>" in targets and "encoder inputs" in inputs


def test_a_lack_of_rows_is_reported(cache):
    assert "the first documents have only 1 rows" in printed(rows.PackedExamples(cache, 32, 128), 5)


def test_marks_do_not_depend_on_colours(cache):
    made = rows.PrefixLM(cache, 16)
    out = io.StringIO()
    inspection.print_rows(
        made, 2, console=Console(file=out, width=10_000, soft_wrap=True, force_terminal=True, highlight=False)
    )
    assert "\x1b[" in out.getvalue()
    assert (
        re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()).split("\n", 1)[1].splitlines()[2:4]
        == printed(made, 2).splitlines()[2:4]
    )
