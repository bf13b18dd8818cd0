"""CSV cells that a spreadsheet would run as a formula get an apostrophe, which reading takes away again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_services.contact_files.formulas import escape, unescape

DANGEROUS = [
    *('=HYPERLINK("https://example.org")', "=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-A1", "\t=1", "\r=1", "＝1", "-1+A1"),
    *("+x", "-x", "＋1x"),
]
HARMLESS = ["", "Ada", "+49 30 123-45", "+1 (555) 123-4567", "-5", "-0.5", "+", "-", "a=b", "1@b", "'tis", "'", "O'Brien"]


@pytest.mark.parametrize("text", DANGEROUS)
def test_formula_gets_an_apostrophe(text: str) -> None:
    assert escape(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text == unescape(text)


@given(st.text(alphabet="'=@+-1a \t\r\n＝") | st.text())
def test_text_comes_back_as_it_was(text: str) -> None:
    assert unescape(escape(text)) == text
