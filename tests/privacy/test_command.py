"""`kinfold erase`: it says what would go, asks, erases, and leaves a receipt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from tests.support.command_line import Kinfold, Said
from tests.support.erased_people import ADAS_TEXTS, adas_events, publish
from tests.support.erasures import keys_with
from tests.support.projecting import fold_log

ADA = ("--external-id", "ada-1815")
Run = Callable[..., Said]


@pytest.fixture
async def run(redis: Redis, redis_url: str, workspace: str) -> Run:
    """Run a command on a workspace with Ada and Ben."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)

    def run(*arguments: object, stdin: bytes = b"") -> Said:
        return kinfold.run_apart(*arguments, stdin=stdin)

    return run


async def _id_of(redis: Redis, workspace: str, external_id: str) -> str:
    return cast("bytes", await redis.hget(key(workspace, "external-ids"), external_id)).decode()


async def test_dry_run_says_what_would_go_and_erases_nothing(redis: Redis, workspace: str, run: Run) -> None:
    before = await redis.dump(key(workspace, "events"))

    said = run("erase", *ADA, "--dry-run")

    assert said.status == 0, said
    (would,) = said.lines
    assert would["externalIds"] == ["ada-1815"]
    assert would["emails"] == ["ada@example.org"]
    assert would["visitors"] == ["adas-laptop", "kiosk"]
    assert "1 person with 1 contact id to erase:\n  5 log entries, 1 visitor, 1 address\n" in said.err
    assert would["shared"] == ["kiosk"]
    assert would["removed"]["entries"] == 5
    assert would["removed"]["redactedEntries"] == 1
    assert would["removed"]["feedEntries"] is None  # only the erasure counts them
    assert await redis.dump(key(workspace, "events")) == before


async def test_erase_leaves_a_receipt_and_the_old_id_says_erased(
    redis: Redis, workspace: str, run: Run, tmp_path: Path
) -> None:
    ada = await _id_of(redis, workspace, "ada-1815")
    page = tmp_path / "receipt.html"

    said = run("erase", *ADA, "--yes", "--reason", "asked by letter", "--by", "the office", "--receipt", page)

    assert said.status == 0, said
    (receipt,) = said.lines
    assert (receipt["state"], receipt["by"], receipt["reason"]) == ("done", "the office", "asked by letter")
    assert receipt["contactIds"] == [ada]
    assert receipt["removed"]["feedEntries"] > 0
    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    shown = page.read_text(encoding="utf-8")
    assert receipt["erasure"] in shown
    assert not any(text in shown or text in said.out.decode() for text in ADAS_TEXTS)
    assert run("erase", "--list").lines == [receipt]
    gone = run("show", "--contact", ada)
    assert (gone.status, gone.out) == (1, b"")
    assert "the person was erased" in gone.err
    again = run("erase", *ADA, "--yes")
    assert (again.status, again.out) == (1, b"")
    assert "names nobody" in again.err


async def test_receipt_says_how_many_identifiers_were_too_short_to_search_for(
    redis: Redis, redis_url: str, workspace: str, run: Run, tmp_path: Path
) -> None:
    """They were not found anywhere, so the exit status is 0."""
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "z-1", "visitorId": "zoes-phone"})
    await fold_log(redis, redis_url, workspace)

    said = run("erase", "--external-id", "z-1", "--yes", "--receipt", tmp_path / "receipt.html")

    assert said.status == 0, said
    (check,) = [each for each in said.lines[0]["checks"] if each["place"] == "not searched"]
    assert check == {"place": "not searched", "found": 0, "note": "1 identifier is too short"}
    assert "<th>not searched</th><td>1 identifier is too short</td>" in (tmp_path / "receipt.html").read_text("utf-8")


def test_without_a_terminal_it_wants_yes(run: Run) -> None:
    said = run("erase", *ADA)

    assert (said.status, said.out) == (2, b"")
    assert "expected --yes" in said.err
    assert "nothing was erased" in said.err


def test_somebody_unknown_is_status_1_and_a_sentence(run: Run) -> None:
    said = run("erase", "--email", "nobody@example.org", "--yes")

    assert (said.status, said.out) == (1, b"")
    assert "email 'nobody@example.org' names nobody" in said.err


async def test_many_people_from_a_file_are_one_rewriting(redis: Redis, workspace: str, run: Run, tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.write_text("# asked in May\nexternal-id ada-1815\nemail nobody@example.org\n\nexternal-id ben\n")

    said = run("erase", "--from", people, "--yes")

    assert said.status == 1, said
    assert "'nobody@example.org' names nobody" in said.err
    assert said.lines[0]["people"] == 2
    assert await redis.hlen(key(workspace, "external-ids")) == 0
    assert not await keys_with(redis, workspace, [*ADAS_TEXTS, "kiosk"])


def test_wrong_usage_is_status_2() -> None:
    kinfold = Kinfold()
    for arguments in ([], [*ADA, "--list"], ["--email", "a@b.example", "--visitor", "v"], ["--from", "/dev/null", "--yes"]):
        assert kinfold.run("erase", *arguments).status == 2, arguments


async def test_merged_contacts_go_together_and_cannot_be_separated_again(
    redis: Redis, redis_url: str, workspace: str, run: Run, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = [
        {"type": "VisitorIdentified", "email": "one@example.org", "visitorId": "phone"},
        {"type": "VisitorIdentified", "externalId": "two"},
        {"type": "VisitorIdentified", "externalId": "two", "email": "one@example.org"},
    ]
    await publish(redis, workspace, *events)
    await fold_log(redis, redis_url, workspace)
    log = cast("list[tuple[bytes, Any]]", await redis.xrange(key(workspace, "events")))
    merging = log[-1][0].decode()

    (would,) = run("erase", "--external-id", "two", "--dry-run").lines
    said = run("erase", "--external-id", "two", "--yes")

    assert (would["people"], would["removed"]["contacts"]) == (1, 2)
    assert "contacts that were merged are one person" in said.err
    assert not await keys_with(redis, workspace, ["one@example.org", '"two"', "phone"])
    (tmp_path / "wrong").write_text(merging)
    undone = run("replay", "--exclude-events", tmp_path / "wrong")
    assert undone.status == 1
    assert "its person was erased" in undone.err
    assert run("verify").status == 0
