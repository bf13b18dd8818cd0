"""Lists rejects, and appends the events that are acceptable now again (contract section 7).

A retry appends a new entry to the log. So that it folds as the rejected one would have, its event gets

- a new `id`, derived from that of the rejected entry. With its old `id` the event would be dropped as a duplicate if the state
  had rejected it. With a random one it would fold twice if two people retried at once;
- `at`, the effective time that it had (contract section 3), and no `sentAt`. Otherwise its effective time would be that of the
  new entry, so an event of last week would overwrite newer values;
- `by`, the name of the person who retried it by hand on the screen. The fold ignores it.

The reject itself stays unchanged until a replay folds its entry. `rejects` is part of the state: after a replay it contains
what the replay rejected, and the rejects whose entries the log has lost. The hash `settled-rejects` records that a reject is
settled: it maps the id of the rejected entry to the id of the entry that replaced it, and is written together with that entry
(`retry.lua`). It uses the ids of the log, so an export can contain it, and a fold from the start, which rejects the same
entries again, finds it.
"""

import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Sequence
from importlib.resources import files
from typing import Any, Final, Self, cast

import msgspec

import kinfold_services.rejects
from kinfold_projections.entries import EVENT_FIELD, BadEntry, read_entry
from kinfold_projections.fold import fold
from kinfold_projections.needs import older_memberships
from kinfold_projections.state import State
from kinfold_schemas.codec import why_rejected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_services.connections import ANSWER_S, Client
from kinfold_services.log.streams import STREAM_PAGE_ENTRIES, untouched
from kinfold_services.rejects.entries import read_reject
from kinfold_services.state.loading import Loader
from kinfold_services.state.reader import StateReader
from kinfold_services.state.wire import Wire

_RETRY: Final = files(kinfold_services.rejects).joinpath("retry.lua").read_text()
_Stored = tuple[bytes, list[bytes]]

_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


class DamagedReject(RuntimeError):
    """No projector wrote this entry of `rejects`."""


class _Replaced(Exception):
    """A replay has replaced the rejects while they were being read."""


class RejectedEntry(msgspec.Struct, frozen=True):
    """One entry of `rejects`."""

    entry: str
    """The id of the rejected entry in the log."""
    reason: str
    detail: str
    fields: list[tuple[bytes, bytes]]
    """The names and values of the rejected entry's fields, unchanged."""
    settled: str | None = None
    """The id of the entry that replaced it, if any."""

    @classmethod
    def of(cls, reject_id: bytes, flat: Sequence[bytes], settled: dict[str, str]) -> Self:
        """Read an entry from its names and values in turn. Raises DamagedReject."""
        read = read_reject(list(zip(flat[::2], flat[1::2], strict=True)))
        if read is None:
            got = ", ".join(name.decode(errors="backslashreplace") for name in flat[-6::2])
            expected = "the last fields to be entry (with the id of a log entry), reason and detail"
            raise DamagedReject(f"rejects, entry {reject_id.decode()}: expected {expected}, got {got}")
        return cls(read.entry, read.reason, read.detail, read.fields, settled.get(read.entry))

    @property
    def order(self) -> tuple[int, int]:
        """The sort key: the position of the rejected entry in the log."""
        return position_key(self.entry)

    @property
    def event(self) -> bytes | None:
        """The value of the field `event`; None if there is none."""
        return dict(self.fields).get(EVENT_FIELD)

    def as_json(self) -> dict[str, object]:
        """The reject as JSON. Fields are pairs. Bytes that are not UTF-8 are `{"base64": "…"}`."""
        shown: dict[str, object] = {"entry": self.entry, "reason": self.reason, "detail": self.detail}
        shown["fields"] = [(_shown(name), _shown(value)) for name, value in self.fields]
        return shown if self.settled is None else {**shown, "settled": self.settled}


class Rejects:
    """The rejects of one workspace. Changes `client`: from now on, XRANGE and XREVRANGE return raw replies."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._retry: Final = client.register_script(_RETRY)
        self._rules: IdentifierRules | None = None
        for command in ("XRANGE", "XREVRANGE"):
            client.set_response_callback(command, cast("Any", untouched))

    async def each(self, *, settled: bool = False) -> AsyncIterator[RejectedEntry]:
        """Yield the rejects that are not settled, or with `settled` all, in log order, up to the one that is newest now.

        If a replay replaces the rejects meanwhile, this continues with the new ones, after the entry that it has reached.
        """
        marks = await settled_rejects(self._client, self._workspace)
        newest = cast("list[_Stored]", await self._client.xrevrange(key(self._workspace, "rejects"), count=1))
        if not newest:
            return
        upto, told = RejectedEntry.of(*newest[0], marks).order, (-1, 0)
        while True:
            try:
                async for reject in self._as_they_stand(marks):
                    if reject.order > upto:
                        return
                    if reject.order > told and (settled or reject.settled is None):
                        yield reject
                    told = max(told, reject.order)
            except _Replaced:
                continue
            return

    async def _as_they_stand(self, marks: dict[str, str]) -> AsyncIterator[RejectedEntry]:
        """Yield all rejects. Raises _Replaced when a replay has replaced the ones with which this began."""
        rejects, generation = key(self._workspace, "rejects"), await self._generation()
        after = "0-0"
        while True:
            page = cast("list[_Stored]", await self._client.xrange(rejects, min=f"({after}", count=STREAM_PAGE_ENTRIES))
            if await self._generation() != generation:
                raise _Replaced
            if not page:
                return
            for reject_id, flat in page:
                after = reject_id.decode()
                yield RejectedEntry.of(reject_id, flat, marks)

    async def _generation(self) -> str:
        return (await StateReader(self._client, self._workspace).position()).generation

    async def retry(self, reject: RejectedEntry, event: bytes, by: str | None = None) -> str | Rejection:
        """Append `event` in place of a reject if the fold accepts it now. Returns the id of the new entry, or the rejection.

        If the reject was replaced before, by this or another caller, it returns that entry. May be repeated after any error.
        `by` is the name of the person who does it by hand; the event records it.
        """
        renewed = renew(reject.entry, event, by)
        if isinstance(renewed, Rejection):
            return renewed
        if (rejection := await self._judge(renewed)) is not None:
            return rejection
        keys = [key(self._workspace, "events"), key(self._workspace, "settled-rejects")]
        placed, _ = cast("tuple[bytes, int]", await self._retry(keys=keys, args=[reject.entry, renewed]))
        return placed.decode()

    async def _judge(self, event: bytes) -> Rejection | None:
        """Why the fold rejects the event under the current rules and state; None if it accepts the event."""
        if self._rules is None:
            self._rules = IdentifierRules(await StateReader(self._client, self._workspace).blocked_identifiers())
        next_id = f"{time.time_ns() // 1_000_000}-0".encode()
        entry = read_entry(next_id, {EVENT_FIELD: event}, self._rules)
        if isinstance(entry, BadEntry):
            return entry.rejection
        state, wire = State(self._workspace), Wire(self._client, key(self._workspace, "position"), ANSWER_S)
        loader = Loader(self._client, self._workspace, wire.ask)
        try:
            await loader.load(state, [entry])
            await loader.load_older(state, older_memberships(state, [entry]))
        finally:
            await wire.close()
        (outcome,) = fold(state, [entry])
        return outcome.rejection


def renew(entry: str, event: bytes, by: str | None = None) -> bytes | Rejection:
    """The event that replaces a rejected one: unchanged except for `id`, `at`, `sentAt` and `by` (see the module)."""
    read = read_entry(entry.encode(), {EVENT_FIELD: event})
    if isinstance(read, BadEntry):
        return read.rejection
    if (rejection := why_rejected(event)) is not None:  # the fold takes what only an erasure may write
        return rejection
    fields = _decode_raw(event)
    fields.pop("sentAt", None)
    fields["id"] = msgspec.Raw(_encode(f"retry-{entry}"))
    fields["at"] = msgspec.Raw(_encode(read.at))
    if by is not None:
        fields["by"] = msgspec.Raw(_encode(by))
    return _encode(fields)


def editable_text(event: bytes | None) -> str:
    """The event for a person to edit: JSON with indents if it is JSON, and else the bytes as text."""
    if event is None:
        return "{}"
    try:
        return msgspec.json.format(event.decode(), indent=2)
    except ValueError:
        return event.decode(errors="backslashreplace")


def compact(event: bytes) -> bytes:
    """An edited event without the white space between its parts, if it is JSON."""
    try:
        return msgspec.json.format(event, indent=-1)
    except ValueError:
        return event.strip()


async def settled_rejects(client: Client, workspace: str) -> dict[str, str]:
    """The settled rejects: the id of each rejected entry, and of the entry that replaced it."""
    answer = client.hgetall(key(workspace, "settled-rejects"))
    stored = await cast("Awaitable[dict[bytes, bytes]]", answer)
    return {entry.decode(): by.decode() for entry, by in stored.items()}


def _shown(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
