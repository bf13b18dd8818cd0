"""A workspace in use while its servers fail: a projector, two producers, a reader of the feed, and their guarantees."""

import asyncio
import contextlib
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis

import kinfold
from kinfold.contacts.queries import decode_contact
from kinfold_projections.entries import read_entries
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from kinfold_schemas.changes import ContactErased, ContactGone, ContactsMerged
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.keys import key
from kinfold_services.runtime.tasks import end_tasks
from tests.support import replaying
from tests.support.feed_reader import contacts_of
from tests.support.projecting import ProjectorProcess, stored_position
from tests.support.snapshots import RawEntry
from tests.support.waiting import wait_until

FOLDS_AGAIN_S: Final = 5.0
"""The maximum time from the promotion of a server to the first fold on it (contract section 8)."""
SLACK: Final = float(os.environ.get("KINFOLD_FAILOVER_SLACK", "4"))
"""The extra time that a busy machine may take."""
SETTLES_S: Final = 120.0
READER_S: Final = 120.0

_PER_S: Final = 100
"""Events of each producer."""
_TICK_S: Final = 0.02
_SAID: Final = re.compile(rb'"said-(\w+)":(\d+)')


class Speaker:
    """A producer that sends numbered events one after the other. `said` counts them."""

    def __init__(self, name: str, url: str, workspace: str) -> None:
        self.name: Final = name
        self.said = 0
        self.producer: Final = kinfold.Producer(url, workspace=workspace, timeout_s=2.0, last_retry_s=1.0)

    def say(self) -> None:
        """Send the next event: people on many devices gain addresses, are merged, and share devices."""
        number, person, name = self.said, self.said % 31, self.name
        said = {f"said-{name}": number}
        if number % 4 == 0:
            self.producer.identify(f"{name}-{number % 97}", external_id=f"u-{person}", name=f"{name} {number}", metadata=said)
        elif number % 4 == 1:
            self.producer.identify(external_id=f"u-{person}", email=f"e-{person}@example.org", metadata=said)
        elif number % 4 == 2:
            self.producer.identify(f"{name}-{number % 89}", email=f"e-{person}@example.org", metadata=said)
        else:
            self.producer.set_metadata(f"{name}-{number % 97}", said)
        self.said += 1

    @property
    def acknowledged(self) -> set[int]:
        """The numbers of the events in a server's log, in the order in which they were sent."""
        return set(range(self.producer.counters.sent))


class FeedCopy:
    """Applies the changes of a `kinfold.Feed` in its own thread, like a dashboard, and so holds the contacts."""

    def __init__(self, url: str, workspace: str) -> None:
        self.contacts: dict[str, Contact] = {}
        self.resets = 0
        self.error: BaseException | None = None
        self._follow: Final = kinfold.Feed(url, workspace=workspace, timeout_s=2.0).follow(snapshot=True, on_reset=self._reset)
        self._thread: Final = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._follow.close()
        self._thread.join(120)

    def held(self) -> dict[str, Contact]:
        """Return the contacts."""
        return {each.id: each for each in list(self.contacts.values())}

    def _reset(self) -> None:
        self.contacts = {}
        self.resets += 1

    def _run(self) -> None:
        try:
            for change in self._follow:
                if isinstance(change, ContactGone | ContactErased):
                    self.contacts.pop(change.contact_id, None)
                    continue
                if isinstance(change, ContactsMerged):
                    self.contacts.pop(change.merged_contact_id, None)
                self.contacts[change.contact_id] = change.contact
        except BaseException as error:  # noqa: BLE001  the test asserts that there is none
            self.error = error


class Use:
    """The running workspace and its checks, made by `in_use`."""

    def __init__(self, url: str, workspace: str, projector: ProjectorProcess) -> None:
        self.url: Final = url
        self.workspace: Final = workspace
        self.projector: Final = projector
        self.speakers: Final = [Speaker(name, url, workspace) for name in ("one", "two")]
        self.reader: Final = FeedCopy(url, workspace)
        self._is_talking = True

    async def talk(self) -> None:
        """Let both producers send at their rate until `ends_well` stops them."""
        loop = asyncio.get_running_loop()
        started, due = loop.time(), 0
        while self._is_talking:
            while due < (loop.time() - started) * _PER_S:
                due += 1
                for speaker in self.speakers:
                    speaker.say()
            await asyncio.sleep(_TICK_S)

    async def has_folded(self, server: Redis, entries: int) -> None:
        """Wait until this many more entries are folded."""
        length = await server.xlen(key(self.workspace, "events"))
        await wait_until(lambda: self._has_length(server, length + entries), SETTLES_S)
        ((target, _),) = cast("list[RawEntry]", await server.xrevrange(key(self.workspace, "events"), count=1))
        await self._wait_for(server, target, SETTLES_S)

    async def _has_length(self, server: Redis, length: int) -> bool:
        return await server.xlen(key(self.workspace, "events")) >= length

    async def folds_again(self, server: Redis, promoted_at: float | None = None) -> float:
        """Append an entry to this server and assert that it is folded within 5 s of `promoted_at` (default: now).

        Returns the seconds that it took.
        """
        started = promoted_at or time.monotonic()
        event = {"type": "VisitorSeen", "visitorId": f"probe-{started}"}
        entry = cast("bytes", await server.xadd(key(self.workspace, "events"), {"event": json.dumps(event)}))
        left_s = FOLDS_AGAIN_S * SLACK - (time.monotonic() - started)
        await self._wait_for(server, entry, left_s)
        took_s = time.monotonic() - started
        logging.getLogger(__name__).info("folded again after %.1f s", took_s)
        return took_s

    async def makes_contact(self, server: Redis, external_id: str) -> str:
        """Append an event that creates a contact, wait until it is folded, and return the contact's id."""
        event = {"type": "VisitorIdentified", "externalId": external_id}
        entry = cast("bytes", await server.xadd(key(self.workspace, "events"), {"event": json.dumps(event)}))
        await self._wait_for(server, entry, SETTLES_S)
        stored = await cast("Any", server).hget(key(self.workspace, "external-ids"), external_id)
        return cast("bytes", stored).decode()

    async def is_rebuilt(self, server: Redis, contact_id: str) -> None:
        """Wait until the state no longer holds a contact without an entry in the log."""

        async def is_gone() -> bool:
            return not await cast("Any", server).hexists(key(self.workspace, "contacts"), contact_id)

        await wait_until(is_gone, SETTLES_S, 0.1)

    async def _wait_for(self, server: Redis, entry: bytes, timeout_s: float) -> None:
        async def is_folded() -> bool:
            assert self.projector.process.poll() is None, f"the projector ended: {self.projector.log.read_text()[-3000:]}"
            position = await stored_position(server, self.workspace) or b"0-0"
            return _order(position) >= _order(entry)

        try:
            await wait_until(is_folded, timeout_s, 0.02)
        except AssertionError as error:
            position = await stored_position(server, self.workspace)
            said = self.projector.log.read_text()[-1500:]
            raise AssertionError(f"{error}; entry {entry!r}, position {position!r}; the projector says: {said}") from None

    async def ends_well(self, server: Redis, *, since: dict[str, int] | None = None) -> None:
        """Stop the producers and assert what must hold on `server`, which holds the workspace now.

        - The producers lose no event, and the log has all events from `since` on (values of `said`; None: all events).
          Earlier acknowledged events can be lost with their server.
        - Every entry of the log is folded once: `verify` finds no difference, and neither does a fold in this process.
        - The feed has no change twice, and its reader holds the projector's contacts.
        """
        self._is_talking = False
        await self._producers_end()
        log = cast("list[RawEntry]", await server.xrange(key(self.workspace, "events")))
        await self._wait_for(server, log[-1][0], SETTLES_S)
        self._holds_what_was_acknowledged(log, since or {})
        await self._state_is_right(server, log)
        await self._feed_is_right(server)
        verified = await replaying.kinfold(self.url, self.workspace, "verify")
        assert verified.status == 0, verified.said
        assert self.projector.process.poll() is None, self.projector.log.read_text()[-3000:]

    async def _producers_end(self) -> None:
        for speaker in self.speakers:
            await asyncio.to_thread(speaker.producer.flush, SETTLES_S)
            counters = speaker.producer.counters
            assert (counters.sent, counters.dropped, counters.lost) == (speaker.said, 0, 0), counters

    def _holds_what_was_acknowledged(self, log: list[RawEntry], since: dict[str, int]) -> None:
        held: dict[str, Counter[int]] = {speaker.name: Counter() for speaker in self.speakers}
        for _, fields in log:
            for name, number in _SAID.findall(fields[b"event"]):
                held[name.decode()][int(number)] += 1
        for speaker in self.speakers:
            owed = {number for number in speaker.acknowledged if number >= since.get(speaker.name, 0)}
            missing = sorted(owed - held[speaker.name].keys())
            assert not missing, f"{speaker.name}: {len(missing)} acknowledged events are not in the log, first {missing[:5]}"

    async def _state_is_right(self, server: Redis, log: list[RawEntry]) -> None:
        difference = differing(await stored_contacts(server, self.workspace), self._folded(log))
        assert not difference, f"the state is not what the log folds to: {difference}"

    def _folded(self, log: list[RawEntry]) -> dict[str, Contact]:
        state = State(self.workspace)
        fold(state, read_entries(log))
        return contacts_of(state)

    async def _feed_is_right(self, server: Redis) -> None:
        feed = cast("list[RawEntry]", await server.xrange(key(self.workspace, "changes")))
        twice = [change for change, times in Counter(fields[b"change"] for _, fields in feed).items() if times > 1]
        assert not [change for change in twice if b'"cause":"replay"' not in change], twice[:2]
        expected = await stored_contacts(server, self.workspace)

        def reader_is_up_to_date() -> bool:
            assert self.reader.error is None, f"the reader of the feed ended: {self.reader.error!r}"
            return not differing(self.reader.held(), expected)

        with contextlib.suppress(AssertionError):
            await wait_until(reader_is_up_to_date, READER_S, 0.1)
        assert self.reader.error is None, f"the reader of the feed ended: {self.reader.error!r}"
        difference = differing(self.reader.held(), expected)
        assert not difference, f"the reader of the feed does not hold the projector's contacts: {difference}"

    def said(self) -> dict[str, int]:
        """Return how many events each producer has sent so far."""
        return {speaker.name: speaker.said for speaker in self.speakers}

    async def has_said(self, events: int) -> int:
        """Wait until both producers together have accepted this many events; returns how many."""
        await wait_until(lambda: sum(self.said().values()) >= events)
        return sum(self.said().values())

    def close(self) -> None:
        """End the threads."""
        self._is_talking = False
        self.reader.close()
        for speaker in self.speakers:
            speaker.producer.close(timeout_s=1)


@asynccontextmanager
async def in_use(url: str, workspace: str, directory: Path) -> AsyncGenerator[Use]:
    """Start a projector, two sending producers, and a reader of the feed."""
    with ProjectorProcess(url, workspace, directory / "projector.log") as projector:
        use = await asyncio.to_thread(Use, url, workspace, projector)
        talking = asyncio.create_task(use.talk())
        try:
            with _shown_where_a_test_fails(projector.log):
                yield use
        finally:
            await end_tasks([talking])
            await asyncio.to_thread(use.close)


async def stored_contacts(server: Redis, workspace: str) -> dict[str, Contact]:
    """Return the stored living contacts."""
    stored = await cast("Any", server).hgetall(key(workspace, "contacts"))
    living = [decode_contact(data) for data in stored.values() if merged_into(data) is None]
    return {contact.id: contact for contact in living}


@contextlib.contextmanager
def _shown_where_a_test_fails(log: Path) -> Generator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"the projector's log ends with: {log.read_text()[-3000:]}")
        raise


def _order(entry: bytes) -> tuple[int, int]:
    ms, _, sequence = entry.partition(b"-")
    return int(ms), int(sequence)


def differing(found: dict[str, Contact], expected: dict[str, Contact]) -> str:
    """Describe how contacts differ, for the message of a failed test; empty if they are equal."""
    if found == expected:
        return ""
    others = [each for each in expected if each in found and found[each] != expected[each]]
    first = f", first {found[others[0]]} instead of {expected[others[0]]}" if others else ""
    return (
        f"{len(found.keys() - expected.keys())} contacts too many, {len(expected.keys() - found.keys())} missing, "
        f"{len(others)} with other content{first}"
    )
