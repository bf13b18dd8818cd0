"""Searching every key of a workspace for some texts, page by page, so that the server answers others meanwhile."""

import re
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from kinfold_schemas.keys import key
from kinfold_services.connections import Client
from kinfold_services.log.streams import as_entries, pairs_of
from kinfold_services.state.baseline import piece_texts

MIN_CHARS: Final = 5
"""A shorter text is found by accident."""
_FEW: Final = 100
_PAGE: Final = 500
"""How many entries or fields are read at once. The server takes about 0.1 ms, and events wait for it."""
_CHUNK_BYTES: Final = 1 << 22
_TOKEN: Final = re.compile(rb"[!#-\[\]-~\x80-\xff]+")
"""What stands between quotes, white space and control characters: JSON strings, fields and members."""


class Searcher:
    """Finds texts in bytes, as they are and as JSON writes them."""

    def __init__(self, texts: Collection[str]) -> None:
        self.left_out = sum(len(each) < MIN_CHARS for each in texts)
        """How many are too short to be searched for."""
        self._texts: Final = frozenset(each.encode() for each in texts if len(each) >= MIN_CHARS)

    @property
    def longest(self) -> int:
        """Of the longest text, in bytes."""
        return max(map(len, self._texts), default=0)

    def found(self, pieces: Iterable[bytes]) -> set[bytes]:
        """Those of the texts that are in one of the pieces."""
        together = b'"'.join(pieces)
        if len(self._texts) <= _FEW:
            return {each for each in self._texts if each in together}
        return set(_TOKEN.findall(together)) & self._texts


async def search_keys(client: Client, workspace: str, searcher: Searcher, besides: Collection[str]) -> dict[str, int]:
    """How many of the texts each key of the workspace holds, by the key's name; only keys that hold any.

    `besides`: keys that hold them on purpose. Changes `client`: from now on its XRANGE returns entries as `as_entries` does.
    """
    found: dict[str, int] = {}
    prefix = key(workspace, "events").removesuffix("events")
    pattern = re.sub(r"([\[\]*?^\\])", r"\\\1", prefix) + "*"
    async for name in cast("AsyncGenerator[bytes]", client.scan_iter(match=pattern, count=_PAGE)):
        short = name.decode(errors="replace").removeprefix(prefix)
        if short in besides:
            continue
        texts = set[bytes]()
        async for pieces in _content(client, name):
            texts |= searcher.found(pieces)
        if texts or searcher.found([name]):
            found[short] = max(1, len(texts))
    return found


def search_files(directory: Path, searcher: Searcher) -> dict[str, int]:
    """How many of the texts each file below a directory holds; only files that hold any."""
    found: dict[str, int] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and (texts := _in_file(path, searcher)):
            found[str(path.relative_to(directory))] = len(texts)
    return found


def _in_file(path: Path, searcher: Searcher) -> set[bytes]:
    texts, before = set[bytes](), b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                texts |= searcher.found([before + chunk])
                before = chunk[-searcher.longest :]
    except OSError:  # gone meanwhile
        return texts
    return texts


async def _content(client: Any, name: bytes) -> AsyncGenerator[Sequence[bytes]]:
    """The content of a key, some at a time."""
    kind = (await client.type(name)).decode()
    if kind in _SCANS:
        cursor = 0
        while True:
            cursor, found = await getattr(client, _SCANS[kind])(name, cursor, count=_PAGE)
            yield _flat(found)
            if cursor == 0:
                return
    elif kind == "stream":
        client.set_response_callback("XRANGE", cast("Any", as_entries))
        after = "-"
        while True:
            page = await client.xrange(name, min=after, count=_PAGE)
            yield [item for _, fields in page for pair in pairs_of(fields) for item in pair]
            if len(page) < _PAGE:  # not until one is empty: a stream may grow as quickly as it is read
                return
            after = f"({page[-1][0].decode()}"
    elif kind == "list":
        first = 0
        while page := await client.lrange(name, first, first + 9):
            yield page if not name.endswith(b":baseline-pieces") else [text for data in page for text in piece_texts(data)]
            first += 10
    elif kind == "string":
        yield [await client.get(name) or b""]


_SCANS: Final = {"hash": "hscan", "set": "sscan", "zset": "zscan"}


def _flat(found: Any) -> list[bytes]:
    """Fields and values of a hash; the members of a set."""
    if isinstance(found, dict):
        return [item for pair in cast("dict[bytes, bytes]", found).items() for item in pair]
    return [each if isinstance(each, bytes) else each[0] for each in found]
