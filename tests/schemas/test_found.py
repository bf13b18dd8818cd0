"""How messages show what they got: as JSON, since most readers write JSON and not Python."""

from datetime import date
from typing import Any

import pytest

from kinfold_schemas.rejections import found, found_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true (a boolean)"),
        (7, "7 (a number)"),
        (1.5, "1.5 (a number)"),
        ("x", "'x'"),
        ({"a": None, "b": [True, "é"]}, '{"a": null, "b": [true, "é"]} (an object)'),
        ([None], "[null] (an array)"),
        (["\x1b[2J\u202e"], '["\\u001b[2J\\u202e"] (an array)'),
        ("\x1b", "'\\x1b'"),
        (["\ud800"], '["\\ud800"] (an array)'),
        ([0] * 100, "[" + "0, " * 18 + "0,... (an array)"),
        (date(2026, 11, 28), "datetime.date(2026, 11, 28) (date)"),
        (b"x", "b'x' (bytes)"),
    ],
)
def test_value_is_shown_as_json_with_its_type(value: Any, text: str) -> None:
    """Without characters that would move a terminal's cursor. What JSON does not have is shown as Python does."""
    assert found(value) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello", "'hello'"),
        ("né".encode(), "'né'"),
        (b"\xff\x00", "'\\xff\\x00'"),
        (b"\xff" * 100, "'" + "\\xff" * 14 + "..."),
    ],
)
def test_bytes_are_shown_as_text(data: bytes, text: str) -> None:
    assert found_bytes(data) == text


def test_long_value_is_cut_to_a_line() -> None:
    assert found("x" * 100) == "'" + "x" * 57 + "...'"
