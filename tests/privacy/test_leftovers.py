"""Places in which an erased person is easily forgotten: every key, the server's files, and what the log has lost."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis

from kinfold_schemas.changes import ContactChange, decode_change
from kinfold_schemas.keys import STATE, key
from kinfold_services.connections import connect
from kinfold_services.gateway.log_watch import LogWatch
from kinfold_services.privacy import rewriting
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.state.queries import Identifier
from tests.projections.test_redaction import erasures, owned, texts_of
from tests.support.erased_people import ADA, ADAS_TEXTS, adas_events, publish
from tests.support.erasures import erase, keys_with
from tests.support.event_log import append, history
from tests.support.lengths import short_or_long
from tests.support.projecting import fold_log, newest_entry
from tests.support.replaying import replay, verify
from tests.support.snapshots import read_stream
from tests.support.strategies import Log, marked_logs

BEN: Final = Identifier(external_id="ben")
CLEO: Final = {"externalId": "cleo-69", "email": "cleo@nile.example"}


@asynccontextmanager
async def server_with_files(data_dir: Path) -> AsyncGenerator[tuple[Redis, str]]:
    """Give a server whose data directory is at hand."""
    with EmbeddedServer.start(data_dir) as server:
        client = connect(server.url)
        try:
            yield client, server.url
        finally:
            await client.aclose()


def in_files(directory: Path, texts: tuple[str, ...]) -> dict[str, list[str]]:
    """The texts that each file below a directory holds."""
    files = {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    found = {name: [text for text in texts if text.encode() in data] for name, data in files.items()}
    return {name: texts_in for name, texts_in in found.items() if texts_in}


async def test_files_of_the_server_hold_nobody_who_was_erased(tmp_path: Path, workspace: str) -> None:
    """The erasure has the server rewrite its append-only file."""
    async with server_with_files(tmp_path) as (client, url):
        await append(client, workspace, history()[:100])
        await publish(client, workspace, *adas_events(), {"type": "VisitorIdentified", **CLEO, "name": "Cleo of the Nile"})
        await fold_log(client, url, workspace)
        texts = (*ADAS_TEXTS, *CLEO.values(), "Cleo of the Nile")
        assert in_files(tmp_path, texts)

        for identifier in (ADA, Identifier(email="cleo@nile.example")):
            receipt = await erase(client, workspace, identifier, data_dir=tmp_path, redis_url=url)
            assert {(check.place, check.found, check.note) for check in receipt.checks} == {
                ("every key of the workspace", 0, None),
                ("append-only file", 0, "rewritten"),
                ("files of the data dir", 0, None),
            }

        assert in_files(tmp_path, texts) == {}
        assert await keys_with(client, workspace, texts) == {}
        assert await verify(client, workspace) == []
    assert in_files(tmp_path, texts) == {}


async def test_reject_of_an_entry_that_the_log_has_lost_goes_where_it_names_the_person(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """The rejects have all that is left of these entries. Those of others stay."""
    rejected: list[dict[str, Any]] = [
        {"type": "MetadataSet", "email": "ADA@example.org", "metadata": {"bad": {}}},
        {"type": "identify", "traits": {"email": "ada@example.org", "name": "Ada Lovelace"}},
        {"type": "identify", "traits": {"email": "ben@example.org"}},
    ]
    await publish(redis, workspace, *rejected)
    await fold_log(redis, redis_url, workspace)
    await redis.xtrim(key(workspace, "events"), maxlen=0, approximate=False)
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    assert await redis.xlen(key(workspace, "rejects")) == 4

    await erase(redis, workspace, ADA)

    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await keys_with(redis, workspace, ["ben@example.org"]) == {key(workspace, "rejects"): ["ben@example.org"]}
    assert await verify(redis, workspace) == []


async def test_what_an_earlier_erasure_kept_of_an_entry_goes_when_its_person_is_erased(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """The log has lost that entry, and `erased-entries` still knows what was left of it."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    await erase(redis, workspace, ADA)
    assert key(workspace, "erased-entries") in await keys_with(redis, workspace, ["kiosk"])
    await redis.xtrim(key(workspace, "events"), maxlen=0, approximate=False)
    await publish(redis, workspace, {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "kiosk", "name": "Ben"})
    await redis.delete(*(key(workspace, each) for each in STATE))
    await fold_log(redis, redis_url, workspace)

    await erase(redis, workspace, BEN)

    assert await keys_with(redis, workspace, ["kiosk", "ben"]) == {}


async def test_address_leaves_the_conflicts_that_somebody_else_had_over_it(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """On the feed, even where a correction dismissed the conflict; its reason stays."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    ben = cast("bytes", await redis.hget(key(workspace, "external-ids"), "ben")).decode()
    dismissed = {"type": "IdentityCorrected", "contactId": ben, "by": "Grace", "dismissConflict": "Ada@Example.org"}
    await publish(redis, workspace, {**dismissed, "reason": "a joke"})
    await fold_log(redis, redis_url, workspace)
    assert "Ada@Example.org" in (await keys_with(redis, workspace, ["Ada@Example.org"]))[key(workspace, "changes")]

    await erase(redis, workspace, ADA)

    assert await keys_with(redis, workspace, [*ADAS_TEXTS, "Ada@Example.org"]) == {}
    told = await read_stream(redis, workspace, "changes")
    changes = [json.loads(fields[b"change"]) for _, fields in told]
    (change,) = [each for each in changes if each["type"] == "ConflictDismissed"]
    assert (change["email"], change["contactId"]) == ("erased@erased.invalid", ben)
    assert change["correction"] == {"by": "Grace", "reason": "a joke"}


async def test_person_leaves_the_feed_of_a_contact_from_which_a_replay_separated_them(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Ben was merged with Ada by mistake. His other changes on the feed stay, though his metadata name her address."""
    merged: dict[str, Any] = {"type": "VisitorIdentified", "externalId": "ben", "email": "ada@example.org"}
    await publish(
        redis,
        workspace,
        {"type": "VisitorIdentified", "email": "ada@example.org", "visitorId": "adas-laptop"},
        {"type": "VisitorIdentified", "externalId": "ben", "metadata": {"email": "ada@example.org"}},
        merged,
    )
    await fold_log(redis, redis_url, workspace)
    wrong = (await newest_entry(redis, workspace, "events")).decode()
    await publish(redis, workspace, {"type": "EventsExcluded", "entries": [wrong]})
    assert await replay(redis, workspace) != []
    before = await redis.hgetall(key(workspace, "contacts"))

    await erase(redis, workspace, Identifier(email="ada@example.org"))

    told = [decode_change(fields[b"change"]) for _, fields in await read_stream(redis, workspace, "changes")]
    bens = [each.contact for each in told if isinstance(each, ContactChange)]
    assert {(each.email, *each.visitor_ids) for each in bens} == {(None,)}
    assert msgspec.json.encode(bens[-1]) == before[bens[-1].id.encode()]
    assert bens[0].metadata == {"email": "ada@example.org"}
    assert await verify(redis, workspace) == []


async def test_person_leaves_the_conflict_of_a_contact_that_was_theirs_until_a_replay(
    redis: Redis, redis_url: str, workspace: str
) -> None:
    """Ben had her address by mistake, so she was a contact of her own, and in conflict with him."""
    await publish(
        redis,
        workspace,
        {"type": "VisitorIdentified", "email": "ada@example.org", "visitorId": "adas-laptop"},
        {"type": "VisitorIdentified", "externalId": "ben", "email": "ada@example.org"},
    )
    await fold_log(redis, redis_url, workspace)
    wrong = (await newest_entry(redis, workspace, "events")).decode()
    await publish(redis, workspace, adas_events()[1], {"type": "EventsExcluded", "entries": [wrong]})
    await fold_log(redis, redis_url, workspace)
    assert await replay(redis, workspace) != []

    await erase(redis, workspace, ADA)

    assert await keys_with(redis, workspace, ADAS_TEXTS) == {}
    assert await verify(redis, workspace) == []


async def test_screen_that_watches_the_log_forgets_what_it_has_shown(redis: Redis, redis_url: str, workspace: str) -> None:
    """Somebody watches meanwhile, so the gateway holds the newest entries in memory."""
    await publish(redis, workspace, *adas_events())
    await fold_log(redis, redis_url, workspace)
    async with connect(redis_url) as client:
        watch = LogWatch(client, workspace)
        watching = watch.watch("0-0")
        shown, _ = await anext(watching)
        assert any(b"Ada Lovelace" in (each.event or b"") for each in shown)

        await erase(redis, workspace, ADA)
        await publish(redis, workspace, {"type": "VisitorSeen", "visitorId": "v-later"})

        while not any(each.said.visitor_id == "v-later" for each in shown):
            shown, _ = await anext(watching)
        another = watch.watch("0-0")
        held, _ = await anext(another)
        assert held
        assert not any(text.encode() in (each.event or b"") for each in held for text in ADAS_TEXTS)
        await another.aclose()
        await watching.aclose()
        await watch.stop()


@pytest.mark.parametrize("few", [100, 0])
async def test_no_key_holds_a_byte_of_the_people_of_random_logs(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Each text of a log is told from all others. Rejects and feed included; everybody else is as before."""
    monkeypatch.setattr(rewriting, "_FEW_TEXTS", few)
    workspace = "default"  # the contact ids of random logs are those of this one
    drawn: list[tuple[Log, list[str]]] = []

    @settings(max_examples=short_or_long(8, 300), deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(erasures(marked_logs(max_size=16)))
    def draw(case: tuple[Log, list[str]]) -> None:
        drawn.append(case)

    draw()
    for log, people in drawn:
        if not people:
            continue
        await redis.flushdb()
        for entry_id, fields in log:
            await redis.xadd(key(workspace, "events"), cast("Any", fields), id=entry_id)
        await fold_log(redis, redis_url, workspace)
        gone = set[bytes]()
        for contact_id in people:
            gone |= await _erase_one(redis, workspace, contact_id)
            assert await keys_with(redis, workspace, [each.decode() for each in gone]) == {}, log
            assert await verify(redis, workspace) == []
            assert await replay(redis, workspace) == []


async def _erase_one(redis: Redis, workspace: str, contact_id: str) -> set[bytes]:
    """Erase a person; returns the texts that only they had. Everybody else is as before."""
    before = await redis.hgetall(key(workspace, "contacts"))
    log = await read_stream(redis, workspace, "events")
    ownership = owned(log)
    belongings = ownership.belongings({contact_id})

    await erase(redis, workspace, Identifier(contact=contact_id))

    after = await redis.hgetall(key(workspace, "contacts"))
    others = before.keys() - {each.encode() for each in belongings.contacts}
    assert {each: after.get(each) for each in others} == {each: before[each] for each in others}, log
    return texts_of(log, belongings, ownership)
