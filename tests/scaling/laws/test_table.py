"""The table of runs: exact round trips, mapped columns, and recorded steps."""

import numpy as np
import pytest

from t5x_like.scaling.laws import table

RUNS = [
    {"run_id": "a", "n_params": 44_000_000, "tokens": 1.1e9, "loss": 3.1234567890123457, "loss/code": 0.1 + 0.2},
    {"run_id": "b", "n_params": 1e18 + 4096, "tokens": 7.0, "loss": float("nan"), "status": "failed"},
    {"run_id": 'c, with "quotes"', "seed": 3, "loss": 1e-300, "note": "a\nline"},
]


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_round_trips_are_bit_identical(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    runs = table.from_rows(RUNS)
    runs.write(tmp_path / name)
    loaded = table.read(tmp_path / name)
    assert list(loaded.columns) == list(runs.columns)
    for column in runs.columns:
        np.testing.assert_array_equal(loaded[column], runs[column])
    assert loaded.rows() == runs.rows()


def write_foreign(tmp_path, text):
    """Writes a file with another project's columns."""
    path = tmp_path / "foreign.csv"
    path.write_text(text)
    return path


def test_mapped_files_keep_their_other_columns(tmp_path):
    path = write_foreign(tmp_path, "Model Size,Training FLOP,loss,who\n4.4e7,6e18,3.5,x\n1e9,3e20,2.5,y\n")
    loaded = table.read(path, {"n_params": "Model Size", "flops_6nd": "Training FLOP"})
    assert list(loaded.columns) == ["n_params", "flops_6nd", "loss", "who"]
    np.testing.assert_array_equal(loaded["n_params"], [4.4e7, 1e9])
    assert loaded["who"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\n1,2\n", {"n_params": "Size"}, "no column 'Size' to map (it has a, b)"),
        ("loss\n3.5\nabc\n", {}, "loss of row 2 is 'abc', not a number"),
        ("a,a\n1,2\n", {}, "two columns 'a'"),
        ("a,b\n1\n", {}, "row 1 has 1 cells, not 2"),
        ("loss\n", {}, "has no rows"),
        ("Size,loss\n1,2\n", {"n_params": "Size", "n_total": "Size"}, "'Size' is mapped as n_params and as n_total"),
    ],
)
def test_malformed_files_are_rejected_with_the_place(tmp_path, text, columns, message):
    with pytest.raises(ValueError) as error:
        table.read(write_foreign(tmp_path, text), columns)
    assert message in str(error.value)


def test_dropped_rows_are_recorded_as_steps():
    runs = table.from_rows(RUNS)
    remaining = runs.drop("failed", runs["status"] == "failed", "status is failed").drop("none", np.zeros(2, bool), "x")
    assert [(step.rule, step.dropped) for step in remaining.steps] == [("failed", 1), ("none", 0)]
    assert (len(remaining), len(runs), runs.steps) == (2, 3, ())


def test_an_absent_column_error_lists_the_columns():
    with pytest.raises(ValueError, match="no column 'lr' \\(it has run_id"):
        table.from_rows(RUNS)["lr"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_detected_from_the_first_lines(tmp_path, separator):
    """Names and cells may contain the other separators."""
    others = [other for other in ",;\t|" if other != separator]
    names = ["n_params", *(f'"a{other}b{other}c"' for other in others), "acc" + others[-1] + "x", "loss"]
    text = "\n".join(separator.join(line) for line in (names, ["1e6", "1", "2", "3", "4", "2.5"])) + "\n"
    loaded = table.read(write_foreign(tmp_path, text))
    assert list(loaded.columns) == [name.strip('"') for name in names]
    assert loaded["loss"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-16", "-f UTF-16"), ("utf-16-le", "-f UTF-16"), ("latin-1", "-f ENC")]
)
def test_another_encoding_is_rejected_with_a_remedy(tmp_path, encoding, words):
    (tmp_path / "wide.csv").write_bytes("loss,who\n3.5,é\n".encode(encoding))
    with pytest.raises(ValueError, match=f"wide.csv is not UTF-8.*iconv {words}"):
        table.read(tmp_path / "wide.csv")


@pytest.mark.parametrize("gap", ["", "NA", "n/a", "NULL", "None", "NaN", "-"])
def test_missing_cells_leave_a_column_numeric(tmp_path, gap):
    loaded = table.read(write_foreign(tmp_path, f"accuracy,loss,status\n0.5,{gap},{gap}\n{gap},-2,finished\n"))
    np.testing.assert_array_equal(loaded["accuracy"], [0.5, np.nan])
    np.testing.assert_array_equal(loaded["loss"], [np.nan, -2])
    assert loaded["status"].tolist() == ["", "finished"]


def test_a_cell_that_is_not_a_number_is_named():
    runs = table.from_rows([{"accuracy": "0.5"}, {"accuracy": "bad"}, {"accuracy": None}])
    with pytest.raises(ValueError, match="accuracy of row 2 is 'bad', not a number; .* --drop 'accuracy==bad'"):
        runs.numbers("accuracy")
    later = runs.drop("first", np.arange(3) == 0, "x").with_column("loss", [1.0, 2.0])
    with pytest.raises(ValueError, match="accuracy of row 2 is 'bad'"):  # row numbers are those of the file
        later.take(np.array([1, 0])).numbers("accuracy")
    remaining = runs.drop("bad", runs["accuracy"] == "bad", "x")
    np.testing.assert_array_equal(remaining.numbers("accuracy"), [0.5, np.nan])
