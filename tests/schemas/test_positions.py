"""Whether a reader may continue after a position (contract section 6)."""

import pytest

from kinfold_schemas.positions import Extent, goes_on_behind, is_entry_id, position_key

NEVER_THERE = Extent("", "0-0", "0-0", 0)
WHOLE = Extent("1-0", "9-0", "0-0", 0)
TRIMMED = Extent("4-0", "9-0", "0-0", 3)
DELETED_BY_HAND = Extent("1-0", "9-0", "5-0", 1)
EMPTIED = Extent("", "9-0", "0-0", 9)


@pytest.mark.parametrize(
    ("position", "extent", "is_there", "expected"),
    [
        pytest.param("0", NEVER_THERE, False, True, id="the beginning of a stream that never existed"),
        pytest.param("0-0", WHOLE, False, True, id="the beginning"),
        pytest.param("0", TRIMMED, False, False, id="the beginning, which was trimmed"),
        pytest.param("1-0", WHOLE, True, True, id="an entry"),
        pytest.param("9-0", WHOLE, True, True, id="the last entry"),
        pytest.param("9-0", EMPTIED, False, True, id="the last entry, trimmed with all others"),
        pytest.param("8-0", EMPTIED, False, False, id="an entry trimmed with all others"),
        pytest.param("3-0", TRIMMED, False, False, id="a trimmed entry: later ones may be trimmed too"),
        pytest.param("5-0", DELETED_BY_HAND, False, True, id="a deleted entry"),
        pytest.param("6-0", DELETED_BY_HAND, False, False, id="an entry above all deleted ones: it never existed"),
        pytest.param("5-0", WHOLE, False, False, id="an entry that a failover lost, followed by others"),
        pytest.param("10-0", WHOLE, False, False, id="an entry after the last one"),
        pytest.param("1-0", NEVER_THERE, False, False, id="an entry of a stream that is gone"),
        pytest.param("0-5", Extent("3-0", "9-0", "0-0", 0), False, False, id="an entry of an older stream"),
    ],
)
def test_reader_continues_only_if_nothing_is_skipped(position: str, extent: Extent, is_there: bool, expected: bool) -> None:  # noqa: FBT001
    assert goes_on_behind(position, extent, is_there=is_there) is expected


@pytest.mark.parametrize("text", ["", "5", "5-1", "18446744073709551615-18446744073709551615"])
def test_entry_ids_are_positions(text: str) -> None:
    position_key(text)


@pytest.mark.parametrize(
    "text", ["x", "-1", "1-", "1-x", "18446744073709551616-0", "1-18446744073709551616", "9" * 5000, "\u0661"]
)
def test_anything_else_is_not_a_position(text: str) -> None:
    """A larger number is not one: Redis would refuse it."""
    with pytest.raises(ValueError, match="expected a log entry's id"):
        position_key(text)


def test_only_a_whole_id_names_one_entry() -> None:
    """Redis takes `5` for all entries of that millisecond."""
    texts = ["5-0", "5-1", "5", "", "replay", "5-"]
    assert [is_entry_id(text) for text in texts] == [True, True, False, False, False, False]
