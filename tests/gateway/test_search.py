"""Searches and counts over HTTP, answered by a directory that follows the feed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from kinfold_schemas.times import to_text
from kinfold_services.directory import waiting
from kinfold_services.directory.database import Database
from kinfold_services.gateway import directory as gateway_directory
from kinfold_services.gateway.contacts import searching
from kinfold_services.gateway.directory import THREADS, WAITING, Directory
from kinfold_services.gateway.problems import Problem
from kinfold_services.settings import Settings
from tests.support.directories import following
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting

PEOPLE: Final[list[dict[str, Any]]] = [
    {"externalId": "u-1", "name": "Ada Lovelace", "email": "ada@example.org", "metadata": {"plan": "pro", "mrr": 99}},
    {"externalId": "u-2", "name": "Blaise Pascal", "email": "blaise@example.org", "metadata": {"plan": "free", "mrr": 0}},
    {"externalId": "u-3", "name": "Émilie du Châtelet", "email": "emilie@paris.fr", "metadata": {"plan": "pro", "mrr": 250}},
    {"externalId": "u-4", "name": "Ada Yonath", "metadata": {"plan": "pro", "mrr": "99", "any key": True}},
    {"externalId": "u-5", "email": "turing@example.org"},
]


@pytest.fixture
async def people(searched: Gateway) -> Gateway:
    """Give a gateway with PEOPLE in the directory behind it, created in their order."""
    first_ms = time.time_ns() // 1_000_000 - 60_000
    times = [to_text(first_ms + number) for number in range(len(PEOPLE))]
    events = [{"type": "VisitorIdentified", "at": at, **person} for at, person in zip(times, PEOPLE, strict=True)]
    position = await searched.put(*events)
    await searched.get("/v1/contacts/count", after=position)
    return searched


async def found(gateway: Gateway, **params: Any) -> list[str]:
    """The external ids of the contacts on a page."""
    return [contact["externalId"] for contact in (await gateway.get("/v1/contacts", **params))["contacts"]]


async def test_words_are_found_in_names_and_identifiers(people: Gateway):
    """Case and accents do not matter, and every word has to match. The newest contacts come first."""
    expected = {
        "ada": ["u-4", "u-1"],
        "ADA love": ["u-1"],
        "emilie CHATELET": ["u-3"],
        "example.org": ["u-5", "u-2", "u-1"],
        "u-3": ["u-3"],
        "nobody": [],
        " ": ["u-5", "u-4", "u-3", "u-2", "u-1"],
    }

    assert {q: await found(people, q=q) for q in expected} == expected


async def test_filter_finds_the_contacts_that_match(people: Gateway):
    """A filter compares fields and metadata, with JSON's types."""
    expected = {
        "plan=pro": ["u-4", "u-3", "u-1"],
        "mrr=99": ["u-1"],
        'mrr="99"': ["u-4"],
        "mrr >= 99 and plan = pro": ["u-3", "u-1"],
        "not plan exists": ["u-5"],
        'metadata."any key" = true': ["u-4"],
        "email=ADA@EXAMPLE.org or externalId in (u-2, u-3)": ["u-3", "u-2", "u-1"],
        "lastSeenAt before 30d": [],
        "lastSeenAt after 30d and name contains ÉMILIE": ["u-3"],
    }

    assert {where: await found(people, where=where) for where in expected} == expected


async def test_several_filters_and_words_all_have_to_match(people: Gateway):
    """`where` can be repeated."""
    assert await found(people, q="ada", where=["plan=pro", "mrr>=99"]) == ["u-1"]


async def test_pages_of_a_sort_are_the_whole_list(people: Gateway):
    """Contacts without a value come last. `count` counts all pages."""
    whole = await people.get("/v1/contacts", sort="-mrr", count="true")
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await people.get("/v1/contacts", sort="-mrr", limit=2, **cursor)
        pages += page["contacts"]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert [contact["externalId"] for contact in pages] == ["u-4", "u-3", "u-1", "u-2", "u-5"]
    assert pages == whole["contacts"]
    assert whole["count"] == {"count": 5, "isExact": True, "position": whole["position"]}
    assert whole["approximate"] is False


async def test_found_contact_is_the_one_that_a_lookup_returns(people: Gateway):
    """The directory has the contact as the feed shows it, every field."""
    (contact,) = (await people.get("/v1/contacts", where="externalId=u-1"))["contacts"]

    assert contact == await people.get("/v1/contacts", externalId="u-1")


async def test_contacts_are_counted_by_value(people: Gateway):
    """The most frequent values, the rest, and the contacts without a value."""
    assert (await people.get("/v1/contacts/count", where="plan=pro"))["count"] == 3
    counted = await people.get("/v1/contacts/count", by="plan", limit=1)
    del counted["position"]

    assert counted == {
        "by": "metadata.plan",
        "values": [{"value": "pro", "count": 3}],
        "other": 1,
        "missing": 1,
        "isExact": True,
    }
    values = (await people.get("/v1/contacts/count", by="mrr", q="ada"))["values"]
    assert values == [{"value": 99, "count": 1}, {"value": "99", "count": 1}]


async def test_after_makes_a_backend_find_its_own_writes(searched: Gateway):
    """The directory follows the projector, and a search with `after` waits for both."""
    for number in range(20):
        position = await searched.put({"type": "VisitorIdentified", "externalId": "u-1", "metadata": {"n": number}})
        assert await found(searched, where=f"n={number}", after=position) == ["u-1"]


WRONG: Final[list[tuple[str, dict[str, Any], str, int | None]]] = [
    ("/v1/contacts", {"where": "plan="}, "where: column 6: expected a value, got the end", 6),
    ("/v1/contacts", {"where": ["plan=pro", "and"]}, "where (number 2): column 1: expected a field", 1),
    ("/v1/contacts", {"where": " or ".join(["a=1"] * 65)}, "expected at most 64 comparisons", 449),
    ("/v1/contacts", {"where": ["a=1"] * 65}, "where: column 1: expected at most 64 comparisons, got 65", None),
    ("/v1/contacts", {"sort": "-"}, "sort: expected a field", None),
    ("/v1/contacts", {"sort": "name", "order": "created"}, "order, sort: expected order or a search, got both", None),
    ("/v1/contacts", {"q": "ada", "email": "a@b.org"}, "email, q: expected email or a search, got both", None),
    ("/v1/contacts", {"q": "ada", "cursor": "nonsense"}, "cursor: expected", None),
    ("/v1/contacts", {"q": "\0"}, "q: expected Unicode text without NUL", None),
    ("/v1/contacts", {"q": "x" * 321}, "q: expected", None),
    ("/v1/contacts/count", {"by": "a b"}, "by: column 3: expected", 3),
    ("/v1/contacts/count", {"by": "a\0b"}, "by: expected Unicode text without NUL", None),
    ("/v1/conflicts", {"status": "settled"}, "status: expected one of 'open', 'all', got 'settled'", None),
    ("/v1/conflicts", {"cursor": "WzFd"}, "cursor: expected the nextCursor of a page of the same list", None),
]
"""A path, its parameters, a part of the sentence, and the column."""


@pytest.mark.parametrize(
    ("path", "params", "unknown"),
    [
        ("/v1/contacts", {"where": "lastSeen before 30d or not plam = pro"}, ["lastSeen", "plam"]),
        ("/v1/contacts", {"where": 'plan=pro and metadata."any key" exists', "sort": "mrr"}, None),
        ("/v1/contacts", {"sort": "-Name", "count": "true"}, ["Name"]),
        ("/v1/contacts/count", {"where": "metadata.email exists"}, ["email"]),
        ("/v1/contacts/count", {"by": "plam", "where": "plan=pro"}, ["plam"]),
        ("/v1/contacts/count", {"by": "plan"}, None),
    ],
)
async def test_keys_that_no_contact_has_are_named(
    people: Gateway, path: str, params: dict[str, str], unknown: list[str] | None
):
    """A misspelt field is such a key: without a word, nobody would match."""
    assert (await people.get(path, **params)).get("unknownKeys") == unknown


async def test_wrong_question_is_rejected(people: Gateway):
    """400, with a sentence that names the parameter, and the column of a wrong filter."""
    for path, params, detail, column in WRONG:
        answer = await people.client.get(path, params=params)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-request"), answer.text
        assert detail in answer.json()["detail"]
        assert answer.json().get("column") == column


async def test_cursor_of_another_question_is_rejected(people: Gateway):
    """It would continue in the middle of another list."""
    cursor = (await people.get("/v1/contacts", q="example", limit=1))["nextCursor"]

    for params in ({"q": "ada"}, {"q": "example", "sort": "name"}, {"q": "example", "where": "plan=pro"}, {}):
        answer = await people.client.get("/v1/contacts", params={**params, "limit": 1, "cursor": cursor})
        assert answer.status_code == 400, answer.text
        assert answer.json()["detail"].startswith("cursor: expected")


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ({"plan": "pro"}, "write where=plan=pro"),
        ({"mrr": "99"}, "write where=mrr=99"),
        ({"any key": "<x>"}, "write where=plan=pro"),
        ({"wher": "plan=pro"}, "the nearest is 'where'"),
    ],
)
async def test_unknown_parameter_is_explained_as_a_filter(unfolded: Gateway, params: dict[str, str], hint: str):
    """A name that does not look like a misspelt parameter is likely a metadata key."""
    answer = await unfolded.client.get("/v1/contacts", params=params)

    assert answer.status_code == 400
    assert answer.json()["detail"].endswith(hint)


@pytest.mark.parametrize("path", ["/v1/contacts?q=ada", "/v1/contacts/count", "/v1/contacts/ct_1/timeline", "/v1/conflicts"])
async def test_publishable_key_may_not_search(unfolded: Gateway, path: str):
    """A page that strangers see must not list contacts."""
    assert (await unfolded.browser.get(path)).status_code == 403


@pytest.fixture
async def alone(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Give a gateway with a projector, and without a directory."""
    async with projecting(redis_url), serving(redis_url, redis, data_dir=tmp_path / "data") as running:
        yield running


async def test_without_a_directory_search_says_so_and_lookups_go_on(alone: Gateway, tmp_path: Path):
    """503 with a sentence that says what to start. The gateway does not create a database."""
    position = await alone.put({"type": "VisitorIdentified", "externalId": "u-1"})
    contact = await alone.get("/v1/contacts", externalId="u-1", after=position)

    for path in ("/v1/contacts?q=ada", "/v1/contacts?count=true", "/v1/contacts/count", "/v1/conflicts"):
        answer = await alone.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (503, "no-directory"), answer.text
        assert "`kinfold directory`" in answer.json()["detail"]
    answer = await alone.client.get(f"/v1/contacts/{contact['id']}/timeline")
    assert (answer.status_code, answer.json()["error"]) == (503, "no-directory")
    assert await found(alone, order="created") == await found(alone) == ["u-1"]
    assert not (tmp_path / "data").exists()


async def test_search_is_refused_when_the_directory_has_stopped(
    redis: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Answers of long ago would look like those of now."""
    async with projecting(redis_url), serving(redis_url, redis, data_dir=tmp_path) as gateway:
        async with following(Settings(data_dir=tmp_path), redis_url):
            position = await gateway.put({"type": "VisitorIdentified", "externalId": "u-1"})
            assert await found(gateway, where="externalId=u-1", after=position) == ["u-1"]
        monkeypatch.setattr(waiting, "STOPPED_S", 0.0)
        assert await found(gateway, where="externalId=u-1") == ["u-1"]  # nothing has changed since
        position = await gateway.put({"type": "VisitorIdentified", "externalId": "u-2"})
        await gateway.get("/v1/contacts", externalId="u-2", after=position)

        answer = await gateway.client.get("/v1/contacts", params={"where": "externalId=u-1"})

        assert (answer.status_code, answer.json()["error"]) == (503, "no-directory")
        assert "has stopped at" in answer.json()["detail"]
        monkeypatch.setattr(waiting, "STOPPED_S", 60.0)
        assert await found(gateway, where="externalId=u-1") == ["u-1"]  # it may still come


async def test_after_gives_up_if_the_directory_does_not_come_so_far(alone: Gateway, monkeypatch: pytest.MonkeyPatch):
    """One deadline for the projector and the directory."""
    monkeypatch.setattr("kinfold_services.gateway.workspaces.ANSWER_S", 0.5)
    position = await alone.put({"type": "VisitorIdentified", "externalId": "u-1"})
    await alone.get("/v1/contacts", externalId="u-1", after=position)

    answer = await alone.client.get("/v1/contacts", params={"q": "ada", "after": position})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "has not reached" in answer.json()["detail"]


async def test_query_that_takes_too_long_is_ended(
    people: Gateway, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """503 with the advice to narrow it, and the thread is free again."""
    endless = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

    def quick(settings: Settings, **options: Any) -> Database:
        return Database(settings, **options, read_timeout_s=0.2)

    def search_for_ever(connection: sa.Connection, *_: object) -> None:
        connection.execute(endless)

    monkeypatch.setattr(gateway_directory, "Database", quick)
    monkeypatch.setattr(searching, "search", search_for_ever)
    async with serving(redis_url, people.redis, data_dir=tmp_path) as gateway:
        for _ in range(THREADS + 1):
            answer = await gateway.client.get("/v1/contacts", params={"q": "ada"})
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert answer.json()["detail"] == "the query took longer than 0.2 s; narrow it"


@pytest.mark.usefixtures("people")
async def test_too_many_questions_at_once_are_refused(tmp_path: Path):
    """Each waits for a thread, and the queue has an end."""
    directory = Directory(Settings(data_dir=tmp_path))
    go_on = threading.Event()

    def wait(_: sa.Connection) -> bool:
        return go_on.wait(120)

    asked = [asyncio.create_task(directory.ask(wait)) for _ in range(THREADS + WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Problem, match="already wait for the directory"):
        await directory.ask(wait)
    go_on.set()
    assert all(await asyncio.gather(*asked))
    directory.close()
