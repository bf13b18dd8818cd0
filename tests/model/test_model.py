"""The fold gives what the contract by definition gives (`make model` goes on for as long as it is let)."""

import pytest

from kinfold_projections import duplicates
from tests.model.contract import Limits
from tests.model.differential import Difference, difference, smallest
from tests.model.logs import PROFILES, Log, log_of

SHARES = 8
EVENTS = 20_000
"""In all; each share is a test of its own, so that they can run beside each other."""


@pytest.mark.parametrize("share", range(SHARES))
def test_random_logs_come_to_the_same(share: int) -> None:
    """Contacts, visitors, indexes, rejects, counts and the feed, of logs of every kind."""
    events = number = 0
    while events < EVENTS // SHARES:
        profile = list(PROFILES)[number % len(PROFILES)]
        log = log_of(profile, f"suite/{share}/{number}")
        found = difference(log)
        assert found is None, (found, smallest(log, found))
        events, number = events + len(log.entries), number + 1


def test_a_contact_with_more_visitors_than_it_lists() -> None:
    """At the limit of 100 as it is."""
    assert difference(log_of("crowd", "suite/crowd")) is None


def test_a_planted_bug_is_found_and_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries are enough to show that contents are not compared."""

    def one_for_all(_content: bytes | int) -> int:
        return 0

    monkeypatch.setattr(duplicates, "_digest_of", one_for_all)
    small = smallest(*first_difference("wide"))
    assert len(small.entries) == 2
    assert small.entries[0][1].get("id") == small.entries[1][1]["id"]
    assert difference(small) is not None


def test_a_log_of_nothing() -> None:
    """Neither has anything to say of it."""
    assert difference(Log([], Limits())) is None


def first_difference(profile: str) -> tuple[Log, Difference]:
    """The first log that the two differ about."""
    for number in range(200):
        log = log_of(profile, f"planted/{number}")
        if (found := difference(log)) is not None:
            return log, found
    pytest.fail("200 logs, and none that differs")
