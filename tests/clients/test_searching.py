"""Searching with the client, through a gateway with a directory."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinfold
from kinfold.contacts import gateway_lookups
from kinfold.contacts.searches import where_text
from kinfold_schemas.filters import FIELDS, And, Comparison, Field, Filter, OneOf, parse


@pytest.fixture
def contacts(gateway_url: str, api_key: str, visitors: kinfold.Producer) -> Iterator[kinfold.Contacts]:
    """Give the contacts of a workspace with twelve people, which are in the directory, created in their order."""
    first = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(12):
        metadata = {"plan": "pro" if number % 3 else "free", "mrr": number}
        at = first + timedelta(seconds=number)
        visitors.identify(external_id=f"u-{number:02}", name=f"Ada {number}", metadata=metadata, at=at)
    with kinfold.Contacts(gateway_url, key=api_key) as contacts:
        assert contacts.count(after=visitors.flush()).count == 12
        yield contacts


def test_search_goes_through_all_pages(contacts: kinfold.Contacts, monkeypatch: pytest.MonkeyPatch):
    """The pages are read as needed, and the order is kept."""
    monkeypatch.setattr(gateway_lookups, "_PAGE_ITEMS", 5)

    found = contacts.search("ada", sort="-mrr")

    assert next(found).metadata["mrr"] == 11
    assert [contact.metadata["mrr"] for contact in found] == list(range(10, -1, -1))
    assert len(list(contacts.search(limit=7))) == 7
    assert [contact.external_id for contact in contacts.search(limit=1)] == ["u-11"]


def test_search_takes_conditions_as_text_and_as_objects(contacts: kinfold.Contacts):
    """Values in objects have their types, also times and ages."""

    def found(where: str | dict[str, Any]) -> set[str | None]:
        return {contact.external_id for contact in contacts.search(where=where)}

    assert found("plan = free and mrr >= 6") == found({"plan": "free", "mrr": {">=": 6}}) == {"u-06", "u-09"}
    assert found({"mrr": [1, 2, "3"]}) == {"u-01", "u-02"}
    assert found({"mrr": {">": 2, "<": 5}, "name": {"contains": "ADA"}}) == {"u-03", "u-04"}
    assert found({"lastSeenAt": {"before": timedelta(days=1)}}) == set()
    assert len(found({"createdAt": {"after": datetime(2020, 1, 1, tzinfo=UTC)}, "plan": {"exists": True}})) == 12
    assert found({"plan": {"exists": False}}) == set()


def test_contacts_are_counted(contacts: kinfold.Contacts):
    assert contacts.count(where={"plan": "pro"}).count == 8
    assert contacts.count("ada 11").is_exact
    counted = contacts.count(by="plan", limit=1)
    assert [(each.value, each.count) for each in counted.values] == [("pro", 8)]
    assert (counted.other, counted.missing, counted.by) == (4, 0, "metadata.plan")


def test_timeline_and_conflicts_are_read(contacts: kinfold.Contacts, visitors: kinfold.Producer):
    """An unknown contact has no changes."""
    visitors.identify(external_id="u-00", email="ada@example.org")
    visitors.identify(external_id="u-01", email="ada@example.org")
    position = visitors.flush()
    holder = contacts.by_external_id("u-00", after=position)
    assert holder is not None

    (conflict,) = contacts.conflicts(after=position)
    newest, *_, created = contacts.timeline(holder.id)

    assert (conflict.email, conflict.held_by, conflict.settled_at) == ("ada@example.org", holder.id, None)
    assert newest.details["changed"] == [{"field": "email", "after": "ada@example.org"}]
    assert (created.type, created.contact_id) == ("ContactCreated", holder.id)
    assert list(contacts.timeline("ct_unknown")) == []
    assert [entry.type for entry in contacts.timeline(holder.id, limit=1)] == [newest.type]


async def test_asyncio_client_searches(contacts: kinfold.Contacts, gateway_url: str, api_key: str):
    """The same names, awaited or with `async for`."""
    async with kinfold.AsyncContacts(gateway_url, key=api_key) as same:
        found = [contact async for contact in same.search(where={"plan": "free"}, sort="mrr")]
        assert found == list(contacts.search(where={"plan": "free"}, sort="mrr"))
        assert (await same.count(where="plan=free")).count == 4
        assert (await same.count(by="plan")).missing == 0
        assert len([entry async for entry in same.timeline(found[0].id)]) == 1
        assert [conflict async for conflict in same.conflicts()] == []


def test_wrong_filter_is_refused(contacts: kinfold.Contacts):
    """The error names the column."""
    with pytest.raises(kinfold.Refused, match="where: column 6: expected a value, got the end"):
        list(contacts.search(where="plan="))


def test_redis_cannot_be_searched(folding_url: str):
    """The error comes with the call, and says what is needed."""
    with kinfold.Contacts(folding_url) as contacts:
        for search in (contacts.search, contacts.count, contacts.conflicts, lambda: contacts.timeline("ct_1")):
            with pytest.raises(ValueError, match=r"expected the URL of a gateway .* to search contacts, got a Redis URL"):
                search()


def test_lookups_do_not_load_filters():
    """A web backend that only looks up contacts must start quickly."""
    code = "import sys, kinfold; kinfold.Contacts('http://localhost', key='k'); print('kinfold_schemas.filters' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=200)

    assert done.stdout == "False\n"


# --- conditions as text -------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_keys = _texts.filter(lambda key: bool(key) and not key.startswith("metadata.")).filter(lambda key: key not in FIELDS)
_numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_values = st.none() | st.booleans() | _numbers | _texts


@given(st.dictionaries(_keys, _values | st.lists(_values, min_size=1, max_size=3), min_size=1, max_size=5))
def test_values_keep_their_types_and_change_nothing_else(where: dict[str, Any]):
    """Any key and value: a value from a form cannot become part of the filter."""

    def condition(key: str, value: Any) -> Filter:
        field = Field(key, in_metadata=True)
        if value is None or isinstance(value, str | int | float):
            return Comparison(field, "=", plain(value))
        return OneOf(field, tuple(map(plain, value)))

    expected = [condition(key, value) for key, value in where.items()]
    text = where_text(where)
    assert text is not None
    parsed = parse(text)
    assert parsed == (expected[0] if len(expected) == 1 else And(tuple(expected)))
    assert repr(parsed) == repr(expected[0] if len(expected) == 1 else And(tuple(expected)))  # 1 is not True


def plain(value: Any) -> Any:
    """A number as filters have it."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (None, None),
        ({}, None),
        ("plan=pro", "plan=pro"),
        ({"email": "a@b.org"}, 'email = "a@b.org"'),
        ({"metadata.email": "a@b.org"}, 'metadata.email = "a@b.org"'),
        ({"plan": {"exists": False}, "mrr": {"!=": 1.5}}, "not metadata.plan exists and metadata.mrr != 1.5"),
        ({"seen at": {"before": timedelta(hours=1)}}, 'metadata."seen at" before 3600000ms'),
        ({"x": '" or name exists or x="'}, 'metadata.x = "\\" or name exists or x=\\""'),
    ],
)
def test_conditions_are_written_as_text(where: Any, text: str | None):
    assert where_text(where) == text


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"plan": {"$eq": 1}}, "expected an operator among"),
        ({"plan": {}}, "expected an operator and a value for 'plan', got none"),
        ({"plan": []}, "expected a list of values for 'plan', got "),
        ({"plan": {"in": "pro"}}, "expected a list of values for 'plan', got 'pro'"),
        ({"mrr": float("nan")}, "expected a finite number for 'mrr', got nan"),
        ({"at": datetime(2026, 1, 1)}, "expected a datetime with a time zone for 'at'"),  # noqa: DTZ001
        ({"at": {"before": timedelta(-1)}}, "expected an age of 0 or more for 'at'"),
        ({"plan": object()}, "expected a string, a number, a bool, None or a time for 'plan'"),
    ],
)
def test_condition_that_cannot_be_written_is_an_error(where: Any, message: str):
    """The client sends nothing."""
    with pytest.raises((ValueError, TypeError), match=message):
        where_text(where)
