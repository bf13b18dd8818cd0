"""`kinfold explain` is complete: the effects that it lists give the contact."""

import io
import json
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis
from rich.console import Console

from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.records import public_contact
from kinfold_projections.state import State
from kinfold_schemas.contacts import Contact
from kinfold_services.cli.explaining import print_step
from kinfold_services.history.explanation import Deed, Effect, Step, Story
from kinfold_services.history.past import Past
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from tests.support.event_log import append, entry_id, history
from tests.support.folding import Event, identified, metadata_set, moment, seen
from tests.support.lengths import short_or_long
from tests.support.projecting import fold_log
from tests.support.replaying import NO_RULES, append_log, kinfold
from tests.support.strategies import Log, logs

JsonObject = dict[str, Any]
WORKSPACE: Final = "explained"


async def story_of(client: Redis, workspace: str, contact_id: str, position: str) -> tuple[Contact, list[Step]]:
    """The contact and its story."""
    story = Story(Past(client, Settings(workspace=workspace), NO_RULES), position, position)
    assert await story.open(Identifier(contact=contact_id))
    assert story.contact is not None
    return story.contact, [step async for step in story.steps()]


def rebuilt(contact_id: str, steps: list[JsonObject]) -> JsonObject:
    """The contact according to the effects alone. Each effect must match the value before it."""
    contacts: dict[str, JsonObject] = {}
    for step in steps:
        for effect in step["effects"]:
            fields = contacts.setdefault(effect["contactId"], {})
            if "before" in effect:
                assert canonical(fields.pop(effect["field"])) == canonical(effect["before"])
            assert effect["field"] not in fields
            if "after" in effect:
                fields[effect["field"]] = effect["after"]
    fields = contacts[contact_id]
    metadata = {name: fields.pop(name) for name in sorted(fields) if name.startswith("metadata.")}
    return fields | {"metadata": {name.removeprefix("metadata."): value for name, value in metadata.items()}}


def canonical(value: object) -> bytes:
    """JSON that distinguishes values as JSON does: true is not 1."""
    return msgspec.json.encode(value, order="deterministic")


def must_tell_all(contact: Contact, steps: list[Step]) -> None:
    """Assert that the steps, read as JSON, give the contact, and that every event has a deed and a rule."""
    read = cast("list[JsonObject]", msgspec.json.decode(msgspec.json.encode(steps)))
    assert canonical(rebuilt(contact.id, read)) == canonical(msgspec.to_builtins(contact))
    for step in read:
        assert step["did"], step
        assert all(deed["what"].strip() and deed["rule"][0].isdigit() for deed in step["did"]), step


@settings(max_examples=short_or_long(20, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(max_size=30))
async def test_every_contact_of_any_log_follows_from_its_story(redis: Redis, log: Log):
    """With merges, conflicts, late events, anonymous visitors, metadata set and unset, and duplicates; from tombstones, too."""
    await redis.flushdb()
    state = State(WORKSPACE)
    await append_log(redis, WORKSPACE, log)
    fold(state, [read_entry(*each) for each in log])
    for contact_id in state.contacts:
        contact, steps = await story_of(redis, WORKSPACE, contact_id, log[-1][0].decode())
        assert contact == public_contact(state.contact(contact_id))
        must_tell_all(contact, steps)


async def test_contacts_of_the_example_history_follow_from_their_stories(redis: Redis, workspace: str):
    """The contacts with the most events in its first three years."""
    events = history()[:3000]
    last = await append(redis, workspace, events)
    state = State(workspace)
    fold(state, [read_entry(entry_id(number).encode(), {b"event": event}) for number, event in enumerate(events)])
    eventful = sorted(state.living_contacts(), key=lambda contact: contact.version)[-5:]
    for record in eventful:
        contact, steps = await story_of(redis, workspace, record.id, last)
        assert contact == public_contact(record)
        must_tell_all(contact, steps)
        assert len(steps) < len(events)


class Told:
    """The deeds for each event, by the number of the event."""

    def __init__(self, contact: Contact, steps: list[Step]) -> None:
        self.contact = contact
        self.steps = {step.entry: step for step in steps}

    def __getitem__(self, number: int) -> list[str]:
        return [f"{deed.what} [{deed.rule}]" for deed in self.steps[entry_id(number)].did]

    def __contains__(self, number: int) -> bool:
        return entry_id(number) in self.steps


async def told_of(client: Redis, workspace: str, events: list[Event], *, external_id: str) -> Told:
    """The story of a contact after these events."""
    last = await append(client, workspace, events)
    state = await Past(client, Settings(workspace=workspace), NO_RULES).state_at(last)
    found = state.by_external_id(external_id)
    assert found is not None
    contact, steps = await story_of(client, workspace, found.id, last)
    must_tell_all(contact, steps)
    return Told(contact, steps)


async def test_each_deed_has_its_rule(redis: Redis, workspace: str):
    """A contact that is anonymous, gets an address and an id, is merged and changed; late, repeated and rejected events."""
    events: list[Event] = [
        metadata_set(visitorId="v-1", metadata={"plan": "free", "gone": 1}, at=1),
        identified(None, "ada@example.org", "v-2", name="Ada", at=2),
        identified("u-1", visitor_id="v-1", at=3),
        identified("u-1", "ada@example.org", at=4),
        metadata_set(externalId="u-1", metadata={"plan": "pro", "nothing": None}, unset=["gone"], at=6),
        metadata_set(externalId="u-1", metadata={"plan": "late"}, at=5),
        metadata_set(externalId="u-1", metadata={"plan": "pro"}, at=7),
        metadata_set(externalId="u-1", metadata={"plan": "x"}, at=8, id="e-1"),
        metadata_set(externalId="u-1", metadata={"plan": "x"}, at=8, id="e-1", sentAt=moment(9)),
        seen("v-1", at=10),
        identified("u-1", "new@example.org", at=11),
        identified("u-1", "new@example.org", at=11, metadata={f"k-{number}": 1 for number in range(256)}),
    ]
    told = await told_of(redis, workspace, events, external_id="u-1")
    ada = (await Past(redis, Settings(workspace=workspace), NO_RULES).state_at(entry_id(1))).by_email("ada@example.org")
    assert ada is not None

    assert told[0] == ["metadata kept with v-1 [4: the visitor is not identified yet]"]
    assert f"created {ada.id} [5, first table: a new contact]" in told[1]
    assert "took e-mail ada@example.org [5, second table: takes]" in told[1]
    assert "linked v-2 [5, Linking: from the effective time on]" in told[1]
    assert "metadata.plan nothing → free [3: last write wins by effective time]" in told[2]
    assert "linked v-1 [5, Linking: from the effective time on]" in told[2]
    assert f"merged {ada.id} [5, second table: the event names both]" in told[3]
    assert "took e-mail ada@example.org [5, second table: merges]" in told[3]
    assert told[4] == [
        "metadata.gone 1 → nothing [3: last write wins by effective time]",
        "metadata.nothing nothing → null [3: last write wins by effective time]",
        "metadata.plan free → pro [3: last write wins by effective time]",
    ]
    assert told[5] == ["dropped as late [3: the current value has a later effective time]"]
    assert told[6] == ["nothing new [4: a no-op]"]
    assert told[8] == ["dropped as a duplicate [3, Duplicates: the same event occurred before]"]
    assert told[9] == ["seen [3: seen times only widen]"]
    assert told[10] == ["took e-mail new@example.org, freed ada@example.org [5, second table: takes]"]
    assert told[11][0].startswith("rejected: ")
    assert told[11][0].endswith("[7: Rejects]")


async def test_both_sides_of_a_conflict_are_explained(redis: Redis, workspace: str):
    """The contact that did not get the address, and the one that kept it."""
    events: list[Event] = [
        identified("u-1", "one@example.org"),
        identified("u-2", "two@example.org"),
        identified("u-2", "one@example.org"),
    ]
    rule = "[5, second table: held by a contact with another external id]"
    one = await told_of(redis, workspace, events, external_id="u-1")
    await redis.flushdb()
    two = await told_of(redis, workspace, events, external_id="u-2")
    assert one[2] == [f"kept one@example.org, which an event named for {two.contact.id} {rule}"]
    assert two[2] == [f"did not take one@example.org, which {one.contact.id} holds {rule}"]
    assert 1 not in one
    assert 0 not in two


async def test_fuse_is_explained(redis: Redis, workspace: str):
    """The reason why the contact did not take another one."""
    events: list[Event] = [identified("u-1")]
    for number in range(26):
        events += [identified(None, f"p{number}@example.org"), identified("u-1", f"p{number}@example.org")]
    told = await told_of(redis, workspace, events, external_id="u-1")
    (deed,) = told[len(events) - 1]
    assert deed.startswith("did not take p25@example.org, which ct_")
    assert deed.endswith("[5, the fuse: 25 contacts were merged already]")


async def test_shared_device_is_explained_from_both_sides(redis: Redis, workspace: str):
    """It moves. A late event goes to the earlier contact. Events that never belonged to a contact are not in its story."""
    events: list[Event] = [
        identified("u-1", visitor_id="v-1", at=1),
        identified("u-2", visitor_id="v-1", at=5),
        metadata_set(visitorId="v-1", metadata={"a": 1}, at=3),
        metadata_set(visitorId="v-1", metadata={"b": 1}, at=6),
        metadata_set(externalId="u-2", metadata={"c": 1}, at=7),
        identified("u-3", visitor_id="v-1", at=2),
    ]
    one = await told_of(redis, workspace, events, external_id="u-1")
    await redis.flushdb()
    two = await told_of(redis, workspace, events, external_id="u-2")
    assert one[1] == [f"v-1 moved on to {two.contact.id} [5, Linking: the visitor moves on]"]
    assert one[2] == ["metadata.a nothing → 1 [3: last write wins by effective time]"]
    assert one[3] == [f"went to {two.contact.id} [5, Linking: the contact that held the visitor at that time]"]
    assert 4 not in one
    assert two[2] == [f"went to {one.contact.id} [5, Linking: the contact that held the visitor at that time]"]
    assert 5 in two, "it names the visitor"


async def test_story_includes_the_event_of_a_former_address(redis: Redis, workspace: str):
    """An event that names no current identifier created the contact."""
    events: list[Event] = [
        identified(None, "old@example.org", name="Ada"),
        identified("u-1", "old@example.org"),
        identified("u-1", "new@example.org"),
    ]
    told = await told_of(redis, workspace, events, external_id="u-1")
    assert any(deed.startswith("created") for deed in told[0])


async def test_excluded_event_is_not_in_the_story(redis: Redis, workspace: str):
    """It had no effect."""
    events: list[Event] = [
        identified("u-1", name="Ada"),
        identified("u-1", name="Eve"),
        {"type": "EventsExcluded", "entries": [entry_id(1)]},
    ]
    told = await told_of(redis, workspace, events, external_id="u-1")
    assert told.contact.name == "Ada"
    assert list(told.steps) == [entry_id(0)]


async def test_event_on_several_lines_is_printed_on_one(redis: Redis, redis_url: str, workspace: str):
    """For any producer, because programs read one step per line."""
    event = {"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada \u2028L."}
    last = await append(redis, workspace, [json.dumps(event, indent=2).replace("\n", "\r\n").encode()])
    state = await Past(redis, Settings(workspace=workspace), NO_RULES).state_at(last)
    await fold_log(redis, redis_url, workspace)

    answer = await kinfold(redis_url, workspace, "explain", next(iter(state.contacts)))

    assert [step["event"] for step in answer.out] == [event]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_terminal_output_is_neither_cut_off_nor_too_wide(width: int):
    """Columns if there is room, otherwise below each other. An event cannot contain control sequences for the terminal."""
    what = "metadata.note " + "a long value " * 12 + "→ \x1b[2J\u202eevil\nline"
    step = Step(
        "1800000000000-0",
        "2027-01-15T08:00:00.000Z",
        "folded",
        [Deed("created ct_01mcc5rm00dkcdp4jknf2gd6w8", "5, first table: a new contact"), Deed(what, "3: last write wins")],
        [Effect("ct_01mcc5rm00dkcdp4jknf2gd6w8", "name", after="Ada")],
        msgspec.Raw(b"{}"),
    )
    console = Console(file=io.StringIO(), width=width, force_terminal=False)

    print_step(console, step)

    out = cast("io.StringIO", console.file).getvalue()
    rows = out.splitlines()
    assert all(len(row) <= width for row in rows), out
    words = "".join(out.split())
    for part in ("2027-01-15T08:00:00.000Z", "1800000000000-0", "createdct_01mcc5rm00dkcdp4jknf2gd6w8", "[3:lastwritewins]"):
        assert part in words
    assert "\\x1b[2J\\u202eevil\\nline" in words
    assert out.isascii() or all(each.isprintable() or each == "\n" for each in out)
    assert rows[0].startswith("2027-01-15T08:00:00.000Z")
    assert ("created" in rows[0]) == (width >= 100)


async def test_command_prints_json_and_rejects_an_unknown_contact(redis: Redis, redis_url: str, workspace: str):
    """One JSON object per step without a terminal; exit status 1 for an unknown contact; `--at` ends the story there."""
    events: list[Mapping[str, Any]] = [
        identified("u-1", "ada@example.org", name="Ada"),
        metadata_set(externalId="u-1", metadata={"plan": "pro"}),
    ]
    await append(redis, workspace, events)
    await fold_log(redis, redis_url, workspace)
    shown = (await kinfold(redis_url, workspace, "show", "--external-id", "u-1")).out[0]

    answer = await kinfold(redis_url, workspace, "explain", shown["id"])
    early = await kinfold(redis_url, workspace, "explain", shown["id"], "--json", "--at", entry_id(0))
    stranger = await kinfold(redis_url, workspace, "explain", "ct_nobody")

    assert [step["entry"] for step in answer.out] == [entry_id(0), entry_id(1)]
    assert [step["event"] for step in answer.out] == json.loads(json.dumps(events))
    assert canonical(rebuilt(shown["id"], answer.out)) == canonical(shown)
    assert early.out == answer.out[:1]
    assert (stranger.status, stranger.out) == (1, [])
    assert "'ct_nobody'" in stranger.said
