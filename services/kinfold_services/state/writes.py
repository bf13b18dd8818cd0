"""Packs what a fold changed as Redis commands.

redis-py takes 5 to 10 µs to pack a command. No command has more than a thousand items, so none blocks the server for long.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, cast

import hiredis

from kinfold_projections.entries import EVENT_FIELD
from kinfold_projections.records import encode_record, encode_stamps
from kinfold_projections.state import StateChanges
from kinfold_schemas.codec import encode_event
from kinfold_schemas.events import EventsExcluded
from kinfold_schemas.keys import AreaName, PrivateName, PublicName, key

SORTED_SETS: Final = frozenset({"members", "created"})
"""The sorted sets among the keys of a state in which every member has the score 0."""

REJECTS_ENTRIES: Final = 100_000
REJECTS_BYTES: Final = 256 * 1024**2
"""About how many rejects are kept, and how many bytes of them."""
_AT_ONCE: Final = 1000


def pack(*parts: str | bytes | float) -> bytes:
    """A command in the server's protocol (RESP)."""
    return cast("bytes", hiredis.pack_command(cast("Any", parts)))


class Writes:
    """Packs commands for the keys of one workspace, or of a staging area."""

    def __init__(self, workspace: str, area: AreaName | None = None) -> None:
        self._workspace: Final = workspace
        self._area: Final[AreaName | None] = area
        self._keys: Final[dict[str, bytes]] = {}
        self._change: Final = pack(b"XADD", self.key("changes"), b"*", b"change", b"")[: -len(b"\r\n$0\r\n\r\n")]

    def key(self, name: PublicName | PrivateName) -> bytes:
        """A key, encoded. The log and the feed are never in a staging area."""
        if name not in self._keys:
            self._keys[name] = key(self._workspace, name, None if name in {"changes", "events"} else self._area).encode()
        return self._keys[name]

    def state(self, changes: StateChanges) -> Iterator[bytes]:
        """Yield the commands that write what a fold changed, except the position."""
        yield from self._put("visitors", changes.visitors, encode_record)
        yield from self._put("contacts", changes.contacts)
        yield from self._put("visitor-stamps", changes.visitor_stamps, encode_stamps)
        yield from self._put("contact-stamps", changes.contact_stamps, encode_stamps)
        yield from self._put("external-ids", changes.external_ids, str.encode)
        yield from self._put("emails", changes.emails, str.encode)
        yield from self._put("members", {each: b"0" if is_in else None for each, is_in in changes.members.items()})
        yield from self._put("created", {each: b"0" if is_in else None for each, is_in in changes.created.items()})

    def things(self, name: PublicName | PrivateName, values: Iterable[tuple[str, bytes | None]]) -> Iterator[bytes]:
        """Yield the commands that set some ids of a hash, or of a sorted set with their scores. None deletes an id."""
        rest = iter(values)
        while some := dict(islice(rest, _AT_ONCE // 2)):
            yield from self._put(name, some)

    def feed(self, changes: Sequence[bytes], feed_entries: int) -> Iterator[bytes]:
        """Yield the commands that append encoded changes to the feed, which keeps about `feed_entries` entries."""
        for change in changes:
            yield b"".join((self._change, _HEADERS[len(change)], change, b"\r\n"))
        if changes:
            yield pack(b"XTRIM", self.key("changes"), b"MAXLEN", b"~", feed_entries)

    def reject(self, values: Iterable[bytes | str]) -> bytes:
        """A reject, from names and values in turn. The latest are kept."""
        return pack(b"XADD", self.key("rejects"), b"MAXLEN", b"~", REJECTS_ENTRIES, b"*", *values)

    def fewer_rejects(self, most: int) -> bytes:
        """Trim the rejects to about this number."""
        return pack(b"XTRIM", self.key("rejects"), b"MAXLEN", b"~", most)

    def exclusion(self, entry: str) -> list[bytes]:
        """What lets every fold leave out an entry that the server refuses (contract section 7)."""
        event = encode_event(EventsExcluded(entries=[entry], reason="the server refuses what it makes of the state"))
        return [
            pack(b"SADD", self.key("excluded"), entry),
            pack(b"XADD", self.key("events"), b"*", EVENT_FIELD, event),
        ]

    def hash(self, name: PublicName | PrivateName, fields: Mapping[str, str | int]) -> bytes:
        """The command that sets a few fields of a hash."""
        return pack(b"HSET", self.key(name), *chain.from_iterable(fields.items()))

    def _put(
        self, name: PublicName | PrivateName, values: Mapping[str, Any], encode: Callable[[Any], bytes] = bytes
    ) -> Iterator[bytes]:
        gone = [each.encode() for each, value in values.items() if value is None]
        if gone:
            values = {each: value for each, value in values.items() if value is not None}
        ids, encoded = list(map(str.encode, values)), list(map(encode, values.values()))
        is_set = name in SORTED_SETS
        pairs = ids + encoded
        pairs[is_set::2], pairs[not is_set :: 2] = (
            ids,
            encoded,
        )  # a hash has the id before the value, a sorted set the score before the id
        yield from self._many(b"ZADD" if is_set else b"HSET", name, pairs)
        yield from self._many(b"ZREM" if is_set else b"HDEL", name, gone)

    def _many(self, command: bytes, name: PublicName | PrivateName, items: Sequence[bytes]) -> Iterator[bytes]:
        for first in range(0, len(items), _AT_ONCE):
            yield _pack_bytes([command, self.key(name), *items[first : first + _AT_ONCE]])


class _Headers(dict[int, bytes]):
    """The bytes before an item of a command, by the item's length: the end of the item before it and the length."""

    def __missing__(self, length: int) -> bytes:
        return b"\r\n$%d\r\n" % length


_HEADERS: Final = _Headers({length: b"\r\n$%d\r\n" % length for length in range(2048)})


def _pack_bytes(parts: Sequence[bytes]) -> bytes:
    """As `pack`, which takes four times as long, because hiredis formats each length again."""
    packed = [*parts, *parts]
    packed[::2] = map(_HEADERS.__getitem__, map(len, parts))
    packed[1::2] = parts
    return b"*%d%b\r\n" % (len(parts), b"".join(packed))
