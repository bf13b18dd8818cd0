"""Compares two states at the same position: the stored one, and one that was rebuilt."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final, cast

import msgspec

from kinfold_projections.metadata import changed_keys
from kinfold_projections.records import public_contact
from kinfold_schemas.changes import Change, ContactCreated, ContactErased, ContactGone, ContactsMerged, ContactUpdated
from kinfold_schemas.contacts import ERASED, Contact, MergedContact, merged_into
from kinfold_schemas.keys import key
from kinfold_services.connections import Client
from kinfold_services.replay.rebuild import Part, Rebuild
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.writes import SORTED_SETS

SHOWN: Final[tuple[Part, ...]] = ("contacts", "visitors", "external-ids", "emails")
"""The parts that readers see."""

CAUSE: Final = "replay"
ERASURE: Final = "erasure"
_UNKNOWN: Final = "2000-01-01T00:00:00.000Z"
_AT_ONCE: Final = 500
"""The server takes about 0.1 ms for that, and events wait for it."""


class Difference(msgspec.Struct, frozen=True):
    """One field of one record that is not what the log says.

    A field that a side lacks is absent from that side. If one side has no record at all, `field` is null, and so is that side.
    """

    kind: Part
    id: str
    field: str | None
    living: Any = msgspec.UNSET
    rebuilt: Any = msgspec.UNSET


class Sides:
    """Compares the stored state with a rebuilt one, which it advances to the stored one's position."""

    def __init__(self, client: Client, workspace: str, rebuild: Rebuild, *, follows: bool = True) -> None:
        """`follows`: whether the rebuilt state is advanced to the stored one's position, or stays where it is."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._rebuild: Final = rebuild
        self._follows: Final = follows

    async def suspects(self, part: Part) -> set[str]:
        """The ids in a part whose bytes differ between the two sides. Some may only be newer on one side."""
        found, unseen = set[str](), self._rebuild.ids(part)
        async for ids, living in self._scan(part):
            unseen.difference_update(ids)
            rebuilt = list(self._rebuild.stored(part, ids))
            if rebuilt != living:
                found.update(each for each, one, other in zip(ids, living, rebuilt, strict=True) if one != other)
        return found | unseen

    async def at_one_position(self, part: Part, ids: Iterable[str]) -> AsyncIterator[tuple[str, bytes | None, bytes | None]]:
        """Yield some ids at a time, each with the values of both sides at one position."""
        ordered = iter(sorted(ids))
        while some := list(islice(ordered, _AT_ONCE)):
            position, living = await self._living(part, some)
            if self._follows:
                await self._rebuild.advance(position)
            for each in zip(some, living, list(self._rebuild.stored(part, some)), strict=True):
                yield each

    async def is_other(self, part: Part, ids: Iterable[str]) -> bool:
        """Whether the bytes of any of these differ, or only one side has it."""
        async for _, living, rebuilt in self.at_one_position(part, ids):
            if living != rebuilt:
                return True
        return False

    def survivor(self, contact_id: str) -> Contact | None:
        """The living contact that a contact was merged into in the rebuilt state; None if it was not merged."""
        state = self._rebuild.state
        if type(state.contacts.get(contact_id)) is not MergedContact or state.is_erased(contact_id):
            return None
        return public_contact(state.contact(contact_id))

    async def _scan(self, part: Part) -> AsyncIterator[tuple[list[str], list[bytes]]]:
        """Yield ids and stored values, some at a time. Some may come twice."""
        client: Any = self._client
        scan = client.zscan if part in SORTED_SETS else client.hscan
        cursor = 0
        while True:
            cursor, found = await scan(key(self._workspace, part), cursor, count=_AT_ONCE)
            if part in SORTED_SETS:
                yield [each.decode() for each, _ in found], [_score(score) for _, score in found]
            else:
                yield [each.decode() for each in found], list(found.values())
            if cursor == 0:
                return

    async def _living(self, part: Part, ids: list[str]) -> tuple[str, list[bytes | None]]:
        """The stored position, and the values of some ids at the same moment."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hget(key(self._workspace, "position"), "stream_id")
        if part in SORTED_SETS:
            pipeline.zmscore(key(self._workspace, part), ids)
        else:
            pipeline.hmget(key(self._workspace, part), ids)
        position, values = await pipeline.execute()
        if part in SORTED_SETS:
            values = [None if score is None else _score(score) for score in values]
        return (position or b"").decode(), values


def _score(score: float) -> bytes:
    return b"%g" % score


def field_differences(part: Part, name: str, living: bytes | None, rebuilt: bytes | None) -> list[Difference]:
    """The fields in which two stored records differ. JSON is compared by value."""
    if living == rebuilt:
        return []
    one, other = _shown(part, living), _shown(part, rebuilt)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [Difference(part, name, None, one, other)]
    pairs = _pairs(cast("_Object", one), cast("_Object", other))
    return [Difference(part, name, field, left, right) for field, left, right in pairs if not _same(left, right)]


def as_change(  # noqa: PLR0911  a kind of change each
    contact_id: str, living: bytes | None, rebuilt: bytes | None, survivor: Contact | None
) -> Change | None:
    """The one change that tells the feed how a contact differs; None if readers cannot see the difference.

    `survivor`: the living contact that the rebuilt one leads to, if that is a tombstone.
    """
    if survivor is not None:
        return _as_merge(contact_id, survivor) if _merged_into(living) != _merged_into(rebuilt) else None
    old, new = _living(living), _living(rebuilt)
    if new is None:
        if _merged_into(rebuilt) == ERASED:
            return _as_erased(contact_id, living, old)
        if old is None:
            return None
        return ContactGone(contact_id=contact_id, version=old.version, at=old.updated_at, cause=CAUSE)
    if old is None:
        return ContactCreated(contact_id=contact_id, version=new.version, at=new.updated_at, cause=CAUSE, contact=new)
    changed = changed_fields(old, new)
    if not changed:
        return None
    return ContactUpdated(
        contact_id=contact_id, version=new.version, at=new.updated_at, cause=CAUSE, contact=new, changed=changed
    )


def changed_fields(old: Contact, new: Contact) -> list[str]:
    """The fields in which two contacts differ, by their names on the feed."""
    names = zip(Contact.__struct_fields__, Contact.__struct_encode_fields__, strict=True)
    fields = [shown for name, shown in names if name != "metadata" and getattr(old, name) != getattr(new, name)]
    return fields + [f"metadata.{each}" for each in changed_keys(old.metadata, new.metadata)]


def _as_erased(contact_id: str, living: bytes | None, old: Contact | None) -> Change | None:
    """Also for a contact that was merged: a reader from far behind may hold it still."""
    if living is None or _merged_into(living) == ERASED:
        return None
    version, at = (old.version, old.updated_at) if old is not None else (0, _UNKNOWN)
    return ContactErased(contact_id=contact_id, version=version, at=at, cause=ERASURE)


def _living(data: bytes | None) -> Contact | None:
    """The contact as readers see it; None for a tombstone, and for a record that readers cannot decode."""
    try:
        return None if data is None else StateQueries.living(data)
    except ValueError:
        return None


def _as_merge(contact_id: str, survivor: Contact) -> ContactsMerged:
    version, at = survivor.version, survivor.updated_at
    return ContactsMerged(
        contact_id=survivor.id, version=version, at=at, cause=CAUSE, contact=survivor, merged_contact_id=contact_id
    )


def _merged_into(data: bytes | None) -> str | None:
    """The contact that a tombstone names; None for a record that is not a tombstone or cannot be decoded."""
    try:
        return None if data is None else merged_into(data)
    except ValueError:
        return None


def _pairs(one: "_Object", other: "_Object", prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of two objects side by side, with one level of nested objects flattened: `metadata.plan`."""
    for field in sorted(one.keys() | other.keys()):
        left, right = one.get(field, msgspec.UNSET), other.get(field, msgspec.UNSET)
        if not prefix and isinstance(left, dict) and isinstance(right, dict):
            yield from _pairs(cast("_Object", left), cast("_Object", right), f"{field}.")
        else:
            yield f"{prefix}{field}", left, right


def _same(one: Any, other: Any) -> bool:
    if one is msgspec.UNSET or other is msgspec.UNSET:
        return one is other
    return _json(one) == _json(other)  # Python's true equals 1


def _shown(part: Part, data: bytes | None) -> Any:
    if data is None:
        return None
    if part in {"contacts", "visitors"}:
        with suppress(ValueError):
            return msgspec.json.decode(data)
    return data.decode(errors="replace")


_Object = dict[str, Any]
_json: Final = msgspec.json.Encoder(order="deterministic").encode
