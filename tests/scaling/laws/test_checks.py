"""Rows that a fit drops or rejects, always by name."""

import numpy as np
import pytest

from t5x_like.scaling.laws import checks, filters, laws
from t5x_like.scaling.laws.table import Table
from tests.scaling.laws import planted

LAW, COUNT = laws.CHINCHILLA, 16


def table(**columns) -> Table:
    """Valid runs, with columns added or replaced."""
    runs = planted.table(LAW, COUNT)
    runs = Table({name: runs[name] for name in ("n_params", "tokens", "loss")})
    for name, values in columns.items():
        runs = runs.with_column(name, values)
    return runs


def first_then(first, rest) -> list:
    """A column whose first cell differs."""
    return [first, *[rest] * (COUNT - 1)]


RUN_IDS = [f"run{i}" for i in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"status": first_then("failed", "finished")}, "failed or running"),
        ({"status": first_then("running", "")}, "failed or running"),
        ({"loss": first_then(float("nan"), 3.0)}, "no loss"),
        ({"loss": first_then(float("inf"), 3.0)}, "no loss"),
        ({"decay": first_then(0.5, 0.0)}, "unfinished decay"),
        ({"tokens": first_then(float("nan"), 1e9)}, "no tokens"),
    ],
)
def test_unusable_rows_are_dropped_by_name(columns, rule):
    columns = {"run_id": RUN_IDS} | columns
    runs = checks.prepare(table(**columns), LAW)
    step = runs.steps[-1]
    assert (step.rule, step.dropped, len(runs)) == (rule, 1, COUNT - 1)
    assert "run0" in step.why


def test_duplicate_rows_are_dropped():
    runs = table(run_id=RUN_IDS)
    twice = Table({name: np.concatenate([values, values[:2]]) for name, values in runs.columns.items()})
    remaining = checks.prepare(twice, LAW)
    assert (remaining.steps[-1].rule, remaining.steps[-1].dropped, len(remaining)) == ("duplicates", 2, COUNT)


def test_the_last_row_of_a_training_curve_is_kept():
    runs = checks.prepare(table(run_id=["a", "a", "a", *RUN_IDS[3:]]), LAW)
    assert (runs.steps[-1].rule, runs.steps[-1].dropped) == ("unfinished runs", 2)
    assert runs["tokens"][runs["run_id"] == "a"] == table()["tokens"][:3].max()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"run_id": ["a", "a", *RUN_IDS[2:]], "tokens": [1e9] * COUNT},
            ["run a is in the table twice", "keep one"],
        ),
        ({"vocab": first_then(256, 32000)}, ["different tokenizers", "vocab: 256.0, 32000.0", "bits_per_byte"]),
        ({"tokenizer": first_then("bytes", "bpe")}, ["different tokenizers", "bits_per_byte"]),
        ({"flops_6nd": first_then(1e30, np.nan)}, ["mixed FLOP counts", "1 rows", "flops_exact"]),
    ],
)
def test_inconsistent_tables_are_rejected_with_a_remedy(columns, words):
    with pytest.raises(ValueError) as error:
        checks.prepare(table(**columns), LAW)
    assert all(word in str(error.value) for word in words), error.value


def test_flop_counts_are_not_combined():
    runs = table(flops_exact=[7e18] * COUNT, flops_with_embeddings=first_then(np.nan, 6e18))
    law = laws.find_law("loss_vs_compute", ("flops_with_embeddings",), "loss")
    with pytest.raises(ValueError, match="mixed FLOP counts: row 1 have flops_6nd but no flops_with_embeddings"):
        checks.prepare(runs, law)


def test_bits_per_byte_may_mix_tokenizers():
    law = laws.find_law("chinchilla", LAW.inputs, "bits_per_byte")
    runs = checks.prepare(table(vocab=first_then(256, 32000), tokens_per_byte=first_then(1.0, 0.25)), law)
    np.testing.assert_allclose(runs["bits_per_byte"][1], runs["loss"][1] * 0.25 / np.log(2))


def test_the_best_of_runs_that_differ_only_in_tuning_is_kept():
    """Half of the runs are repeated at another learning rate, with a higher loss."""
    runs = table(lr=[1e-3] * COUNT)
    worse = runs.take(np.arange(8)).with_column("lr", [1e-2] * 8)
    worse = worse.with_column("loss", worse["loss"] + 0.1)
    both = Table({name: np.concatenate([values, worse[name]]) for name, values in runs.columns.items()})
    remaining = checks.prepare(both, LAW)
    assert (remaining.steps[-1].rule, remaining.steps[-1].dropped) == ("worse tuned", 8)
    np.testing.assert_array_equal(remaining["loss"], runs["loss"])


def test_tokens_parameters_and_flops_are_derived_from_each_other():
    full = checks.derive_columns(table())
    for name in ("n_params", "tokens", "flops_6nd"):
        part = Table({other: values for other, values in full.columns.items() if other != name})
        runs = checks.derive_columns(part)
        np.testing.assert_allclose(runs[name], full[name], rtol=1e-14)
        assert runs.steps[-1].rule.startswith(f"{name} = ")


def test_rules_drop_the_rows_they_name():
    runs = table()
    remaining = filters.apply_rule(filters.apply_rule(runs, "highest_loss=3"), "n_params < 1e7")
    limit = np.sort(runs["loss"])[-3]
    np.testing.assert_array_equal(remaining["loss"], runs["loss"][(runs["loss"] < limit) & (runs["n_params"] >= 1e7)])
    assert [step.rule for step in remaining.steps] == ["highest_loss=3", "n_params<1e7"]
    assert len(filters.apply_rule(runs, "lowest_loss=5")) == COUNT - 5
    with pytest.raises(ValueError, match="must look like highest_loss=5, lowest_loss=5"):
        filters.apply_rule(runs, "outliers")
    with pytest.raises(ValueError, match="no column 'size'"):
        filters.apply_rule(runs, "size<5")


def test_a_string_among_scores_is_rejected_unless_its_row_is_dropped():
    law = laws.find_law("sigmoid", ("loss",), "accuracy")
    bad = table(accuracy=first_then("bad", "0.5"))
    for call in (lambda: checks.select_usable(bad, law), lambda: filters.apply_rule(bad, "highest_accuracy=3")):
        with pytest.raises(ValueError, match="accuracy of row 1 is 'bad', not a number"):
            call()
    with pytest.raises(ValueError, match="accuracy of row 1 is 'bad', not a number"):
        filters.apply_rule(bad, "accuracy<0.5")  # as strings, "0.5" < "bad"
    failed = bad.with_column("status", first_then("failed", "finished")).with_column("run_id", RUN_IDS)
    for runs in (
        checks.select_usable(failed, law),
        checks.select_usable(filters.apply_rule(bad, "accuracy==bad"), law),
    ):
        np.testing.assert_array_equal(runs["accuracy"], [0.5] * len(runs))
        np.testing.assert_array_equal(runs["loss"], bad["loss"][1:][: len(runs)])


def test_strings_are_ordered_alphabetically():
    runs = table(started=first_then("2025-01-01", "2026-01-01"))
    assert len(filters.apply_rule(runs, "started<2026")) == COUNT - 1
