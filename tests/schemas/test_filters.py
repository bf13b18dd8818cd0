import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold_schemas.filters import (
    MAX_BYTES,
    MAX_COMPARISONS,
    MAX_DEPTH,
    Age,
    And,
    Comparison,
    Contains,
    Dated,
    Exists,
    Field,
    Filter,
    Moment,
    Not,
    OneOf,
    Or,
    WrongFilter,
    all_of,
    field,
    field_text,
    parse,
    text_time_ms,
    unparse,
)
from tests.support.filters import filters, metadata_fields

NOVEMBER_MS = 1_793_491_200_000  # 2026-11-01T00:00:00Z
PLAN = Field("plan", in_metadata=True)
NAME = Field("name", in_metadata=False)
SEEN = Field("lastSeenAt", in_metadata=False)


def of(value: Any, operator: Any = "=", compared: Field = PLAN) -> Filter:
    return Comparison(compared, operator, value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("plan=pro", of("pro")),
        ("plan = 'pro'", of("pro")),
        ('plan = "pro"', of("pro")),
        ("metadata.plan = pro", of("pro")),
        ('metadata."plan" = pro', of("pro")),
        ("metadata.name = Ada", of("Ada", compared=Field("name", in_metadata=True))),
        ("name = Ada", of("Ada", compared=NAME)),
        ("name = null", of(None, compared=NAME)),
        ('metadata."any \\"key\\"" = 1', of(1, compared=Field('any "key"', in_metadata=True))),
        ("metadata.a.b = 1", of(1, compared=Field("a.b", in_metadata=True))),
        ("plan = 1", of(1)),
        ("plan = 1.0", of(1)),
        ("plan = -0", of(0)),
        ("plan = 1e20", of(1e20)),
        ("plan = '1'", of("1")),
        ("plan = true", of(True)),  # noqa: FBT003
        ("plan = null", of(None)),
        ("plan != pro", of("pro", "!=")),
        ("plan >= 99", of(99, ">=")),
        ("plan = ada@example.org", of("ada@example.org")),
        ("plan = 2026-11-01", of("2026-11-01")),
        ("plan = 'it\\'s \"it\"'", of('it\'s "it"')),
        ('plan = "\\u00e9\\n"', of("é\n")),
        ("plan in (pro, 1, null)", OneOf(PLAN, ("pro", 1, None))),
        ("plan contains r", Contains(PLAN, "r")),
        ("plan exists", Exists(PLAN)),
        ("EXISTS plan", Exists(PLAN)),
        ("plan before 30d", Dated(PLAN, "before", Age(30 * 86_400_000))),
        ("plan after 2026-11-01", Dated(PLAN, "after", Moment(NOVEMBER_MS))),
        ("lastSeenAt before 4w", of(Age(28 * 86_400_000), "<", SEEN)),
        ("lastSeenAt < 12h", of(Age(12 * 3_600_000), "<", SEEN)),
        ("lastSeenAt after 15m", of(Age(900_000), ">", SEEN)),
        ("lastSeenAt >= 90s", of(Age(90_000), ">=", SEEN)),
        ("lastSeenAt = 2026-11-01", of(Moment(NOVEMBER_MS), compared=SEEN)),
        ('lastSeenAt = "2026-11-01T02:00:00.0009+02:00"', of(Moment(NOVEMBER_MS), compared=SEEN)),
        ("not plan = 1 and plan = 2", And((Not(of(1)), of(2)))),
        ("plan = 1 or plan = 2 and plan = 3", Or((of(1), And((of(2), of(3)))))),
        ("(plan = 1 or plan = 2) and plan = 3", And((Or((of(1), of(2))), of(3)))),
        ("NOT (plan = 1 OR plan = 2)", Not(Or((of(1), of(2))))),
    ],
)
def test_text_is_parsed_to_this_tree(text: str, parsed: Filter):
    assert repr(parse(text)) == repr(parsed)  # because 1 == True


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "column 1: expected a field, got the end"),
        ("plan", "column 5: expected an operator (=, !=, <, <=, >, >=, in, contains, exists, before, after), got the end"),
        ("plan = ", "column 8: expected a value, got the end"),
        ("plan == pro", "column 7: expected a value, got '='"),
        ("plan = pro mrr = 9", "column 12: expected 'and', 'or' or the end, got 'mrr'"),
        ("(plan = pro", "column 12: expected 'and', 'or' or ')', got the end"),
        ("plan = 'pro", 'column 8: expected a closing quote, got "\'pro"'),
        ("plan = True", "column 8: expected true, or the string \"True\" in quotes, got 'True'"),
        ("plan = 007", "column 8: expected a number as JSON writes it, or the string \"007\" in quotes, got '007'"),
        ("plan = .5", "column 8: expected a number as JSON writes it, or the string \".5\" in quotes, got '.5'"),
        ("plan = 1e999", "column 8: expected a number within ±1.8e308, got '1e999'"),
        ("plan < true", "column 8: expected a number, a string or a time after <, got 'true'"),
        (
            "plan < 30d",
            "column 8: expected 'before' or 'after' in front of the age, or the string \"30d\" in quotes, got '30d'",
        ),
        ("plan in ()", "column 10: expected a value, got ')'"),
        ("plan in pro", "column 9: expected '(', got 'pro'"),
        ("plan contains 5", "column 15: expected a string, got '5'"),
        ("plan = and", "column 8: expected a value, got 'and'"),
        ("in = 5", "column 1: expected a field (a metadata key of that name is written metadata.in), got 'in'"),
        ("'plan' = 5", 'column 1: expected a field, got the string "plan"'),
        ("externalId = 42", "column 14: expected a string in quotes, because externalId is a string, got 42 (a number)"),
        ("version = '1'", 'column 11: expected a number, because version is a number, got the string "1"'),
        ("version = true", "column 11: expected a number, because version is a number, got 'true'"),
        ("version contains 1", "column 9: expected an operator for a number, because version is a number, got 'contains'"),
        ("name before 30d", "column 6: expected an operator for a string, because name is a string, got 'before'"),
        ('plan = "\\q"', "column 9: expected an escape of JSON (\\\" \\\\ \\n \\u00e9 …), got '\\\\q'"),
        ('plan = "\\ud800"', "column 8: expected Unicode text without NUL, got '\\ud800'"),
        ("plan = \0", "column 8: expected Unicode text without NUL, got '\\x00'"),
        ('metadata."" = 1', "column 1: expected a metadata key of 1 to 128 characters, got 0"),
        (f"{'k' * 129} = 1", "column 1: expected a metadata key of 1 to 128 characters, got 129"),
        ("not not plan = 1", "column 5: expected a field (a metadata key of that name is written metadata.not), got 'not'"),
    ],
)
def test_error_names_the_column_and_what_was_expected(text: str, error: str):
    with pytest.raises(WrongFilter) as raised:
        parse(text)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "text",
    ["yesterday", "30", "2026-02-29", "2026-11-01T08:00:00", "2026-11-01T24:00:00Z", "0000-01-01", "36501d", "9" * 99 + "d"],
)
def test_time_field_is_compared_only_with_times(text: str):
    with pytest.raises(WrongFilter, match="column 14: expected a time"):
        parse(f"lastSeenAt < {text}")


def test_comparisons_depth_and_length_are_limited():
    parse(" or ".join(["a=1"] * MAX_COMPARISONS))
    with pytest.raises(WrongFilter, match="at most 64 comparisons"):
        parse(" or ".join(["a=1"] * (MAX_COMPARISONS + 1)))
    parse("(" * MAX_DEPTH + "a=1" + ")" * MAX_DEPTH)
    with pytest.raises(WrongFilter, match="column 17: expected at most 16 levels"):
        parse("(" * 1000 + "a=1" + ")" * 1000)
    parse(f"a='{'é' * ((MAX_BYTES - 4) // 2)}'")
    with pytest.raises(WrongFilter, match="at most 4096 bytes, got 4098"):
        parse(f"a='{'é' * ((MAX_BYTES - 2) // 2)}'")


def test_several_filters_are_joined_by_and():
    assert all_of([]) is None
    assert all_of([of(1)]) == of(1)
    assert all_of([of(1), of(2)]) == And((of(1), of(2)))
    half = parse(" or ".join(["a=1"] * 40))
    with pytest.raises(WrongFilter, match="at most 64 comparisons, got 80"):
        all_of([half, Not(half)])


@given(filters())
def test_filter_written_as_text_parses_to_the_same_filter(tree: Filter):
    assert repr(parse(unparse(tree))) == repr(tree)


@given(metadata_fields)
def test_field_written_as_text_parses_to_the_same_field(named: Field):
    assert field(field_text(named)) == named


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_json_string_is_a_value(text: str):
    assert parse(f"plan = {json.dumps(text)}") == of(text)
    assert parse(f"plan = {json.dumps(text, ensure_ascii=False)}") == of(text)


_words = ["and", "or", "not", "in", "contains", "exists", "before", "plan", "metadata.", "lastSeenAt", "name", "true", "null"]
_marks = [
    "(",
    ")",
    ",",
    "=",
    "!=",
    "<",
    "!",
    '"',
    "'",
    "\\",
    " ",
    "1",
    "-",
    "1e999",
    "30d",
    "2026-11-01",
    "\0",
    "\ud800",
    "\\u12",
]
_fragments = st.sampled_from([*_words, *_marks, "9" * 400])


@settings(max_examples=500)
@given(st.text() | st.lists(_fragments, max_size=40).map("".join) | st.lists(_fragments, max_size=40).map(" ".join))
def test_any_text_is_parsed_or_raises_wrong_filter(text: str):
    tree = parsed(text)
    if isinstance(tree, WrongFilter):
        assert 1 <= tree.column <= len(text) + 1
    else:
        assert repr(parse(unparse(tree))) == repr(tree)


def parsed(text: str) -> Filter | WrongFilter:
    try:
        return parse(text)
    except WrongFilter as wrong:
        return wrong


@pytest.mark.parametrize(
    "part", ["(", "not ", "not (", "a=1 or ", "a=1 and (", " ", '"', '"\\', "\\", "a in (1,", "'\\'", "=", "9", "!", "é"]
)
def test_long_hostile_text_is_parsed_quickly(part: str):
    began = time.process_time()
    for text in (
        part * 4096,
        f"a = {part * 4096}",
        f"a = '{part * 4096}",
        part * (4000 // len(part)),
        f"a='{part * (3900 // len(part))}'",
    ):
        parsed(text)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00.001999Z", 1),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("1970-01-01t01:00:00z", 3_600_000),
        ("1970-01-01 01:00:00+01:00", 0),
        ("2000-02-29", 951_782_400_000),
        ("1900-02-29", None),
        ("1970-01-01T00:00Z", None),
        ("1970-01-01T00:00:00", None),
        ("1970-01-01T23:59:60Z", None),
        ("1970-01-01\n", None),
        ("١٩٧٠-01-01", None),
        ("19700101", None),
        ("now", None),
    ],
)
def test_times_are_those_of_rfc_3339_in_whole_milliseconds(text: str, ms: int | None):
    assert text_time_ms(text) == ms
