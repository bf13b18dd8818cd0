"""Everything held about one person: `kinfold subject` and `GET /v1/subjects`, given events, when asked, then the file."""

import asyncio
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.gateway.directory import Directory
from kinfold_services.gateway.subjects import make_file
from kinfold_services.privacy.subject import Subject
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from tests.support.directories import following, wait_until_current
from tests.support.event_log import LOG_START_MS, append, entry_id
from tests.support.gateways import serving
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import kinfold
from tests.support.retaining import cut_upto
from tests.support.transferring import names_in
from tests.support.waiting import wait_until

ADA: Final = {"type": "VisitorIdentified", "externalId": "u-ada", "email": "ada@example.org", "name": "Ada <b>L</b>"}
BEN: Final = {"type": "VisitorIdentified", "externalId": "u-ben", "email": "ben@example.org", "name": "Ben Secret"}
SHARED: Final = "v-library"

EVENTS: Final[list[dict[str, Any]]] = [
    {"type": "VisitorSeen", "visitorId": SHARED, "context": {"url": "/before-ada"}},  # 0: joins Ada, the first to sign in
    {**ADA, "visitorId": SHARED},  # 1
    {"type": "VisitorSeen", "visitorId": SHARED, "context": {"url": "/as-ada"}},  # 2
    {**BEN, "visitorId": SHARED},  # 3
    {"type": "VisitorSeen", "visitorId": SHARED, "context": {"url": "/as-ben"}},  # 4
    {"type": "VisitorIdentified", "email": "ada.old@example.org", "visitorId": "v-phone"},  # 5
    {"type": "VisitorIdentified", "externalId": "u-ada", "email": "ada.old@example.org"},  # 6: merges 5 into Ada
    {"type": "VisitorIdentified", "externalId": "u-ada", "email": "ben@example.org"},  # 7: a conflict, which names Ben
    {"type": "VisitorIdentified", "externalId": "u-ben", "email": "ada.old@example.org"},  # 8: a conflict, which names Ada
    {"type": "VisitorIdentified", "externalId": "u-ada", "name": 7},  # 9: rejected
    {"type": "VisitorIdentified", "externalId": "u-ben", "name": 8},  # 10: rejected
    {"type": "MetadataSet", "externalId": "u-ada", "id": "e-1", "metadata": {"plan": "pro"}},  # 11
    {"type": "MetadataSet", "externalId": "u-ada", "id": "e-1", "metadata": {"plan": "pro"}},  # 12: a duplicate
    {"type": "VisitorSeen", "visitorId": "v-nobody", "context": {"url": "/anonymous"}},  # 13
]


def read(data: bytes) -> dict[str, Any]:
    """The JSON in the zip file. Asserts that the page beside it has no script and nothing unescaped."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["subject.json", "subject.html"]
        page = archive.read("subject.html").decode()
        assert "<script" not in page
        assert "<b>L</b>" not in page
        return cast("dict[str, Any]", json.loads(archive.read("subject.json")))


async def subject(url: str, workspace: str, file: Path, *options: str, **settings: object) -> dict[str, Any]:
    """What `kinfold subject` writes."""
    answer = await kinfold(url, workspace, "subject", *options, "--output", file, **settings)
    assert answer.status == 0, answer.said
    return read(file.read_bytes())  # noqa: ASYNC240  a small file


def numbers(items: list[dict[str, Any]]) -> list[int]:
    """The numbers of log entries."""
    return [int(each["entry"].partition("-")[0]) - LOG_START_MS for each in items]


async def test_file_has_what_belongs_to_the_person_and_nothing_of_others(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """On a shared browser, what happened while it was theirs. Names of others are withheld."""
    await append(redis, workspace, EVENTS)
    await fold_log(redis, redis_url, workspace)

    for option in (["--email", "ADA@example.org"], ["--external-id", "u-ada"], ["--visitor", "v-phone"]):
        held = await subject(redis_url, workspace, tmp_path / "ada.zip", *option)
        assert held["contact"]["externalId"] == "u-ada"

    assert len(held["mergedContactIds"]) == 1
    assert {"ada@example.org", "ada.old@example.org"} == set(held["emails"])
    assert numbers(held["events"]) == [0, 1, 2, 5, 6, 7, 8, 9, 11, 12]
    by_number = dict(zip(numbers(held["events"]), held["events"], strict=True))
    assert by_number[7]["withheld"] == ["email"]
    assert by_number[8]["names"] == {"email": "ada.old@example.org"}
    assert "event" not in by_number[8]
    assert (by_number[9]["outcome"], by_number[12]["outcome"]) == ("rejected", "duplicate")
    assert [each["entry"] for each in held["rejects"]] == [entry_id(9)]
    visitors = {each["id"]: each for each in held["visitors"]}
    assert visitors[SHARED]["isShared"] is True
    assert [link["contactId"] for link in visitors[SHARED]["links"]] == [held["contact"]["id"]]
    assert visitors["v-phone"]["links"][0]["contactId"] in held["mergedContactIds"]
    assert {each["change"]["contactId"] for each in held["feed"]} == {held["contact"]["id"], *held["mergedContactIds"]}
    with zipfile.ZipFile(tmp_path / "ada.zip") as archive:
        everything = b"".join(map(archive.read, archive.namelist()))
    for theirs in (b"ben@example.org", b"u-ben", b"Ben Secret", b"/as-ben"):
        assert theirs not in everything
    for own in (b"ada@example.org", b"/before-ada", b"/as-ada", b"pro"):
        assert own in everything
    assert (tmp_path / "ada.zip").stat().st_mode & 0o777 == 0o600


async def test_visitor_that_nobody_identified_is_a_person(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Without a contact."""
    await append(redis, workspace, EVENTS)
    await fold_log(redis, redis_url, workspace)
    held = await subject(redis_url, workspace, tmp_path / "file.zip", "--visitor", "v-nobody")
    assert held["contact"] is None
    assert [each["id"] for each in held["visitors"]] == ["v-nobody"]
    assert numbers(held["events"]) == [13]


@pytest.mark.parametrize("option", ["--email", "--visitor", "--external-id", "--contact"])
async def test_unknown_person_is_told_so(redis: Redis, redis_url: str, workspace: str, tmp_path: Path, option: str):
    """Exit status 1, and no file."""
    await append(redis, workspace, [ADA])
    answer = await kinfold(redis_url, workspace, "subject", option, "nobody@example.org", "--output", tmp_path / "file.zip")
    assert (answer.status, answer.out) == (1, [])
    assert "not found" in answer.said
    assert names_in(tmp_path) == []


async def test_person_in_a_baseline_is_found(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """The file says that earlier events were removed. On the shared browser the other user's link is not in it."""
    await append(redis, workspace, EVENTS)
    await fold_log(redis, redis_url, workspace)
    await cut_upto(redis, workspace, entry_id(8))
    held = await subject(redis_url, workspace, tmp_path / "file.zip", "--email", "ada.old@example.org")
    assert held["logBeginsAfter"]["position"] == entry_id(8)
    assert held["contact"]["name"] == ADA["name"]
    assert numbers(held["events"]) == [9, 11, 12]
    visitors = {each["id"]: each for each in held["visitors"]}
    assert visitors[SHARED]["isShared"] is True
    assert len(visitors[SHARED]["links"]) == 1


async def test_gateway_answers_with_the_same_file(redis: Redis, redis_url: str, tmp_path: Path):
    """And with what the directory holds. Somebody unknown is 404, and a question about two people 400."""
    settings = Settings(data_dir=tmp_path)
    async with (
        projecting(redis_url),
        following(settings, redis_url),
        serving(redis_url, redis, data_dir=tmp_path) as gateway,
    ):
        last = await append(redis, "default", EVENTS)
        await wait_until_folded(redis, "default", last)
        await wait_until_current(redis, settings, "default")
        headers = {"Authorization": f"Bearer {gateway.secret}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=200) as client:
            answer = await client.get("/v1/subjects", params={"email": "ada@example.org"})
            unknown = await client.get("/v1/subjects", params={"email": "nobody@example.org"})
            two = await client.get("/v1/subjects", params={"email": "ada@example.org", "externalId": "u-ada"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/zip"
    held = read(answer.content)
    types = {each.get("type") for each in held["directory"] if each["table"] == "timeline"}
    assert "ContactsMerged" in types
    assert {each["value"] for each in held["directory"] if each["table"] == "identifiers"} >= {"ada.old@example.org"} or types
    assert b"ben@example.org" not in json.dumps(held).encode()
    assert (unknown.status_code, two.status_code) == (404, 400)
    assert await redis.exists(key("default", "events")) == 1
    written = await subject(redis_url, "default", tmp_path / "file.zip", "--external-id", "u-ada", data_dir=tmp_path)
    for each in (held, written):
        del each["madeAt"]
    assert written == held


async def test_cancelled_request_ends_the_fold(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes on in a thread when the next request may begin."""
    await append(redis, workspace, EVENTS)
    has_begun, has_ended = threading.Event(), threading.Event()

    async def find_for_long(*_: object) -> bool:
        has_begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            has_ended.set()
        return True

    monkeypatch.setattr(Subject, "find", find_for_long)
    settings = Settings(workspace=workspace, redis_url=redis_url, data_dir=tmp_path)
    making = asyncio.create_task(make_file(settings, Identifier(external_id="u-ada"), Directory(settings).database))
    await wait_until(has_begun.is_set)

    making.cancel()

    with pytest.raises(asyncio.CancelledError):
        await making
    assert has_ended.is_set()


async def test_exclusion_of_text_that_is_not_an_entry_id_is_harmless(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """An `EventsExcluded` may name any text."""
    texts = ["", "nothing", "1", f"{2**64}-0", f"1-{2**64}", "-", "+", "1-2-3", "\u0661-0"]
    await append(redis, workspace, [*EVENTS, {"type": "EventsExcluded", "entries": texts}])
    await fold_log(redis, redis_url, workspace)
    held = await subject(redis_url, workspace, tmp_path / "file.zip", "--external-id", "u-ben")
    assert held["contact"]["name"] == BEN["name"]
