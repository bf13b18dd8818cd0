"""An erasure of a person whose events were cut: the baseline loses them, too (contract sections 10 and 11)."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.state.baseline import piece_texts
from kinfold_services.state.queries import Identifier
from tests.support.erasures import erase, keys_with
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.replaying import kinfold, leftovers, replay, verify
from tests.support.retaining import cut_upto
from tests.support.snapshots import take_snapshot

ADA: Final = {"type": "VisitorIdentified", "externalId": "ada-1815", "email": "ada@lovelace.example", "name": "Ada Lovelace"}
BEN: Final = {"type": "VisitorIdentified", "externalId": "ben-1706", "email": "ben@franklin.example", "name": "Ben"}
SHARED: Final = "v-in-the-library"
ADAS: Final = ["ada-1815", "ada@lovelace.example", "Ada Lovelace", "v-adas-phone", "adas-plan", "/adas-page"]
BEFORE: Final[list[dict[str, Any]]] = [
    {"type": "MetadataSet", "visitorId": SHARED, "metadata": {"plan": "adas-plan"}},
    {**ADA, "visitorId": SHARED, "id": "e-ada"},
    {"type": "VisitorSeen", "visitorId": SHARED, "context": {"url": "/adas-page"}},
    {**ADA, "visitorId": "v-adas-phone"},
    {**BEN, "visitorId": "v-bens-phone"},
    {"type": "VisitorIdentified", "externalId": "ben-1706", "email": "ada@lovelace.example"},  # a conflict, which names Ada
]
AFTER: Final[list[dict[str, Any]]] = [
    {"type": "VisitorSeen", "visitorId": "v-adas-phone"},
    {**BEN, "visitorId": SHARED},
    {"type": "VisitorIdentified", "externalId": "ben-1706", "email": "ada@lovelace.example", "metadata": {"mood": "good"}},
]
HISTORY: Final = 300
CUT: Final = entry_id(HISTORY + len(BEFORE) - 1)


async def baseline_texts(client: Redis, workspace: str) -> bytes:
    """All that the pieces of the baseline hold, decompressed."""
    pieces = await cast("Awaitable[list[bytes]]", client.lrange(key(workspace, "baseline-pieces"), 0, -1))
    return b" ".join(text for piece in pieces for text in piece_texts(piece))


async def cut_log(client: Redis, url: str, workspace: str, after: list[dict[str, Any]]) -> None:
    """A log whose part with Ada's events was cut, and that goes on with these events."""
    await append(client, workspace, [*history()[:HISTORY], *BEFORE, *after])
    await fold_log(client, url, workspace)
    assert await cut_upto(client, workspace, CUT) is not None
    assert b"ada@lovelace.example" in await baseline_texts(client, workspace)


async def test_person_leaves_the_baseline_and_everybody_else_is_as_before(redis: Redis, redis_url: str, workspace: str) -> None:
    """Byte for byte, in the state and in what a replay makes of baseline and log."""
    await cut_log(redis, redis_url, workspace, AFTER)
    before = await take_snapshot(redis, workspace)
    ada = before.external_ids[b"ada-1815"]

    receipt = await erase(redis, workspace, Identifier(email="ada@lovelace.example"))

    assert receipt.contact_ids == [ada.decode()]
    assert await keys_with(redis, workspace, ADAS) == {}
    texts = await baseline_texts(redis, workspace)
    assert [each for each in ADAS if each.encode() in texts] == []
    assert [(check.place, check.found) for check in receipt.checks][:1] == [("every key of the workspace", 0)]
    after = await take_snapshot(redis, workspace)
    assert {each: data for each, data in after.contacts.items() if each != ada} == {
        each: data for each, data in before.contacts.items() if each != ada
    }
    assert await verify(redis, workspace) == []
    assert await replay(redis, workspace) == []
    assert await leftovers(redis, workspace) == []
    shown = await kinfold(redis_url, workspace, "show", "--email", "ada@lovelace.example", "--at", CUT)
    assert (shown.status, shown.out) == (1, [])
    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, [{**ADA, "visitorId": SHARED}], start=2 * HISTORY)
        await wait_until_folded(redis, workspace, last)
    (again,) = (await kinfold(redis_url, workspace, "show", "--external-id", "ada-1815")).out
    assert again["id"] != ada.decode()


async def test_person_of_whom_only_the_baseline_knows_is_erased(redis: Redis, redis_url: str, workspace: str) -> None:
    """The whole log was cut: there is no entry to rewrite. A late resend of what was cut brings nobody back."""
    await cut_log(redis, redis_url, workspace, [])
    assert await redis.xlen(key(workspace, "events")) == 0
    receipt = await erase(redis, workspace, Identifier(external_id="ada-1815"))
    assert (receipt.state, receipt.people) == ("done", 1)
    texts = await baseline_texts(redis, workspace)
    assert [each for each in ADAS if each.encode() in texts] == []
    async with projecting(redis_url, workspace):
        last = await append(redis, workspace, [{**BEFORE[1]}], start=2 * HISTORY)
        await wait_until_folded(redis, workspace, last)
    assert (await kinfold(redis_url, workspace, "show", "--external-id", "ada-1815")).status == 1
    assert await verify(redis, workspace) == []


async def test_visitor_that_nobody_identified_leaves_the_baseline(redis: Redis, redis_url: str, workspace: str) -> None:
    """It has no entry in the log any more."""
    await append(redis, workspace, [{"type": "VisitorSeen", "visitorId": "v-passing-by", "context": {"url": "/x"}}, ADA])
    await fold_log(redis, redis_url, workspace)
    assert await cut_upto(redis, workspace, entry_id(1)) is not None
    assert b"v-passing-by" in await baseline_texts(redis, workspace)
    await erase(redis, workspace, Identifier(visitor="v-passing-by"))
    assert b"v-passing-by" not in await baseline_texts(redis, workspace)
    assert await keys_with(redis, workspace, ["v-passing-by"]) == {}
    assert await verify(redis, workspace) == []


async def test_export_with_a_baseline_from_before_an_erasure_is_refused(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
) -> None:
    """Its baseline would bring the person back."""
    await cut_log(redis, redis_url, workspace, AFTER)
    assert (await kinfold(redis_url, workspace, "export", tmp_path / "log")).status == 0
    await erase(redis, workspace, Identifier(external_id="ada-1815"))
    assert (await kinfold(redis_url, workspace, "export", tmp_path / "later")).status == 0
    receipts = await cast("Awaitable[dict[Any, Any]]", redis.hgetall(key(workspace, "erasures")))
    await redis.flushdb()
    await cast("Any", redis.hset(key(workspace, "erasures"), mapping=receipts))

    refused = await kinfold(redis_url, workspace, "import", tmp_path / "log")

    assert (refused.status, refused.out) == (1, [])
    assert "the people who were erased" in refused.said
    assert await redis.exists(key(workspace, "events"), key(workspace, "baseline"), key(workspace, "baseline-pieces")) == 0
    assert (await kinfold(redis_url, workspace, "import", tmp_path / "later")).status == 0


async def test_cut_and_erasure_at_once_are_both_done(redis: Redis, redis_url: str, workspace: str) -> None:
    """Each notices that the other was first, and begins again."""
    await append(redis, workspace, [*history()[:HISTORY], *BEFORE, *AFTER])
    await fold_log(redis, redis_url, workspace)
    receipt, cut = await asyncio.gather(
        erase(redis, workspace, Identifier(external_id="ada-1815")), cut_upto(redis, workspace, CUT, anonymous=0)
    )
    assert receipt.state == "done"
    cut = cut or await cut_upto(redis, workspace, CUT, anonymous=0)
    assert cut is not None
    texts = await baseline_texts(redis, workspace)
    assert [each for each in ADAS if each.encode() in texts] == []
    assert await keys_with(redis, workspace, ADAS) == {}
    assert await verify(redis, workspace) == []
    assert await replay(redis, workspace) == []
