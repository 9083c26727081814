"""Rows of pyarrow tables as documents; a value that Python cannot hold loses its row, or becomes text."""

from collections.abc import Iterator, Sequence
from typing import Any

from t5x_like.cleaning.steps import Document, Dropped

UNREADABLE = (ValueError, OverflowError, KeyError)  # a KeyError is that of a time zone


def select_columns(names: Sequence[str], fields: Sequence[str]) -> list[str] | None:
    """The columns that hold `fields`; None, for all, if there are no fields or no such column."""
    wanted = {*fields, *(field.partition(".")[0] for field in fields)}
    return [name for name in names if name in wanted] or None


def batch_to_documents(batch: Any) -> Iterator[Document | Dropped]:
    """Yields the rows of a pyarrow RecordBatch; a row with a value that Python cannot hold is a Dropped."""
    columns = {
        name: column_to_values(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    for index in range(batch.num_rows):
        row = {name: values[index] for name, values in columns.items()}
        yield next((value for value in row.values() if isinstance(value, Dropped)), row)


def column_to_values(name: str, column: Any) -> list:
    """The values of a pyarrow array. Times outside Python's range or zones, or of nanoseconds, become text, others a Dropped."""
    column = column.cast(without_nanoseconds(column.type))
    try:
        return column.to_pylist()
    except UNREADABLE:
        return [scalar_to_value(name, scalar) for scalar in column]


def without_nanoseconds(kind: Any) -> Any:
    """A type with text for times of nanoseconds, which pyarrow would give as pandas' if that is installed, else not at all."""
    import pyarrow

    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_time64(kind):
        return pyarrow.string() if kind.unit == "ns" else kind
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(without_nanoseconds(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([field.with_type(without_nanoseconds(field.type)) for field in kind])
    return kind


def scalar_to_value(name: str, scalar: Any) -> Any:
    """One value of `column_to_values`."""
    import pyarrow

    try:
        return scalar.as_py()
    except UNREADABLE as error:
        if pyarrow.types.is_timestamp(scalar.type) and scalar.type.tz:
            scalar = scalar.cast(pyarrow.timestamp(scalar.type.unit, "UTC"))  # its own zone may be unknown here
        if pyarrow.types.is_temporal(scalar.type):
            return scalar.cast(pyarrow.string()).as_py()
        rule = "reading.invalid_utf8" if isinstance(error, UnicodeError) else "reading.invalid_value"
        return Dropped(rule, f"column {name!r}: {str(error)[:200]}")
