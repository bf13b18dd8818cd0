"""Whose each log entry is (contract section 10)."""

from typing import Any

from hypothesis import given

from kinfold_projections.entries import BadEntry
from kinfold_projections.ownership import Belongings, Ownership
from kinfold_schemas.times import to_text
from tests.support.folding import LOG_START_MS, STORY_START_MS, entry_of
from tests.support.strategies import Log, logs, read


def _entry_id(number: int) -> str:
    return f"{LOG_START_MS + number * 1000}-0"


def _owned(*events: dict[str, Any]) -> Ownership:
    ownership = Ownership("default")
    ownership.fold([entry_of(_entry_id(number), event) for number, event in enumerate(events)])
    return ownership


def _of(ownership: Ownership, external_id: str) -> Belongings:
    contact_id = ownership.state.external_ids[external_id]
    assert contact_id is not None
    return ownership.belongings({contact_id})


def _numbers(belongings: Belongings) -> list[int]:
    return sorted((int(each.partition("-")[0]) - LOG_START_MS) // 1000 for each in belongings.entries)


def _seen(visitor_id: str, second: int) -> dict[str, Any]:
    return {"type": "VisitorSeen", "visitorId": visitor_id, "at": to_text(STORY_START_MS + second * 1000)}


def _signs_in(visitor_id: str | None, second: int, **fields: Any) -> dict[str, Any]:
    at = to_text(STORY_START_MS + second * 1000)
    visitor = {} if visitor_id is None else {"visitorId": visitor_id}
    return {"type": "VisitorIdentified", "at": at, **visitor, **fields}


def test_on_a_shared_browser_each_user_has_their_own_events() -> None:
    owned = _owned(
        _seen("v", 0),
        _signs_in("v", 1, externalId="ada"),
        _seen("v", 2),
        _signs_in("v", 3, externalId="ben"),
        _seen("v", 4),
        _signs_in("v", 5, externalId="ada"),
        _seen("v", 6),
    )

    assert _numbers(_of(owned, "ada")) == [0, 1, 2, 5, 6]
    assert _numbers(_of(owned, "ben")) == [3, 4]
    assert _of(owned, "ada").shared_visitors == {"v"}


def test_contacts_that_were_merged_are_one_person() -> None:
    owned = _owned(
        _signs_in("phone", 0, email="Ada@example.org"),
        _signs_in("laptop", 1, externalId="ada"),
        _signs_in(None, 2, externalId="ada", email="ada@example.org"),
    )

    ada = _of(owned, "ada")
    assert _numbers(ada) == [0, 1, 2]
    assert len(ada.contacts) == 2
    assert (ada.external_ids, ada.emails, ada.visitors) == ({"ada"}, {"ada@example.org"}, {"phone", "laptop"})


def test_a_former_address_is_theirs_and_shared_with_its_next_holder() -> None:
    owned = _owned(
        _signs_in(None, 0, externalId="ada", email="shop@example.org"),
        _signs_in(None, 1, externalId="ada", email="ada@example.org"),
        _signs_in(None, 2, externalId="ben", email="shop@example.org"),
    )

    ada = _of(owned, "ada")
    assert ada.emails == {"shop@example.org", "ada@example.org"}
    assert ada.shared_emails == {"shop@example.org"}


def test_an_address_in_conflict_is_a_mention_and_the_event_is_the_others() -> None:
    owned = _owned(
        _signs_in(None, 0, externalId="ada", email="ada@example.org"),
        _signs_in(None, 1, externalId="ben", email="ada@example.org"),
    )

    ada = _of(owned, "ada")
    assert _numbers(ada) == [0]
    assert [(each.entry, each.field) for each in ada.mentions] == [(_entry_id(1), "email")]
    assert _of(owned, "ben").emails == set()


def test_a_page_that_may_not_link_a_visitor_only_mentions_it() -> None:
    owned = _owned(
        _signs_in("v", 0, externalId="ada"),
        {**_signs_in("v", 1, externalId="ben"), "source": "browser"},
    )

    ada = _of(owned, "ada")
    assert _numbers(ada) == [0]
    assert [(each.entry, each.field) for each in ada.mentions] == [(_entry_id(1), "visitorId")]
    assert ada.shared_visitors == set()


def test_a_visitor_that_nobody_identified_has_its_own_entries() -> None:
    owned = _owned(_seen("v", 0), _seen("w", 1), _seen("v", 2))

    assert _numbers(owned.belongings((), {"v"})) == [0, 2]


@given(logs())
def test_every_entry_that_the_fold_takes_is_exactly_one_persons(log: Log) -> None:
    entries = read(log)
    owned = Ownership("default")

    owned.fold(entries)

    everybody = [owned.belongings({each.id}).entries for each in owned.state.living_contacts()]
    everybody += [set(each) for each in owned.anonymous.values()]
    assert sum(map(len, everybody)) == len(set[str]().union(*everybody))
    others = {*owned.unfolded, *owned.duplicates, *(each.id for each in entries if not _names_anybody(each))}
    assert set[str]().union(*everybody) == {each.id for each in entries} - others


def _names_anybody(entry: Any) -> bool:
    return isinstance(entry, BadEntry) or any(
        (entry.names.visitor_id, entry.names.external_id, entry.names.email, entry.names.contact_id)
    )
