"""Suppression: events that say nothing new are not sent, all others are."""

from datetime import UTC, datetime

import pytest
from redis import Redis

import kinfold
from kinfold.calls.drafts import Draft
from kinfold.producer.suppression import Suppression
from kinfold_schemas.canonical import Primitive
from tests.clients.drafting import DRAFTING
from tests.support.logs import Log
from tests.support.waiting import wait_until_sync


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="suppression")
def _suppression(clock: Clock) -> Suppression:
    return Suppression(entries=100, ttl_s=300, clock=clock)


def identified(visitor_id: str | None = None, external_id: str | None = None, email: str | None = None, **fields: str) -> Draft:
    return DRAFTING.identify(
        visitor_id, external_id=external_id, email=email, name=fields.pop("name", None), metadata={**fields}
    )


def plan(value: str, visitor_id: str | None = None, external_id: str | None = None, **more: int) -> Draft:
    return DRAFTING.set_metadata(visitor_id, {"plan": value, **more}, external_id=external_id)


def test_repeated_event_is_not_sent(folding_url: str, client: Redis, workspace: str):
    """A hundred page views with the same data give one event of each kind, and the counters show the rest as suppressed."""
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        for _ in range(100):
            visitors.identify("v-1", external_id="u-1", metadata={"plan": "pro", "seats": 3})
            visitors.set_metadata("v-1", {"mrr": 99})
        visitors.flush()
        assert (visitors.counters.sent, visitors.counters.suppressed) == (2, 198)
    assert len(Log(client, workspace).events) == 2


def test_page_view_is_always_sent(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace) as visitors:
        for _ in range(3):
            visitors.seen("v-1", url="/pricing")
    assert len(Log(client, workspace).events) == 3


def test_suppression_can_be_disabled(folding_url: str, client: Redis, workspace: str):
    with kinfold.Producer(folding_url, workspace=workspace, suppress_entries=0) as visitors:
        for _ in range(3):
            visitors.set_metadata("v-1", {"mrr": 99})
    assert len(Log(client, workspace).events) == 3


def test_numbers_are_compared_as_in_the_contract(suppression: Suppression):
    """1 and 1.0 are the same number, true is not 1, and "1" is not 1."""
    values: list[tuple[Primitive, bool]] = [(1, True), (1.0, False), (True, True), ("1", True), (1, True)]
    for value, is_news in values:
        assert suppression.is_news(DRAFTING.set_metadata("v-1", {"a": value})) is is_news, value


def test_change_back_and_forth_is_sent_each_time(suppression: Suppression):
    assert [suppression.is_news(plan(value, "v-1")) for value in ("pro", "free", "pro")] == [True, True, True]


def test_other_keys_do_not_make_an_event_new(suppression: Suppression):
    other = DRAFTING.set_metadata("v-1", {"mrr": 1})
    assert [suppression.is_news(draft) for draft in (plan("pro", "v-1"), other, plan("pro", "v-1"), other)] == [
        True,
        True,
        False,
        False,
    ]


def test_removing_a_key_makes_its_value_new(suppression: Suppression):
    removed = DRAFTING.set_metadata("v-1", unset=["plan"])
    assert [suppression.is_news(draft) for draft in (plan("pro", "v-1"), removed, removed, plan("pro", "v-1"))] == [
        True,
        True,
        False,
        True,
    ]


def test_identifiers_of_one_person_are_compared_together(suppression: Suppression):
    """The visitor was identified as u-1, so metadata of u-1 changes that of the visitor."""
    story = [identified("v-1", "u-1"), plan("pro", "v-1"), plan("free", external_id="u-1"), plan("pro", "v-1")]
    assert [suppression.is_news(draft) for draft in story] == [True, True, True, True]
    assert suppression.is_news(plan("free", external_id="u-1"))


def test_change_of_the_user_of_a_device_is_sent_each_time(suppression: Suppression):
    story = [identified("v-1", "u-1"), identified("v-1", "u-2"), identified("v-1", "u-1"), identified("v-1", "u-1")]
    assert [suppression.is_news(draft) for draft in story] == [True, True, True, False]


def test_email_addresses_are_compared_without_case(suppression: Suppression):
    first = DRAFTING.set_metadata(email="Ada@example.org", metadata={"a": 1})
    second = DRAFTING.set_metadata(email="ada@example.org", metadata={"a": 2})
    assert [suppression.is_news(draft) for draft in (first, second, first)] == [True, True, True]


def test_spellings_of_an_identifier_are_the_same(suppression: Suppression):
    """As in the fold: an event with one spelling makes an event with the other one new again."""

    def draft(number: int, *, visitor_id: str | None = None, external_id: str | None = None, email: str | None = None) -> Draft:
        return DRAFTING.set_metadata(visitor_id, {"a": number}, external_id=external_id, email=email)

    for first, second in (
        (draft(1, email="jos\u00e9@b\u00fccher.example"), draft(2, email="JOSE\u0301@xn--bcher-kva.example.")),
        (draft(1, email="a@x.org"), draft(2, email="\ufeffa@x.org")),
        (draft(1, external_id="caf\u00e9"), draft(2, external_id="\u200bcafe\u0301")),
        (draft(1, visitor_id="caf\u00e9"), draft(2, visitor_id="cafe\u0301 ")),
    ):
        assert [suppression.is_news(draft) for draft in (first, second, first)] == [True, True, True], second


def test_lookalike_address_is_another_person(suppression: Suppression):
    """An event about the address with KELVIN SIGN does not affect the address of Kate."""
    kate = DRAFTING.set_metadata(email="kate@example.org", metadata={"a": 1})
    kelvin = DRAFTING.set_metadata(email="\u212aate@example.org", metadata={"a": 2})
    assert [suppression.is_news(draft) for draft in (kate, kelvin, kate, kelvin)] == [True, True, False, False]


def test_event_with_an_explicit_time_is_always_sent(suppression: Suppression):
    """The fold decides which value wins, so the producer no longer knows the current value."""
    late = DRAFTING.set_metadata("v-1", {"plan": "free"}, at=datetime(2026, 1, 1, tzinfo=UTC))
    story = [plan("pro", "v-1"), late, late, plan("free", "v-1"), plan("free", "v-1")]
    assert [suppression.is_news(draft) for draft in story] == [True, True, True, True, False]


def test_event_is_sent_again_after_the_time_to_live(suppression: Suppression, clock: Clock):
    assert suppression.is_news(plan("pro", "v-1"))
    clock.now_s = 299.9
    assert not suppression.is_news(plan("pro", "v-1"))
    clock.now_s = 300
    assert suppression.is_news(plan("pro", "v-1"))


def test_number_of_remembered_identifiers_is_limited(suppression: Suppression):
    """The least recently used ones are forgotten, and their events are sent."""
    for number in range(1000):
        suppression.is_news(plan("pro", f"v-{number}"))
    assert len(suppression) == 100
    assert not suppression.is_news(plan("pro", "v-999"))
    assert suppression.is_news(plan("pro", "v-0"))


def test_shared_device_does_not_join_all_its_users(suppression: Suppression):
    for number in range(1000):
        assert suppression.is_news(identified("v-kiosk", f"u-{number}"))
        assert len(suppression) <= 33
    assert suppression.is_news(identified("v-kiosk", "u-998"))


def test_lost_event_does_not_count_as_sent(workspace: str):
    visitors = kinfold.Producer("redis://127.0.0.1:1/0", workspace=workspace, exit_timeout_s=0)
    visitors.set_metadata("v-1", {"a": 1})
    visitors.close(timeout_s=0)
    wait_until_sync(lambda: visitors.counters.lost == 1)
    assert visitors._delivery._suppression.is_news(DRAFTING.set_metadata("v-1", {"a": 1}))
