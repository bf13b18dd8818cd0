"""The fold returns what the model of the contract returns (`make model` tries more logs until it is stopped)."""

import pytest

from kinfold_projections import duplicates
from tests.model.contract import Limits
from tests.model.differential import Difference, difference, smallest
from tests.model.logs import PROFILES, Log, log_of

SHARES = 8
EVENTS = 20_000
"""The total of all shares. Each share is a separate test, so that they can run in parallel."""


@pytest.mark.parametrize("share", range(SHARES))
def test_fold_and_model_agree_on_random_logs(share: int) -> None:
    """On contacts, visitors, indexes, rejects, counts and the feed, for logs of every kind."""
    events = number = 0
    while events < EVENTS // SHARES:
        profile = list(PROFILES)[number % len(PROFILES)]
        log = log_of(profile, f"suite/{share}/{number}")
        found = difference(log)
        assert found is None, (found, smallest(log, found))
        events, number = events + len(log.entries), number + 1


def test_fold_and_model_agree_on_a_contact_with_more_visitors_than_it_lists() -> None:
    """At the real limit of 100."""
    assert difference(log_of("crowd", "suite/crowd")) is None


def test_planted_bug_is_found_and_its_log_is_minimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries are enough to show that contents are not compared."""

    def one_for_all(_content: bytes | int) -> int:
        return 0

    monkeypatch.setattr(duplicates, "_digest_of", one_for_all)
    small = smallest(*first_difference("links"))
    assert len(small.entries) == 2
    assert small.entries[0][1].get("id") == small.entries[1][1]["id"]
    assert difference(small) is not None


def test_fold_and_model_agree_on_an_empty_log() -> None:
    assert difference(Log([], Limits())) is None


def first_difference(profile: str) -> tuple[Log, Difference]:
    """The first log for which the fold and the model differ."""
    for number in range(200):
        log = log_of(profile, f"planted/{number}")
        if (found := difference(log)) is not None:
            return log, found
    pytest.fail("expected a difference within 200 logs, got none")
