"""The table of runs: exact round trips, foreign columns, and steps that are written down."""

import numpy as np
import pytest

from t5x_like.scaling.laws import table

RUNS = [
    {"run_id": "a", "n_params": 44_000_000, "tokens": 1.1e9, "loss": 3.1234567890123457, "loss/code": 0.1 + 0.2},
    {"run_id": "b", "n_params": 1e18 + 4096, "tokens": 7.0, "loss": float("nan"), "status": "failed"},
    {"run_id": 'c, with "quotes"', "seed": 3, "loss": 1e-300, "note": "a\nline"},
]


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_reading_back_gives_the_same_values_to_the_bit(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    made = table.from_rows(RUNS)
    made.write(tmp_path / name)
    found = table.read(tmp_path / name)
    assert list(found.columns) == list(made.columns)
    for column in made.columns:
        np.testing.assert_array_equal(found[column], made[column])
    assert found.rows() == made.rows()


def foreign(tmp_path, text):
    path = tmp_path / "foreign.csv"
    path.write_text(text)
    return path


def test_a_foreign_file_is_mapped_and_keeps_its_other_columns(tmp_path):
    path = foreign(tmp_path, "Model Size,Training FLOP,loss,who\n4.4e7,6e18,3.5,x\n1e9,3e20,2.5,y\n")
    found = table.read(path, {"n_params": "Model Size", "flops_6nd": "Training FLOP"})
    assert list(found.columns) == ["n_params", "flops_6nd", "loss", "who"]
    np.testing.assert_array_equal(found["n_params"], [4.4e7, 1e9])
    assert found["who"].tolist() == ["x", "y"]


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
def test_a_file_that_cannot_be_a_table_is_refused_by_place(tmp_path, text, columns, message):
    with pytest.raises(ValueError) as error:
        table.read(foreign(tmp_path, text), columns)
    assert message in str(error.value)


def test_rows_are_dropped_by_steps_that_say_so():
    made = table.from_rows(RUNS)
    kept = made.without("failed", made["status"] == "failed", "status is failed").without(
        "none", np.zeros(2, bool), "x"
    )
    assert [(step.rule, step.dropped) for step in kept.steps] == [("failed", 1), ("none", 0)]
    assert (len(kept), len(made), made.steps) == (2, 3, ())


def test_an_absent_column_is_named_with_those_there():
    with pytest.raises(ValueError, match="no column 'lr' \\(it has run_id"):
        table.from_rows(RUNS)["lr"]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_sign_between_cells_is_found_in_the_first_lines(tmp_path, sign):
    """Other signs may stand in names and cells."""
    others = [other for other in ",;\t|" if other != sign]
    names = ["n_params", *(f'"a{other}b{other}c"' for other in others), "acc" + others[-1] + "x", "loss"]
    text = "\n".join(sign.join(line) for line in (names, ["1e6", "1", "2", "3", "4", "2.5"])) + "\n"
    found = table.read(foreign(tmp_path, text))
    assert list(found.columns) == [name.strip('"') for name in names]
    assert found["loss"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-16", "-f UTF-16"), ("utf-16-le", "-f UTF-16"), ("latin-1", "-f ENC")]
)
def test_another_encoding_is_refused_with_a_remedy(tmp_path, encoding, words):
    (tmp_path / "wide.csv").write_bytes("loss,who\n3.5,é\n".encode(encoding))
    with pytest.raises(ValueError, match=f"wide.csv is no text in UTF-8.*iconv {words}"):
        table.read(tmp_path / "wide.csv")


@pytest.mark.parametrize("gap", ["", "NA", "n/a", "NULL", "None", "NaN", "-"])
def test_what_stands_for_a_missing_cell_makes_no_words(tmp_path, gap):
    found = table.read(foreign(tmp_path, f"accuracy,loss,status\n0.5,{gap},{gap}\n{gap},-2,finished\n"))
    np.testing.assert_array_equal(found["accuracy"], [0.5, np.nan])
    np.testing.assert_array_equal(found["loss"], [np.nan, -2])
    assert found["status"].tolist() == ["", "finished"]


def test_a_column_is_numbers_or_the_cell_that_is_none_is_named():
    made = table.from_rows([{"accuracy": "0.5"}, {"accuracy": "bad"}, {"accuracy": None}])
    with pytest.raises(ValueError, match="accuracy of row 2 is 'bad', not a number; .* --drop 'accuracy==bad'"):
        made.numbers("accuracy")
    later = made.without("first", np.arange(3) == 0, "x").with_column("loss", [1.0, 2.0])
    with pytest.raises(ValueError, match="accuracy of row 2 is 'bad'"):  # rows are counted as the file has them
        later.take(np.array([1, 0])).numbers("accuracy")
    kept = made.without("bad", made["accuracy"] == "bad", "x")
    np.testing.assert_array_equal(kept.numbers("accuracy"), [0.5, np.nan])
