"""Filters of the directory for Hypothesis: syntax trees of every kind, on few fields and values."""

from typing import Any, Final

from hypothesis import strategies as st

from kinfold_schemas.filters import (
    FIELDS,
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
)

NOW_MS: Final = 1_795_000_000_000
"""2026-11-18T11:06:40Z."""
DAY_MS: Final = 86_400_000

KEYS: Final = [
    "plan",
    "mrr",
    "renewal",
    "any key",
    'a"b',
    "a\\b",
    "a.b",
    "1",
    "é",
    "𝄞",
    "$",
    "[0]",
    "email",
    "not",
    "'); --",
    "\n",
]
TEXTS: Final = [
    "pro",
    "Pro",
    "free",
    "1",
    "1.0",
    "true",
    "null",
    "",
    "é",
    "e\u0301",
    "É",
    "Straße",
    "STRASSE",
    "ﬁ",
    "𝄞",
    "\ufffd",
    "%",
    "_",
    "\\",
    "'",
    '"',
    "' OR 1=1 --",
    "\n",
    "2026-11-01",
    "2026-11-01T08:00:00Z",
    "2026-11-01T10:00:00.123456789+02:00",
    "2026-02-30",
    "2026-11-01T08:00:00",
    "1955-03-02",
    "x" * 250,
    "x" * 200 + "y" * 50,
]
NUMBERS: Final[list[int | float]] = [
    0,
    1,
    -1,
    99,
    98.5,
    0.1,
    0.30000000000000004,
    2**53 - 1,
    -(2**53) + 1,
    1e20,
    1.5e-7,
    1e300,
    5e-324,
]
PRIMITIVES: Final[list[Any]] = [None, True, False, *NUMBERS, *TEXTS]

keys: Final = st.sampled_from(KEYS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
texts: Final = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
numbers: Final = st.sampled_from(NUMBERS) | st.integers(-3, 120)
metadata_fields: Final = st.builds(Field, keys, in_metadata=st.just(True))  # noqa: FBT003  hypothesis's just


def _fields(kind: str) -> st.SearchStrategy[Field]:
    return st.sampled_from([Field(name, in_metadata=False) for name, its in FIELDS.items() if its == kind])


times: Final = st.one_of(
    st.builds(Moment, st.integers(-40 * 365, 60).map(lambda day: NOW_MS + day * DAY_MS)),
    st.builds(Moment, st.integers(0, 10).map(lambda minute: NOW_MS - minute * 60_000)),
    st.builds(Age, st.integers(0, 60).map(lambda day: day * DAY_MS)),
    st.builds(Age, st.integers(0, 10_000)),
)
_operators: Final = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
_exact: Final = st.sampled_from(["=", "!="])


def comparisons(strings: st.SearchStrategy[str] = texts) -> st.SearchStrategy[Filter]:
    """Single comparisons. `strings` are what the contact's own strings are compared with."""
    metadata_values = st.sampled_from(PRIMITIVES) | numbers | texts
    string_fields = _fields("string")
    return st.one_of(
        st.builds(Comparison, metadata_fields, _exact, metadata_values),
        st.builds(Comparison, metadata_fields, _operators, numbers | texts),
        st.builds(OneOf, metadata_fields, st.lists(metadata_values, min_size=1, max_size=4).map(tuple)),
        st.builds(Contains, metadata_fields, texts),
        st.builds(Exists, metadata_fields),
        st.builds(Dated, metadata_fields, st.sampled_from(["before", "after"]), times),
        st.builds(Comparison, string_fields, _operators, strings),
        st.builds(Comparison, string_fields, _exact, st.none()),
        st.builds(OneOf, string_fields, st.lists(strings | st.none(), min_size=1, max_size=4).map(tuple)),
        st.builds(Contains, string_fields, strings),
        st.builds(Comparison, _fields("number"), _operators, numbers),
        st.builds(OneOf, _fields("number"), st.lists(numbers, min_size=1, max_size=3).map(tuple)),
        st.builds(Comparison, _fields("time"), _operators, times),
        st.builds(OneOf, _fields("time"), st.lists(times, min_size=1, max_size=3).map(tuple)),
        st.builds(Exists, string_fields | _fields("number") | _fields("time")),
    )


def filters(strings: st.SearchStrategy[str] = texts, max_leaves: int = 6) -> st.SearchStrategy[Filter]:
    """Filters of every kind, with not, and, or."""

    def joined(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        several = st.lists(inner, min_size=2, max_size=4).map(tuple)
        return st.builds(Not, inner) | st.builds(And, several) | st.builds(Or, several)

    return st.recursive(comparisons(strings), joined, max_leaves=max_leaves)
