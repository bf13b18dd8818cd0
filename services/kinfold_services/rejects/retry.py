"""Rejects (contract section 7): listing them, and appending again what is acceptable now.

What is appended again is a new entry of the log. So that it folds as the rejected one would have, its event gets

- an `id` of its own, made of the rejected entry's: the old one has occurred where it was the state that refused, and the
  event would be dropped as a duplicate; and one made at random would fold twice where two people retry at once;
- `at`, the effective time that it had (contract section 3), and no `sentAt`: measured at the new entry, what happened last
  week would happen now, and overwrite what is newer.

The reject itself stays where it is, bytes as they were, until a replay folds its entry: `rejects` is of the state, and what
stands there after a replay is what that rejected, and what the log has lost. That a reject is dealt with stands in the hash
`settled-rejects`: the id of the rejected entry → the id of the entry that took its place, written together with that entry
(`retry.lua`). By the log's ids, so that an export can carry it, and a fold from the start, which rejects the same entries
again, finds it.
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
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_services.connections import ANSWER_S, Client
from kinfold_services.log.streams import PAGE_ENTRIES, untouched
from kinfold_services.rejects.entries import read_reject
from kinfold_services.state.loading import Loader
from kinfold_services.state.reader import StateReader
from kinfold_services.state.wire import Wire

_RETRY: Final = files(kinfold_services.rejects).joinpath("retry.lua").read_text()
_Stored = tuple[bytes, list[bytes]]

_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


class DamagedReject(RuntimeError):
    """An entry of `rejects` that no projector wrote."""


class _Replaced(Exception):
    """A replay has put other rejects in the place of those that were being read."""


class RejectedEntry(msgspec.Struct, frozen=True):
    """One entry of `rejects`."""

    entry: str
    """The rejected entry's id in the log."""
    reason: str
    detail: str
    fields: list[tuple[bytes, bytes]]
    """The rejected entry's own fields, names and values, as they were."""
    settled: str | None = None
    """The entry that took its place."""

    @classmethod
    def of(cls, reject_id: bytes, flat: Sequence[bytes], settled: dict[str, str]) -> Self:
        """Reads one, from names and values in turn. Raises DamagedReject."""
        read = read_reject(list(zip(flat[::2], flat[1::2], strict=True)))
        if read is None:
            got = ", ".join(name.decode(errors="backslashreplace") for name in flat[-6::2])
            expected = "the last fields to be entry (with the id of a log entry), reason and detail"
            raise DamagedReject(f"rejects, entry {reject_id.decode()}: expected {expected}, got {got}")
        return cls(read.entry, read.reason, read.detail, read.fields, settled.get(read.entry))

    @property
    def order(self) -> tuple[int, int]:
        """What they sort by: as their entries do in the log."""
        return position_key(self.entry)

    @property
    def event(self) -> bytes | None:
        """What is in the field `event`; None where there is none."""
        return dict(self.fields).get(EVENT_FIELD)

    def as_json(self) -> dict[str, object]:
        """For people and programs: text is text, and bytes that are not are `{"base64": "…"}`. Fields are pairs."""
        shown: dict[str, object] = {"entry": self.entry, "reason": self.reason, "detail": self.detail}
        shown["fields"] = [(_shown(name), _shown(value)) for name, value in self.fields]
        return shown if self.settled is None else {**shown, "settled": self.settled}


class Rejects:
    """One workspace's rejects. Takes over `client`: XRANGE and XREVRANGE answer with lists from now on."""

    def __init__(self, client: Client, workspace: str) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._retry: Final = client.register_script(_RETRY)
        self._rules: IdentifierRules | None = None
        for command in ("XRANGE", "XREVRANGE"):
            client.set_response_callback(command, cast("Any", untouched))

    async def each(self, *, settled: bool = False) -> AsyncIterator[RejectedEntry]:
        """Those that are not dealt with, and with `settled` all, in the log's order, up to the newest there is now.

        A replay may put others in their place meanwhile: then it goes on among those, behind the entry that it has come to.
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
        """All of them. Raises _Replaced as soon as those that are read are others than those it began with."""
        rejects, generation = key(self._workspace, "rejects"), await self._generation()
        after = "0-0"
        while True:
            page = cast("list[_Stored]", await self._client.xrange(rejects, min=f"({after}", count=PAGE_ENTRIES))
            if await self._generation() != generation:
                raise _Replaced
            if not page:
                return
            for reject_id, flat in page:
                after = reject_id.decode()
                yield RejectedEntry.of(reject_id, flat, marks)

    async def _generation(self) -> str:
        return (await StateReader(self._client, self._workspace).position()).generation

    async def retry(self, reject: RejectedEntry, event: bytes) -> str | Rejection:
        """Appends `event` in the place of a reject, if the fold would take it now: its entry, or why it would be refused.

        Where it was appended already, by whomever, that entry. May be repeated after any error.
        """
        renewed = renew(reject.entry, event)
        if isinstance(renewed, Rejection):
            return renewed
        if (rejection := await self._judge(renewed)) is not None:
            return rejection
        keys = [key(self._workspace, "events"), key(self._workspace, "settled-rejects")]
        by, _ = cast("tuple[bytes, int]", await self._retry(keys=keys, args=[reject.entry, renewed]))
        return by.decode()

    async def _judge(self, event: bytes) -> Rejection | None:
        """What the fold would say of it, by the present rules and upon the present state."""
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


def renew(entry: str, event: bytes) -> bytes | Rejection:
    """The event that takes the place of a rejected entry's: as it is, but for `id`, `at` and `sentAt` (see above)."""
    read = read_entry(entry.encode(), {EVENT_FIELD: event})
    if isinstance(read, BadEntry):
        return read.rejection
    fields = _decode_raw(event)
    fields.pop("sentAt", None)
    fields["id"] = msgspec.Raw(_encode(f"retry-{entry}"))
    fields["at"] = msgspec.Raw(_encode(read.at))
    return _encode(fields)


async def settled_rejects(client: Client, workspace: str) -> dict[str, str]:
    """The rejected entries that are dealt with, each with the entry that took its place."""
    answer = client.hgetall(key(workspace, "settled-rejects"))
    stored = await cast("Awaitable[dict[bytes, bytes]]", answer)
    return {entry.decode(): by.decode() for entry, by in stored.items()}


def _shown(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
