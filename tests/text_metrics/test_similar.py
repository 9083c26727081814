"""The most similar text of a collection is that of a full comparison by rouge-score."""

import random

import pytest

pytest.importorskip("rouge_score")


def test_the_nearest_text_is_that_of_a_full_comparison():
    from rouge_score.rouge_scorer import RougeScorer

    from t5x_like.text_metrics.similar import Collection

    draw, words = (
        random.Random(0),
        ("the", "a", "cat", "dog", "runs", "Fast", "slow", "over", "house,", "tree.", "1", "2"),
    )
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(120)]
    collection, scorer, seen = Collection(), RougeScorer(["rougeL"]), []
    for text in texts:
        similarity, nearest = collection.nearest(text)
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in seen]
        assert similarity == pytest.approx(max(scores, default=0))
        assert nearest is None or scorer.score(nearest, text)["rougeL"].fmeasure == pytest.approx(similarity)
        collection.add(text)
        seen.append(text)
    collection.remove(seen[0])
    assert collection.nearest(seen[0])[1] != seen[0] or seen[0] in seen[1:]


def test_equal_texts_of_any_script_are_found():
    from t5x_like.text_metrics.similar import Collection

    collection = Collection()
    collection.add("写一首 关于春天的诗")
    assert collection.nearest("写一首  关于春天的诗 ") == (1.0, "写一首 关于春天的诗") and collection.nearest("写") == (
        0.0,
        None,
    )
    assert Collection().nearest("x") == (0.0, None)
