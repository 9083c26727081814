"""What a fit refuses or leaves out, always by name."""

import numpy as np
import pytest

from t5x_like.scaling.laws import checks, filters, laws
from t5x_like.scaling.laws.table import Table
from tests.scaling.laws import planted

LAW, COUNT = laws.CHINCHILLA, 16


def table(**columns) -> Table:
    """Good runs, with columns added or replaced."""
    made = planted.table(LAW, COUNT)
    made = Table({name: made[name] for name in ("n_params", "tokens", "loss")})
    for name, values in columns.items():
        made = made.with_column(name, values)
    return made


def but(first, rest) -> list:
    """A column whose first cell differs."""
    return [first, *[rest] * (COUNT - 1)]


RUN_IDS = [f"run{i}" for i in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"status": but("failed", "finished")}, "failed or running"),
        ({"status": but("running", "")}, "failed or running"),
        ({"loss": but(float("nan"), 3.0)}, "no loss"),
        ({"loss": but(float("inf"), 3.0)}, "no loss"),
        ({"decay": but(0.5, 0.0)}, "unfinished decay"),
        ({"tokens": but(float("nan"), 1e9)}, "no tokens"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_by_name(columns, rule):
    columns = {"run_id": RUN_IDS} | columns
    made = checks.prepared(table(**columns), LAW)
    step = made.steps[-1]
    assert (step.rule, step.dropped, len(made)) == (rule, 1, COUNT - 1)
    assert "run0" in step.why


def test_the_same_row_twice_counts_once():
    made = table(run_id=RUN_IDS)
    twice = Table({name: np.concatenate([values, values[:2]]) for name, values in made.columns.items()})
    kept = checks.prepared(twice, LAW)
    assert (kept.steps[-1].rule, kept.steps[-1].dropped, len(kept)) == ("duplicates", 2, COUNT)


def test_of_a_training_curve_the_last_row_counts():
    made = checks.prepared(table(run_id=["a", "a", "a", *RUN_IDS[3:]]), LAW)
    assert (made.steps[-1].rule, made.steps[-1].dropped) == ("unfinished runs", 2)
    assert made["tokens"][made["run_id"] == "a"] == table()["tokens"][:3].max()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"run_id": ["a", "a", *RUN_IDS[2:]], "tokens": [1e9] * COUNT},
            ["run a stands in the table twice", "keep one"],
        ),
        ({"vocab": but(256, 32000)}, ["different tokenizers", "vocab: 256.0, 32000.0", "bits_per_byte"]),
        ({"tokenizer": but("bytes", "bpe")}, ["different tokenizers", "bits_per_byte"]),
        ({"flops_6nd": but(1e30, np.nan)}, ["mixed FLOP counts", "1 rows", "flops_exact"]),
    ],
)
def test_what_no_rule_can_mend_is_refused_with_a_remedy(columns, words):
    with pytest.raises(ValueError) as error:
        checks.prepared(table(**columns), LAW)
    assert all(word in str(error.value) for word in words), error.value


def test_counts_of_flops_are_not_patched_together():
    made = table(flops_exact=[7e18] * COUNT, flops_with_embeddings=but(np.nan, 6e18))
    law = laws.named("loss_vs_compute", ("flops_with_embeddings",), "loss")
    with pytest.raises(ValueError, match="mixed FLOP counts: row 1 have flops_6nd but no flops_with_embeddings"):
        checks.prepared(made, law)


def test_bits_per_byte_may_mix_tokenizers():
    law = laws.named("chinchilla", LAW.inputs, "bits_per_byte")
    made = checks.prepared(table(vocab=but(256, 32000), tokens_per_byte=but(1.0, 0.25)), law)
    np.testing.assert_allclose(made["bits_per_byte"][1], made["loss"][1] * 0.25 / np.log(2))


def test_of_runs_that_differ_in_tuning_alone_the_best_counts():
    """Half of the runs again at another learning rate and a higher loss."""
    made = table(lr=[1e-3] * COUNT)
    worse = made.take(np.arange(8)).with_column("lr", [1e-2] * 8)
    worse = worse.with_column("loss", worse["loss"] + 0.1)
    both = Table({name: np.concatenate([values, worse[name]]) for name, values in made.columns.items()})
    kept = checks.prepared(both, LAW)
    assert (kept.steps[-1].rule, kept.steps[-1].dropped) == ("worse tuned", 8)
    np.testing.assert_array_equal(kept["loss"], made["loss"])


def test_tokens_parameters_and_flops_follow_from_each_other():
    full = checks.derived(table())
    for name in ("n_params", "tokens", "flops_6nd"):
        part = Table({other: values for other, values in full.columns.items() if other != name})
        made = checks.derived(part)
        np.testing.assert_allclose(made[name], full[name], rtol=1e-14)
        assert made.steps[-1].rule.startswith(f"{name} = ")


def test_rules_leave_out_what_they_say():
    made = table()
    kept = filters.without(filters.without(made, "highest_loss=3"), "n_params < 1e7")
    limit = np.sort(made["loss"])[-3]
    np.testing.assert_array_equal(kept["loss"], made["loss"][(made["loss"] < limit) & (made["n_params"] >= 1e7)])
    assert [step.rule for step in kept.steps] == ["highest_loss=3", "n_params<1e7"]
    assert len(filters.without(made, "lowest_loss=5")) == COUNT - 5
    with pytest.raises(ValueError, match="highest_loss=5 or lowest_loss=5"):
        filters.without(made, "outliers")
    with pytest.raises(ValueError, match="no column 'size'"):
        filters.without(made, "size<5")


def test_a_word_among_scores_is_refused_unless_its_row_is_dropped():
    law = laws.named("sigmoid", ("loss",), "accuracy")
    bad = table(accuracy=but("bad", "0.5"))
    for refused in (lambda: checks.usable(bad, law), lambda: filters.without(bad, "highest_accuracy=3")):
        with pytest.raises(ValueError, match="accuracy of row 1 is 'bad', not a number"):
            refused()
    with pytest.raises(ValueError, match="accuracy of row 1 is 'bad', not a number"):
        filters.without(bad, "accuracy<0.5")  # by their letters, "0.5" < "bad"
    failed = bad.with_column("status", but("failed", "finished")).with_column("run_id", RUN_IDS)
    for made in (checks.usable(failed, law), checks.usable(filters.without(bad, "accuracy==bad"), law)):
        np.testing.assert_array_equal(made["accuracy"], [0.5] * len(made))
        np.testing.assert_array_equal(made["loss"], bad["loss"][1:][: len(made)])


def test_words_are_ordered_by_their_letters():
    made = table(started=but("2025-01-01", "2026-01-01"))
    assert len(filters.without(made, "started<2026")) == COUNT - 1
