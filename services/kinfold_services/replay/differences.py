"""How two states differ: the living one, and one that was rebuilt at the same position."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, cast

import msgspec

from kinfold_projections.metadata import changed_keys
from kinfold_schemas.changes import Change, ContactCreated, ContactGone, ContactsMerged, ContactUpdated
from kinfold_schemas.contacts import Contact, merged_into
from kinfold_schemas.keys import Staging, key
from kinfold_services.connections import Client
from kinfold_services.queries import Workspace

Kind = Literal["contacts", "visitors", "external-ids", "emails"]
KINDS: Final[tuple[Kind, ...]] = ("contacts", "visitors", "external-ids", "emails")

CAUSE: Final = "replay"
_SCAN: Final = 1000


class Difference(msgspec.Struct, frozen=True):
    """One field of one thing that is not what the log says it is.

    A field that a side has not got is not there; where one side has nothing at all, `field` is null, and so is that side.
    """

    kind: Kind
    id: str
    field: str | None
    living: Any = msgspec.UNSET
    rebuilt: Any = msgspec.UNSET


class Sides:
    """Reads both states, a thing of a kind at a time."""

    def __init__(self, client: Client, workspace: str, staging: Staging) -> None:
        self._client: Final = client
        self._workspace: Final = workspace
        self._staging: Final[Staging] = staging

    async def differing(self, kind: Kind) -> AsyncIterator[str]:
        """The ids of a kind that are not the same bytes on both sides, as each page of them is read."""
        async for ids, values in self._scan(kind, None):
            rebuilt = await self._get(kind, self._staging, ids)
            for each, value, other in zip(ids, values, rebuilt, strict=True):
                if value != other:
                    yield each
        async for ids, _ in self._scan(kind, self._staging):
            living = await self._get(kind, None, ids)
            for each, one in zip(ids, living, strict=True):
                if one is None:
                    yield each

    async def living(self, kind: Kind, ids: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """The living position, and what stands under some ids at that moment."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hget(key(self._workspace, "position"), "stream_id")
        for first in range(0, len(ids), _SCAN):
            pipeline.hmget(key(self._workspace, kind), list(ids[first : first + _SCAN]))
        position, *pages = await pipeline.execute()
        return (position or b"").decode(), [value for page in pages for value in page]

    async def rebuilt(self, kind: Kind, ids: Sequence[str]) -> list[bytes | None]:
        """What stands under some ids in the rebuilt state."""
        values: list[bytes | None] = []
        for first in range(0, len(ids), _SCAN):
            values += await self._get(kind, self._staging, ids[first : first + _SCAN])
        return values

    async def survivors(self, stored: Sequence[bytes | None]) -> list[Contact | None]:
        """Of each contact of the rebuilt state, as stored: the living contact that it was merged into; None where it lives."""
        targets = [None if data is None else merged_into(data) for data in stored]
        known: dict[str, bytes | None] = {}
        wanted = {each for each in targets if each is not None}
        while wanted:
            ids = sorted(wanted)
            known.update(zip(ids, await self.rebuilt("contacts", ids), strict=True))
            further = (merged_into(data) for each in ids if (data := known[each]) is not None)
            wanted = {each for each in further if each is not None} - known.keys()
        return [None if each is None else _end_of(each, known) for each in targets]

    async def _scan(self, kind: Kind, staging: Staging | None) -> AsyncIterator[tuple[list[str], list[bytes]]]:
        cursor = 0
        while True:
            reply: Any = await self._client.hscan(key(self._workspace, kind, staging), cursor, count=_SCAN)
            cursor, found = cast("tuple[int, dict[bytes, bytes]]", reply)
            if found:
                yield [each.decode() for each in found], list(found.values())
            if cursor == 0:
                return

    async def _get(self, kind: Kind, staging: Staging | None, ids: Sequence[str]) -> list[bytes | None]:
        reply: Any = await self._client.hmget(key(self._workspace, kind, staging), list(ids))
        return cast("list[bytes | None]", reply)


def field_differences(kind: Kind, name: str, living: bytes | None, rebuilt: bytes | None) -> list[Difference]:
    """The fields in which two stored things differ; JSON is compared by value."""
    if living == rebuilt:
        return []
    one, other = _shown(kind, living), _shown(kind, rebuilt)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [Difference(kind, name, None, one, other)]
    pairs = _pairs(cast("_Object", one), cast("_Object", other))
    return [Difference(kind, name, field, left, right) for field, left, right in pairs if not _same(left, right)]


def as_change(contact_id: str, living: bytes | None, rebuilt: bytes | None, survivor: Contact | None = None) -> Change | None:
    """The one change that tells the feed how a contact differs; None where no reader can see that it does.

    `survivor`: where the rebuilt one is a tombstone, the living contact at the end of it.
    """
    if survivor is not None:
        return _as_merge(contact_id, survivor) if _merged_into(living) != _merged_into(rebuilt) else None
    old, new = _living(living), _living(rebuilt)
    if new is None:
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


def _living(data: bytes | None) -> Contact | None:
    """The contact as readers see it: None for a tombstone, and for what no reader can read."""
    try:
        return None if data is None else Workspace.living(data)
    except ValueError:
        return None


def _as_merge(contact_id: str, survivor: Contact) -> ContactsMerged:
    version, at = survivor.version, survivor.updated_at
    return ContactsMerged(
        contact_id=survivor.id, version=version, at=at, cause=CAUSE, contact=survivor, merged_contact_id=contact_id
    )


def _merged_into(data: bytes | None) -> str | None:
    """The contact that a tombstone names; None for what is no tombstone, and for what no reader can read."""
    try:
        return None if data is None else merged_into(data)
    except ValueError:
        return None


def _end_of(contact_id: str, known: dict[str, bytes | None]) -> Contact | None:
    """The living contact at the end of a chain of tombstones."""
    while (data := known[contact_id]) is not None:
        if (further := merged_into(data)) is None:
            return _living(data)
        contact_id = further
    return None


def _pairs(one: "_Object", other: "_Object", prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields of two objects beside each other, one level of objects in them opened: `metadata.plan`."""
    for field in sorted(one.keys() | other.keys()):
        left, right = one.get(field, msgspec.UNSET), other.get(field, msgspec.UNSET)
        if not prefix and isinstance(left, dict) and isinstance(right, dict):
            yield from _pairs(cast("_Object", left), cast("_Object", right), f"{field}.")
        else:
            yield f"{prefix}{field}", left, right


def _same(one: Any, other: Any) -> bool:
    if one is msgspec.UNSET or other is msgspec.UNSET:
        return one is other
    return _json(one) == _json(other)  # Python takes true for 1


def _shown(kind: Kind, data: bytes | None) -> Any:
    if data is None:
        return None
    if kind in {"contacts", "visitors"}:
        with suppress(ValueError):
            return msgspec.json.decode(data)
    return data.decode(errors="replace")


_Object = dict[str, Any]
_json: Final = msgspec.json.Encoder(order="deterministic").encode
