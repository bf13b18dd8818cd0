"""The state in a baseline's pieces (`log/baseline.py`).

A piece is zlib-compressed MessagePack, `[part, items, window]`. `items` is a part of the state as Redis stores it: id → record
(`projections/records.py`). So a baseline outlives the version that made it, as a stored state does. Three parts are special:

    members   the members of the sorted set, each with an empty value
    older     contact id → `[[since in ms, visitor id], …]`, the visitors after the listed ones
    window    no items; `window` has the last entries before the cut, in order: hashes (`duplicates.Occurred`), or nil for an
              entry that is not an event
"""

import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, cast, get_args

import msgspec

from kinfold_projections.batches import read_batch
from kinfold_projections.duplicates import Occurred, occurred
from kinfold_projections.members import Membership
from kinfold_projections.state import State
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.connections import Client, RawEntry
from kinfold_services.log.baseline import Baseline, UnknownBaseline, read_baseline
from kinfold_services.log.pages import PAGE_ENTRIES, pages_backward

_PIECE_RECORDS: Final = 10_000
_READ_AT_ONCE: Final = 20
RecordPart = Literal["contacts", "contact-stamps", "visitors", "visitor-stamps", "external-ids", "emails"]
_RECORDS: Final[tuple[RecordPart, ...]] = get_args(RecordPart)
_encode: Final = msgspec.msgpack.Encoder().encode


class _Piece(msgspec.Struct, array_like=True):
    part: str
    items: dict[str, bytes] = {}
    window: list[Occurred | None] = []


_decode: Final = msgspec.msgpack.Decoder(_Piece).decode
_decode_older: Final = msgspec.msgpack.Decoder(list[Membership]).decode


class Begun(NamedTuple):
    """What a baseline restores: a whole state with its duplicate window, and the content of the sorted set `members`."""

    state: State
    members: set[str]


# --- making


def state_pieces(
    stored: Callable[[RecordPart], Iterable[tuple[str, bytes | None]]], state: State, members: set[str]
) -> Iterator[bytes]:
    """The pieces of a state. `stored` gives what Redis holds under each id of a part."""
    for part in _RECORDS:
        yield from _pieces(part, ((each, data) for each, data in stored(part) if data is not None))
    yield from _pieces("members", ((each, b"") for each in members))
    yield from _pieces("older", ((each, _encode(older)) for each, older in state.older.items() if older))


def window_pieces(items: Sequence[Occurred | None]) -> Iterator[bytes]:
    """The pieces of a duplicate window."""
    for first in range(0, len(items), _PIECE_RECORDS):
        yield _packed(_Piece("window", window=list(items[first : first + _PIECE_RECORDS])))


def _pieces(part: str, items: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    rest = iter(items)
    while some := dict(islice(rest, _PIECE_RECORDS)):
        yield _packed(_Piece(part, some))


def _packed(piece: _Piece) -> bytes:
    return zlib.compress(_encode(piece), level=1)


# --- restoring


async def restore(
    client: Client, workspace: str, baseline: Baseline, pieces: str | None = None, *, tells: bool = False
) -> Begun:
    """The state of a baseline whose pieces are in the list `pieces`; by default in the workspace's own.

    Raises UnknownBaseline if the pieces are not those of the baseline.
    """
    begun = Begun(State(workspace, tells=tells), set())
    contacts, stamps = dict[str, bytes](), dict[str, bytes]()
    visitors, visitor_stamps = dict[str, bytes](), dict[str, bytes]()
    held = {"contacts": contacts, "contact-stamps": stamps, "visitors": visitors, "visitor-stamps": visitor_stamps}
    digest, count = hashlib.sha256(), 0
    async for data in read_pieces(client, pieces or key(workspace, "baseline-pieces")):
        digest.update(data)
        count += 1
        piece = _unpacked(workspace, data)
        if piece.part in held:
            held[piece.part].update(piece.items)
        else:
            _put(begun, piece)
    if count != baseline.pieces or digest.hexdigest() != baseline.sha256:
        raise UnknownBaseline(
            f"workspace {workspace}: the log's baseline at {baseline.position} is damaged: expected {baseline.pieces} pieces "
            f"with the digest {baseline.sha256}, got {count} with {digest.hexdigest()}"
        )
    for each, record in contacts.items():
        begun.state.hold_contact(each, record, stamps.get(each))
    for each, record in visitors.items():
        begun.state.hold_visitor(each, record, visitor_stamps.get(each))
    return begun


def _put(begun: Begun, piece: _Piece) -> None:
    state = begun.state
    match piece.part:
        case "external-ids":
            state.external_ids.update((each, data.decode()) for each, data in piece.items.items())
        case "emails":
            state.emails.update((each, data.decode()) for each, data in piece.items.items())
        case "members":
            begun.members.update(piece.items)
        case "older":
            state.older.update((each, _decode_older(data)) for each, data in piece.items.items())
        case _:
            state.window.recall(piece.window)


async def read_window(client: Client, workspace: str, baseline: Baseline) -> list[Occurred | None]:
    """The duplicate window of a baseline."""
    if not baseline.window_pieces:
        return []
    found = [
        _unpacked(workspace, data)
        async for data in read_pieces(client, key(workspace, "baseline-pieces"), baseline.pieces - baseline.window_pieces)
    ]
    return [each for piece in found for each in piece.window]


async def read_pieces(client: Client, pieces: str, first: int = 0) -> AsyncIterator[bytes]:
    """The pieces in a list, from the one with this number on."""
    while True:
        reply: Any = await client.lrange(pieces, first, first + _READ_AT_ONCE - 1)
        found = cast("list[bytes]", reply)
        for data in found:
            yield data
        if len(found) < _READ_AT_ONCE:
            return
        first += len(found)


def piece_texts(data: bytes) -> list[bytes]:
    """What is in a piece, unpacked, for a search. A piece that is damaged is shown as it is."""
    try:
        piece = _decode(zlib.decompress(data))
    except (zlib.error, ValueError):
        return [data]
    return [item for each, value in piece.items.items() for item in (each.encode(), value)]


def _unpacked(workspace: str, data: bytes) -> _Piece:
    try:
        return _decode(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise UnknownBaseline(f"workspace {workspace}: a piece of the log's baseline is damaged: {error}") from error


# --- the duplicate window at a position


async def window_before(  # noqa: PLR0913  how it reads, and what it reads
    client: Client,
    workspace: str,
    position: str,
    count: int,
    between: Callable[[], Awaitable[None]] | None = None,
    *,
    page_entries: int = PAGE_ENTRIES,
) -> tuple[list[Occurred | None], list[list[RawEntry]]]:
    """What fills a new duplicate window: the last `count` entries up to a position, and what the baseline has of earlier ones.

    Awaits `between` after each page. The baseline is read after the log, so that a cut in between leaves no gap.
    """
    while True:
        pages: list[list[RawEntry]] = []
        async for page in pages_backward(client, workspace, position, count, page_entries):
            pages.append(page)
            if between is not None:
                await between()
        pages.reverse()
        baseline = await read_baseline(client, workspace)
        recalled = list[Occurred | None]()
        if baseline is not None:
            pages = pages_after(pages, baseline.position)
            if sum(map(len, pages)) < count:
                recalled = await read_window(client, workspace, baseline)
        if await read_baseline(client, workspace) == baseline:
            return recalled, pages


def pages_after(pages: Sequence[Sequence[RawEntry]], position: str) -> list[list[RawEntry]]:
    """The entries after a position."""
    cut = position_key(position)
    later = ([raw for raw in page if position_key(raw[0].decode()) > cut] for page in pages)
    return [page for page in later if page]


def occurrences(
    pages: Iterable[Sequence[RawEntry]], rules: IdentifierRules, excluded: frozenset[str], salt: str
) -> Iterator[Occurred | None]:
    """What a duplicate window remembers of log entries."""
    for page in pages:
        yield from (occurred(entry, salt) for entry in read_batch(page, rules, excluded).entries)
