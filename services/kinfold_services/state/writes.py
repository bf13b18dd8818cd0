"""What a fold changed, as packed Redis commands.

Packed by hiredis, in C: redis-py takes 5 to 10 µs a command. No command has more than a thousand items, so none keeps the
server for long.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final, Literal, cast

import hiredis

from kinfold_projections.records import encode_record, encode_stamps
from kinfold_projections.state import StateChanges
from kinfold_schemas.keys import AreaName, PrivateName, PublicName, key

SORTED_SETS: Final = frozenset({"members", "created"})
"""Of the keys of a state. Every member has the score 0."""

_AT_ONCE: Final = 1000


def pack(*parts: str | bytes | float) -> bytes:
    """A command as the server reads it (RESP)."""
    return cast("bytes", hiredis.pack_command(cast("Any", parts)))


class Writes:
    """Packs commands for the keys of one workspace, or of a staging area of it."""

    def __init__(self, workspace: str, area: AreaName | None = None) -> None:
        self._workspace: Final = workspace
        self._area: Final[AreaName | None] = area
        self._change: Final = pack(b"XADD", self.key("changes"), b"*", b"change", b"")[: -len(b"$0\r\n\r\n")]

    def key(self, name: PublicName | PrivateName) -> bytes:
        """A key, encoded. The log and the feed have no staging area."""
        return key(self._workspace, name, None if name in {"changes", "events"} else self._area).encode()

    def state(self, changes: StateChanges) -> Iterator[bytes]:
        """Everything that a fold changed of a state, but its position."""
        yield from self._hset("visitors", [(each, encode_record(record)) for each, record in changes.visitors.items()])
        yield from self._hset("contacts", changes.contacts.items())
        for name, stamps in (("visitor-stamps", changes.visitor_stamps), ("contact-stamps", changes.contact_stamps)):
            yield from self._hset(name, [(each, encode_stamps(stamp)) for each, stamp in stamps.items() if stamp is not None])
            yield from self._many(b"HDEL", name, [each for each, stamp in stamps.items() if stamp is None])
        yield from self._hset("external-ids", changes.external_ids.items())
        yield from self._hset("emails", [item for item in changes.emails.items() if item[1] is not None])
        yield from self._many(
            b"HDEL", "emails", [address for address, contact_id in changes.emails.items() if contact_id is None]
        )
        for name, changed in (("members", changes.members), ("created", changes.created)):
            yield from self._many(b"ZADD", name, chain.from_iterable((b"0", each) for each, is_in in changed.items() if is_in))
            yield from self._many(b"ZREM", name, [each for each, is_in in changed.items() if not is_in])

    def things(self, name: PublicName | PrivateName, values: Iterable[tuple[str, bytes | None]]) -> Iterator[bytes]:
        """What is stored under some ids of a hash, or of a sorted set with its score; None: nothing is."""
        is_set, rest = name in SORTED_SETS, iter(values)
        while some := list(islice(rest, _AT_ONCE // 2)):
            kept = [(value, each) if is_set else (each, value) for each, value in some if value is not None]
            yield from self._many(b"ZADD" if is_set else b"HSET", name, chain.from_iterable(kept))
            yield from self._many(b"ZREM" if is_set else b"HDEL", name, [each for each, value in some if value is None])

    def feed(self, changes: Iterable[bytes], feed_entries: int) -> Iterator[bytes]:
        """Encoded changes to the feed, which keeps about so many entries."""
        appended = [b"%b$%d\r\n%b\r\n" % (self._change, len(change), change) for change in changes]
        if appended:
            yield from appended
            yield pack(b"XTRIM", self.key("changes"), b"MAXLEN", b"~", feed_entries)

    def entry(self, stream: Literal["rejects"], values: Iterable[bytes | str]) -> bytes:
        """An entry at the end of a stream, from names and values in turn."""
        return pack(b"XADD", self.key(stream), b"*", *values)

    def hash(self, name: PublicName | PrivateName, fields: Mapping[str, str | int]) -> bytes:
        """A few fields of a hash."""
        return pack(b"HSET", self.key(name), *chain.from_iterable(fields.items()))

    def _hset(self, name: Any, pairs: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
        return self._many(b"HSET", name, chain.from_iterable(pairs))

    def _many(self, command: bytes, name: Any, items: Iterable[Any]) -> Iterator[bytes]:
        rest = iter(items)
        while some := tuple(islice(rest, _AT_ONCE)):  # an even number: pairs stay together
            yield pack(command, self.key(name), *some)
