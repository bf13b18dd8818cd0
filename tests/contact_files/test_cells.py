"""What a cell becomes: a number or a boolean only where nothing is lost."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_services.contact_files.cells import CSV_KINDS, PARQUET_KINDS, Kind, WrongCell, is_written_otherwise, number_in

LARGEST = 2**53 - 1


def exactly(value: object) -> tuple[type, object]:
    """A value with its type: `True == 1 == 1.0` in Python, and three values in JSON."""
    return type(value), value


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *(("", None), ("  ", None), ("0", 0), ("12", 12), ("-3", -3), ("0.5", 0.5), ("-0.5", -0.5), ("99.9", 99.9)),
        *((str(LARGEST), LARGEST), (str(-LARGEST), -LARGEST), ("0.30000000000000004", 0.30000000000000004)),
        *(("true", True), ("FALSE", False), ("True", True), ("tRUE", "tRUE"), ("yes", "yes"), ("null", "null")),
        *(("007", "007"), ("1.50", "1.50"), ("1.0", "1.0"), ("-0", "-0"), ("+1", "+1"), (" 1", " 1"), ("1e5", "1e5")),
        *((str(LARGEST + 1), str(LARGEST + 1)), ("9" * 5000, "9" * 5000), ("0.1234567890123456789", "0.1234567890123456789")),
        *(("1,5", "1,5"), ("1 000", "1 000"), ("٣", "٣"), ("nan", "nan"), ("inf", "inf"), (".5", ".5"), ("5.", "5.")),
        *(("'=1+1", "=1+1"), ("'tis", "'tis"), ("pro", "pro"), (" Ada ", " Ada ")),
    ],
)
def test_csv_cell_becomes_a_number_or_a_boolean_only_where_nothing_is_lost(cell: str, value: object) -> None:
    assert exactly(CSV_KINDS[None](cell)) == exactly(value)


@given(st.text(alphabet="0123456789.-+eE", max_size=24))
def test_number_can_be_written_again_as_it_was(text: str) -> None:
    number = number_in(text)

    if number is not None:
        assert format(Decimal(repr(number)), "f") == text


@pytest.mark.parametrize("text", ["007", "1.50", "+49 30 1", "1,5", "2024-01-01", "1.2.3", "1e5", "-0", "9" * 20])
def test_number_that_would_not_come_back_is_recognised(text: str) -> None:
    assert is_written_otherwise(text)


@pytest.mark.parametrize("text", ["12", "pro", "unlimited", "u-1", "4d", "-", "", "v1.50", "٣"])
def test_other_text_is_no_number(text: str) -> None:
    assert not is_written_otherwise(text)


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        *(("string", "12", "12"), ("string", "true", "true"), ("string", "", None)),
        *(("number", "1.50", 1.5), ("number", "007", 7), ("number", " +1 ", 1), ("number", "1e3", 1000), ("number", "2.0", 2)),
        *(
            ("number", "", None),
            ("boolean", "Yes", True),
            ("boolean", "0", False),
            ("boolean", "", None),
            ("boolean", "f", False),
        ),
    ],
)
def test_csv_column_has_the_chosen_kind(kind: Kind, cell: str, value: object) -> None:
    assert exactly(CSV_KINDS[kind](cell)) == exactly(value)


@pytest.mark.parametrize(
    ("kind", "cell", "expected"),
    [
        ("number", "abc", "a number, got 'abc'"),
        ("number", "nan", "a number, got 'nan'"),
        ("number", "1e999", "a number, got '1e999'"),
        ("number", str(LARGEST + 1), "an integer within ±(2^53-1), got '9007199254740992'"),
        ("boolean", "maybe", "a boolean (true, false, yes, no, 1 or 0), got 'maybe'"),
    ],
)
def test_cell_of_another_kind_is_wrong(kind: Kind, cell: str, expected: str) -> None:
    with pytest.raises(WrongCell) as raised:
        CSV_KINDS[kind](cell)
    assert str(raised.value) == f"expected {expected}"


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        *((None, 1, 1), (None, 1.0, 1), (None, 1.5, 1.5), (None, True, True), (None, "1", "1"), (None, "", "")),
        *((None, None, None), (None, float("nan"), None), (None, Decimal("9.90"), 9.9), (None, Decimal(3), 3)),
        (None, date(1999, 5, 6), "1999-05-06"),
        (None, datetime(1969, 5, 6, 7, 8, 9), "1969-05-06T07:08:09.000Z"),  # noqa: DTZ001  Parquet has times without a zone
        (None, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2025-12-31T22:00:00.000Z"),
        *(("string", 1, "1"), ("string", 1.5, "1.5"), ("string", True, "true"), ("string", 42.0, "42"), ("string", "", None)),
        *(("string", datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00.000Z"), ("string", None, None)),
        *(("number", "1.50", 1.5), ("number", 2.0, 2), ("number", None, None), ("boolean", 1, True), ("boolean", "no", False)),
    ],
)
def test_parquet_cell_keeps_its_value(kind: Kind | None, cell: Any, value: object) -> None:
    assert exactly(PARQUET_KINDS[kind](cell)) == exactly(value)


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        *((None, float("inf")), (None, 2**60), (None, Decimal("0.1234567890123456789")), (None, Decimal("Infinity"))),
        *((None, b"bytes"), (None, [1]), ("number", True), ("number", "x"), ("boolean", 5)),
    ],
)
def test_parquet_cell_that_cannot_be_metadata_is_wrong(kind: Kind | None, cell: object) -> None:
    with pytest.raises(WrongCell, match=r"^expected "):
        PARQUET_KINDS[kind](cell)
