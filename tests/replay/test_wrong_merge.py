"""A wrong merge is undone: an event named another customer's address, and a thousand events followed.

Ben was known only by his address. A form that another person had filled in said that Ada has this address, so Ben's contact was
merged into hers. From then on, events with Ben's address or from his devices belonged to Ada.
"""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest
from redis.asyncio import Redis

from kinfold_schemas.changes import ContactCreated, ContactErased, ContactGone, ContactsMerged, ContactUpdated
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.events import EventsExcluded
from kinfold_schemas.keys import key
from kinfold_services.gateway.changes.snapshot import take_snapshot as take_gateway_snapshot
from kinfold_services.projector.workspace import WorkspaceProjector
from kinfold_services.replay.replay import Replay
from kinfold_services.settings import Settings
from tests.support.event_log import append, entry_id
from tests.support.feed_reader import FeedReader
from tests.support.projecting import fold_log, newest_entry, projecting, wait_until_folded
from tests.support.replaying import NO_RULES, changes_since, kinfold, leftovers, quietly, verify
from tests.support.snapshots import read_stream, take_snapshot
from tests.support.waiting import wait_until

ADA: Final = {"externalId": "u-ada"}
BEN: Final = "ben@example.org"
BEFORE: Final[list[dict[str, Any]]] = [
    {"type": "VisitorIdentified", "visitorId": "v-ada", **ADA, "email": "ada@example.org", "name": "Ada"},
    {"type": "VisitorIdentified", "visitorId": "v-ben", "email": BEN, "name": "Ben", "metadata": {"plan": "free"}},
    {"type": "MetadataSet", **ADA, "metadata": {"plan": "pro"}},
]
WRONG: Final = {"type": "VisitorIdentified", **ADA, "email": BEN}
WRONG_ENTRY: Final = entry_id(len(BEFORE))
LATER: Final = 1000
BACKLOG: Final = 3_000


def later(number: int) -> dict[str, Any]:
    """A later event: of Ada or Ben in turn, on old and new devices, with their identifiers or only from their devices."""
    person, identity = ("ada", ADA) if number % 2 else ("ben", {"email": BEN})
    match number // 2 % 4:
        case 0:
            return {"type": "VisitorIdentified", "visitorId": f"v-{person}-{number % 7}", **identity}
        case 1:
            return {"type": "MetadataSet", "visitorId": f"v-{person}", "metadata": {f"page-{number % 5}": person}}
        case 2:
            return {"type": "MetadataSet", **identity, "metadata": {"last": f"{person} {number}"}}
        case _:
            return {"type": "VisitorSeen", "visitorId": f"v-{person}"}


@pytest.fixture(name="log")
async def _log(redis: Redis, redis_url: str, workspace: str) -> list[dict[str, Any]]:
    events = [*BEFORE, WRONG, *map(later, range(LATER))]
    await append(redis, workspace, events)
    await fold_log(redis, redis_url, workspace)
    return events


async def people(client: Redis, workspace: str) -> dict[str, Contact]:
    """The living contacts by name."""
    stored = (await take_snapshot(client, workspace)).contacts.values()
    contacts = [msgspec.json.decode(each, type=Contact) for each in stored if b"mergedInto" not in each]
    return {contact.name or contact.id: contact for contact in contacts}


async def must_hold_what_the_feed_told(client: Redis, workspace: str) -> None:
    """Assert that a reader of the feed has the contacts, and knows which were merged into which."""
    dashboard = FeedReader()
    for change in await changes_since(client, workspace, 0):
        dashboard.apply(change)
    stored = {each.decode(): data for each, data in (await take_snapshot(client, workspace)).contacts.items()}
    merged = {each: survivor for each, data in stored.items() if (survivor := merged_into(data)) is not None}
    living = {each: msgspec.json.decode(data, type=Contact) for each, data in stored.items() if each not in merged}
    assert dashboard.merged.keys() == merged.keys()
    assert {end_of(dashboard.merged, each) == end_of(merged, each) for each in merged} <= {True}
    assert dashboard.contacts == living


def end_of(merged: dict[str, str], contact_id: str) -> str:
    """The living contact at the end of a chain of merges."""
    while contact_id in merged:
        contact_id = merged[contact_id]
    return contact_id


def lines(path: Path, *values: str) -> Path:
    """A file with these lines, between comments and blank lines."""
    path.write_text("# by hand\n\n" + "\n".join(f"  {value}  " for value in values) + "\n")
    return path


async def test_explain_names_the_event_and_the_rule(redis: Redis, redis_url: str, workspace: str, log: list[dict[str, Any]]):
    """For either of the two contacts, one line says that this event merged them, and why."""
    found = await people(redis, workspace)
    assert found.keys() == {"Ben"} or found.keys() == {"Ada"}
    (contact,) = found.values()
    assert contact.external_id == "u-ada"
    ben = (await kinfold(redis_url, workspace, "show", "--email", BEN, "--at", entry_id(1))).out[0]

    for asked in (contact.id, ben["id"]):
        answer = await kinfold(redis_url, workspace, "explain", asked)
        assert answer.status == 0
        assert len(answer.out) == len(log)
        merging = [step for step in answer.out if any(deed["what"].startswith("merged") for deed in step["did"])]
        assert [(step["entry"], step["event"]) for step in merging] == [(WRONG_ENTRY, WRONG)]
        assert {"what": f"merged {ben['id']}", "rule": "5, second table: the event names both"} in merging[0]["did"]
    assert f"{ben['id']} was merged into {contact.id}" in answer.said


async def test_excluding_the_event_separates_the_contacts(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """Each gets its own data, including later events. Dashboards follow, and every later replay keeps it."""
    told = await redis.xlen(key(workspace, "changes"))
    file = lines(tmp_path / "wrong", WRONG_ENTRY)

    async with projecting(redis_url, workspace):
        answer = await kinfold(redis_url, workspace, "replay", "--exclude-events", file)
        assert answer.status == 0, answer.said
        entries = await read_stream(redis, workspace, "events")
        (record,) = (entry.decode() for entry, fields in entries if b"EventsExcluded" in fields[b"event"])
        assert f"by entry {record}" in answer.said
        last = await append(redis, workspace, [later(number) for number in range(100)], start=len(log) + 1)
        await wait_until_folded(redis, workspace, last)

    found = await people(redis, workspace)
    ada, ben = found["Ada"], found["Ben"]
    assert (ada.external_id, ada.email) == ("u-ada", "ada@example.org")
    assert (ben.external_id, ben.email) == (None, BEN)
    assert {visitor.split("-")[1] for visitor in ada.visitor_ids} == {"ada"}
    assert {visitor.split("-")[1] for visitor in ben.visitor_ids} == {"ben"}
    assert ada.metadata["plan"] == "pro"
    assert ben.metadata["plan"] == "free"
    for name, contact in (("ada", ada), ("ben", ben)):
        assert {str(value).split()[0] for field, value in contact.metadata.items() if field != "plan"} == {name}

    changes = await changes_since(redis, workspace, told)
    assert [msgspec.to_builtins(change) for change in changes[:2]] == answer.out
    assert {(type(change), change.contact_id) for change in changes[:2]} == {(ContactCreated, ben.id), (ContactUpdated, ada.id)}
    await must_hold_what_the_feed_told(redis, workspace)

    before = await take_snapshot(redis, workspace)
    again = await kinfold(redis_url, workspace, "replay")
    assert (again.status, again.out) == (0, [])
    after = await take_snapshot(redis, workspace)
    after._replace(position=before.position).must_equal(before)
    assert await verify(redis, workspace) == []
    assert await leftovers(redis, workspace) == []


async def test_log_records_the_exclusion(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """Once, even after several requests. A replay that finds it needs no file, and looking back respects it."""
    file = lines(tmp_path / "wrong", WRONG_ENTRY)
    for _ in range(2):
        assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", file)).status == 0
        await fold_log(redis, redis_url, workspace)

    entries = (await read_stream(redis, workspace, "events"))[len(log) :]
    events = [msgspec.json.decode(fields[b"event"], type=EventsExcluded) for _, fields in entries]
    assert [event.entries for event in events] == [[WRONG_ENTRY]]
    shown = await kinfold(redis_url, workspace, "contacts", "--at", "9" * 13)
    assert shown.status == 1, "the position is in the future"
    now = (await newest_entry(redis, workspace, "events")).decode()
    assert len((await kinfold(redis_url, workspace, "contacts", "--at", now)).out) == 2
    assert len((await kinfold(redis_url, workspace, "contacts", "--at", entry_id(len(log) - 1))).out) == 1
    position = (await take_snapshot(redis, workspace)).position
    assert position[b"excluded"] == b"1"
    assert await verify(redis, workspace) == []


async def test_exclusion_that_is_not_folded_yet_takes_effect(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """It is at the end of the log, after the position. The next replay, `verify` and `explain` already respect it."""
    file = lines(tmp_path / "wrong", WRONG_ENTRY)
    assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", file)).status == 0
    ada = (await people(redis, workspace))["Ada"]

    verified = await kinfold(redis_url, workspace, "verify")
    told = await kinfold(redis_url, workspace, "explain", ada.id)

    assert (verified.status, verified.out) == (0, []), verified.said
    assert WRONG_ENTRY not in {step["entry"] for step in told.out}
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", file)).out == []
    assert await redis.xlen(key(workspace, "events")) == len(log) + 1, "the exclusion is in the log once"
    await fold_log(redis, redis_url, workspace)
    assert (await people(redis, workspace)).keys() == {"Ada", "Ben"}
    assert await verify(redis, workspace) == []


async def test_excluded_event_that_is_not_folded_yet_is_never_folded(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path
):
    """The replay leaves it out before the projector reaches it, and then the projector leaves it out."""
    await append(redis, workspace, BEFORE)
    await fold_log(redis, redis_url, workspace)
    await append(redis, workspace, [WRONG, *map(later, range(50))], start=len(BEFORE))
    answer = await kinfold(redis_url, workspace, "replay", "--exclude-events", lines(tmp_path / "wrong", WRONG_ENTRY))
    assert (answer.status, answer.out) == (0, [])

    await fold_log(redis, redis_url, workspace)

    assert (await people(redis, workspace)).keys() == {"Ada", "Ben"}
    assert (await take_snapshot(redis, workspace)).position[b"excluded"] == b"1"
    assert await verify(redis, workspace) == []
    assert (await kinfold(redis_url, workspace, "replay")).out == []


async def test_exclusion_that_is_itself_excluded_is_revoked(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """As if it had never been in the log."""
    before = await take_snapshot(redis, workspace)
    assert (
        await kinfold(redis_url, workspace, "replay", "--exclude-events", lines(tmp_path / "wrong", WRONG_ENTRY))
    ).status == 0
    await fold_log(redis, redis_url, workspace)
    assert len(await people(redis, workspace)) == 2
    exclusion = (await newest_entry(redis, workspace, "events")).decode()

    answer = await kinfold(redis_url, workspace, "replay", "--exclude-events", lines(tmp_path / "right", exclusion))

    assert answer.status == 0, answer.said
    assert [change["type"] for change in answer.out] == ["ContactUpdated", "ContactsMerged"]
    await fold_log(redis, redis_url, workspace)
    await must_hold_what_the_feed_told(redis, workspace)
    after = await take_snapshot(redis, workspace)
    assert (after.contacts, after.visitors, after.emails) == (before.contacts, before.visitors, before.emails)
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    assert await verify(redis, workspace) == []
    assert len(log) == int(after.position[b"folded"]) + int(after.position[b"no-op"]) + int(after.position[b"stale"]) - 1


async def test_revoked_exclusion_can_be_made_again(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """The first one no longer counts, so the log needs another one. Otherwise the next replay would not respect it."""
    wrong = lines(tmp_path / "wrong", WRONG_ENTRY)
    assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", wrong)).status == 0
    exclusion = (await newest_entry(redis, workspace, "events")).decode()
    taken_back = await kinfold(redis_url, workspace, "replay", "--exclude-events", lines(tmp_path / "right", exclusion))
    assert taken_back.status == 0
    assert len(await people(redis, workspace)) == 1

    assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", wrong)).status == 0

    assert (await people(redis, workspace)).keys() == {"Ada", "Ben"}
    assert await redis.xlen(key(workspace, "events")) == len(log) + 3
    assert (await kinfold(redis_url, workspace, "replay")).out == []
    assert (await people(redis, workspace)).keys() == {"Ada", "Ben"}
    await must_hold_what_the_feed_told(redis, workspace)


async def test_replay_that_merges_emits_each_merged_contact(redis: Redis, redis_url: str, workspace: str, tmp_path: Path):
    """Along a chain of merges, the feed says for each that it was merged into the living contact, and not that it is gone."""
    event = {"type": "VisitorIdentified"}
    first, second, third = "a@example.org", "b@example.org", "c@example.org"
    events: list[dict[str, Any]] = [
        *({**event, "email": each, "visitorId": f"v-{each[0]}"} for each in (first, second, third)),
        {**event, "externalId": "u-1", "email": first},
        {**event, "externalId": "u-1", "email": second, "metadata": {"plan": "pro"}},
        {**event, "externalId": "u-1", "email": third},
    ]
    await append(redis, workspace, events)
    await fold_log(redis, redis_url, workspace)
    merged = await take_snapshot(redis, workspace)
    file = lines(tmp_path / "both", entry_id(4), entry_id(5))
    assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", file)).status == 0
    exclusion = (await newest_entry(redis, workspace, "events")).decode()
    await must_hold_what_the_feed_told(redis, workspace)

    answer = await kinfold(redis_url, workspace, "replay", "--exclude-events", lines(tmp_path / "right", exclusion))

    (contact,) = (await people(redis, workspace)).values()
    assert [change["type"] for change in answer.out] == ["ContactUpdated", "ContactsMerged", "ContactsMerged"]
    assert {change["contactId"] for change in answer.out} == {contact.id}
    assert {change["cause"] for change in answer.out} == {"replay"}
    assert [change["contact"] for change in answer.out] == [msgspec.to_builtins(contact)] * 3
    tombstones = {each.decode() for each, data in merged.contacts.items() if merged_into(data)}
    assert {change["mergedContactId"] for change in answer.out[1:]} == tombstones
    await must_hold_what_the_feed_told(redis, workspace)


async def test_merge_is_emitted_with_the_current_contact(redis: Redis, redis_url: str, workspace: str):
    """The projector changes the surviving contact between the comparison and the swap."""
    await append(redis, workspace, [*BEFORE, WRONG])
    await fold_log(redis, redis_url, workspace)
    both = await take_snapshot(redis, workspace)
    (merged_id,) = [each for each, data in both.contacts.items() if merged_into(data)]
    ben = [change for change in await changes_since(redis, workspace, 0) if change.contact_id == merged_id.decode()][-1]
    assert not isinstance(ben, ContactGone | ContactErased)
    await cast(
        "Any", redis.hset(key(workspace, "contacts"), cast("str", merged_id), cast("str", msgspec.json.encode(ben.contact)))
    )
    job = Replay(redis, Settings(workspace=workspace), NO_RULES)
    await job.build(quietly)
    assert [type(change) for change in await job.compare()] == [ContactsMerged]
    await append(redis, workspace, [{"type": "MetadataSet", **ADA, "metadata": {"plan": "max"}}], start=len(BEFORE) + 1)
    await fold_log(redis, redis_url, workspace)

    (change,) = await job.replace(allow_lost=False)

    assert isinstance(change, ContactsMerged)
    assert (change.merged_contact_id, change.contact.metadata["plan"]) == (merged_id.decode(), "max")
    await must_hold_what_the_feed_told(redis, workspace)


async def test_merge_that_is_undone_while_a_snapshot_is_taken_hides_no_contact(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The merge and its undoing are between two pages. The second page shows both contacts as they are."""
    monkeypatch.setattr("kinfold_services.state.snapshot._PAGE", 1)
    await append(redis, workspace, BEFORE)
    await fold_log(redis, redis_url, workspace)
    pages, register_script = 0, redis.register_script

    def register(text: str) -> Any:
        script = register_script(text)

        async def read_page(**arguments: Any) -> Any:
            nonlocal pages
            pages += 1
            if pages == 2:
                await append(redis, workspace, [WRONG], start=len(BEFORE))
                await fold_log(redis, redis_url, workspace)
                file = lines(tmp_path / "wrong", WRONG_ENTRY)
                assert (await kinfold(redis_url, workspace, "replay", "--exclude-events", file)).status == 0
            return await script(**arguments)

        return read_page

    monkeypatch.setattr(redis, "register_script", register)

    snapshot = await take_gateway_snapshot(redis, workspace)

    assert pages == 3
    assert len(snapshot.contacts) == 2


async def test_dry_run_prints_the_differences_and_changes_nothing(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """With other exclusions and other rules. The log, the state, the feed and the rules stay the same."""
    before = await take_snapshot(redis, workspace)
    (contact,) = (await people(redis, workspace)).values()
    excluding = await kinfold(
        redis_url, workspace, "replay", "--dry-run", "--exclude-events", lines(tmp_path / "a", WRONG_ENTRY)
    )
    blocking = await kinfold(
        redis_url, workspace, "replay", "--dry-run", "--blocked-identifiers", lines(tmp_path / "b", BEN, "/^v-ada-/")
    )

    assert (excluding.status, blocking.status) == (0, 0)
    assert "nothing is replaced" in excluding.said
    assert {change["type"] for change in excluding.out} == {"ContactCreated", "ContactUpdated"}
    (change,) = blocking.out
    assert (change["type"], change["contactId"]) == ("ContactUpdated", contact.id)
    assert change["contact"]["email"] == "ada@example.org"
    assert change["contact"]["visitorIds"] == ["v-ada"]
    assert "visitorIds" in change["changed"]
    (await take_snapshot(redis, workspace)).must_equal(before)
    assert await redis.xlen(key(workspace, "events")) == len(log)


async def test_identifiers_that_a_replay_blocked_stay_blocked(
    redis: Redis, redis_url: str, workspace: str, tmp_path: Path, log: list[dict[str, Any]]
):
    """For the projector, including entries that it had already read, and for every later replay."""
    replayed = asyncio.Event()

    async def load(projector: WorkspaceProjector) -> str:
        """Append events whenever the backlog is too small, until the replay ends. Returns the last entry."""
        count = len(log)

        def is_wanted() -> bool:
            return replayed.is_set() or projector.position.counts.entries > count - BACKLOG

        while True:
            last = await append(redis, workspace, map(later, range(count, count + BACKLOG)), start=count)
            count += BACKLOG
            await wait_until(is_wanted)
            if replayed.is_set():
                return last

    async with projecting(redis_url, workspace, batch_entries=5) as service:
        projector = await wait_until(lambda: service.workspaces.get(workspace))
        assert projector is not None
        loading = asyncio.create_task(load(projector))
        answer = await kinfold(redis_url, workspace, "replay", "--blocked-identifiers", lines(tmp_path / "b", BEN, "/^v-ada-/"))
        replayed.set()
        assert answer.status == 0
        last = await loading
        assert projector.position.stream_id != last, "it was replaced under way"
        await wait_until_folded(redis, workspace, last)

    (contact,) = (await people(redis, workspace)).values()
    assert contact.visitor_ids == ["v-ada"]
    blocked = await cast("Awaitable[set[bytes]]", redis.smembers(key(workspace, "blocked-identifiers")))
    assert blocked == {BEN.encode(), b"/^v-ada-/"}
    assert (await kinfold(redis_url, workspace, "verify")).status == 0
    assert (await kinfold(redis_url, workspace, "replay")).out == []
