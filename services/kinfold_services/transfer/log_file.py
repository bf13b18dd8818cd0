r"""The file of a log: `kinfold export` writes it and `kinfold import` reads it.

It is NDJSON in UTF-8. Every line ends with `\n`:

    {"kinfold":"log","version":1,"workspace":"default","blockedIdentifiers":["/^test-/"],"settledRejects":{"17…-0":"18…-0"}}
    {"id":"1732262400000-0","event":{"type":"VisitorSeen","visitorId":"v-1"}}
    {"id":"1732262400000-1","base64":[["ZXZlbnQ=","//4="]]}
    {"entries":2,"lost":0,"first":"1732262400000-0","last":"1732262400000-1","sha256":"…"}

The header holds what the fold depends on beside the log: the workspace's name (a contact id is a hash of it and the entry's
id) and the workspace's blocked identifiers. It also says which entry settled which reject (`rejects/retry.py`), and
which entries were erased (`privacy`).

The entries follow in the order of their ids. If the only field of an entry is `event`, and its value is a JSON object, the line
holds the exact bytes of that object, from after `"event":` to before the last `}`. Any other entry has all its fields in
`base64`, as pairs of name and value. Both forms restore the same bytes.

If the log was cut, the file begins at its baseline. Then `version` is 2, the header has `baseline` (`log/baseline.py`), and the
pieces follow the header, before the entries, a line each:

    {"baseline":"eJwB…"}

The trailer comes last: how many entries the file has, how many the log had lost before (trimmed, deleted), the first and the
last id, and the SHA-256, in hex, of all bytes of the file (decompressed) before the digest itself. This finds every flipped
bit, every missing line and every truncation.

The header may gain fields; any other change is a new `version`.
"""

import hashlib
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Final, NoReturn, Self

import msgspec

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import found_bytes
from kinfold_services.log.baseline import SHAPE, Baseline
from kinfold_services.log.streams import StreamEntry
from kinfold_services.transfer.files import DECOMPRESSION_ERRORS, open_compressed

VERSION: Final = 1
BASELINE_VERSION: Final = 2
"""Of a file that begins at a baseline."""


class Header(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """The first line."""

    kinfold: str = "log"
    version: int = VERSION
    workspace: str
    blocked_identifiers: list[str]
    settled_rejects: dict[str, str]
    baseline: Baseline | msgspec.UnsetType = msgspec.UNSET
    """Stands for the part of the log that was cut before."""

    @property
    def cut(self) -> Baseline | None:
        """The baseline; None if the log was never cut."""
        return self.baseline if isinstance(self.baseline, Baseline) else None

    erased_entries: dict[str, str] = {}
    """Erased entry → the event that took its place. An import applies them to an older file as well."""


class Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line. `first` and `last` are null if there is no entry."""

    entries: int
    lost: int
    first: str | None
    last: str | None
    sha256: str


class BrokenFile(ValueError):
    """The file is not what was exported. The message names the file, the line, what was expected and what it got."""


class EntryTooLarge(ValueError):
    """An entry of the log does not fit into a line of the file. The message names it."""


_HEADER_BYTES_MAX: Final = 1 << 28
MAX_LINE_BYTES: Final = 1 << 26
"""The largest line of an entry: 64 MiB. The gateway and the producers append events of at most 64 KiB."""
_BLOCK_BYTES: Final = 1 << 20
_ENTRY: Final = re.compile(rb'\{"id":"(\d{1,20}-\d{1,20})","(event|base64)":(.*)\}\n\Z', re.DOTALL)
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_DIGEST_FIELD: Final = b'"sha256":"'
_TRAILER: Final = b'{"entries":'
_PIECE_BYTES_MAX: Final = 1 << 30

_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_header: Final = msgspec.json.Decoder(Header).decode
_decode_trailer: Final = msgspec.json.Decoder(Trailer).decode
_decode_fields: Final = msgspec.json.Decoder(list[tuple[bytes, bytes]]).decode
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class _Piece(msgspec.Struct):
    baseline: bytes


_decode_piece: Final = msgspec.json.Decoder(_Piece).decode


def encode_header(header: Header) -> bytes:
    """The first line."""
    return _encode(header) + b"\n"


def encode_entry(entry: StreamEntry) -> bytes:
    """The line of an entry with any fields."""
    entry_id, fields = entry
    if len(fields) == 2 and fields[0] == EVENT_FIELD and _is_plain(fields[1]):  # noqa: PLR2004  a name and its value
        return b'{"id":"%b","event":%b}\n' % (entry_id, fields[1])
    pairs = [(fields[index], fields[index + 1]) for index in range(0, len(fields), 2)]
    return b'{"id":"%b","base64":%b}\n' % (entry_id, _encode(pairs))


def _line_of(entry: StreamEntry) -> bytes:
    line = encode_entry(entry)
    if len(line) > MAX_LINE_BYTES:
        raise EntryTooLarge(
            f"entry {entry.id.decode()}: expected at most {MAX_LINE_BYTES} bytes as a line of the file, got {len(line)}"
        )
    return line


def decode_entry(line: bytes) -> StreamEntry:
    """The entry of a line that `encode_entry` made. Raises ValueError for any other line."""
    match = _ENTRY.match(line)
    if match is None:
        shape = '{"id":"…","event":{…}} or {"id":"…","base64":[[…]]}'
        message = f"expected {shape}, got {found_bytes(line)}"
        raise ValueError(message)
    entry_id, form, data = match.groups()
    if form == b"event":
        return StreamEntry(entry_id, (EVENT_FIELD, data))
    try:
        fields = _decode_fields(data)
    except ValueError as error:
        message = f"base64: expected pairs of a name and a value in base64, got {found_bytes(data)} ({error})"
        raise ValueError(message) from error
    return StreamEntry(entry_id, [item for pair in fields for item in pair])


class LogWriter:
    """Writes one file: the header at once, then the pieces of the baseline, then entries, then the trailer."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file: Final = file
        self._digest: Final = hashlib.sha256()
        self._entries = 0
        self._first: str | None = None
        self._last: str | None = None
        self._put(encode_header(header))

    @property
    def entries(self) -> int:
        """How many entries were written."""
        return self._entries

    def write_piece(self, data: bytes) -> None:
        """Write the next piece of the header's baseline."""
        self._put(_encode(_Piece(data)) + b"\n")

    def write(self, entries: Sequence[StreamEntry]) -> None:
        """Write entries that follow those written before. Raises EntryTooLarge."""
        if entries:
            self._put(b"".join(map(_line_of, entries)))
            self._entries += len(entries)
            self._first = self._first or entries[0].id.decode()
            self._last = entries[-1].id.decode()

    def finish(self, lost: int) -> Trailer:
        """Write the trailer."""
        trailer = Trailer(entries=self._entries, lost=lost, first=self._first, last=self._last, sha256="")
        line = _encode(trailer)
        before = line.removesuffix(b'"}')
        self._digest.update(before)
        digest = self._digest.hexdigest()
        self._file.write(before + digest.encode() + b'"}\n')
        return msgspec.structs.replace(trailer, sha256=digest)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class LogFile:
    """Reads one file and checks it: when `pages` has ended, what was read is what was exported.

    Use it as a context manager. Every method raises BrokenFile, and OSError if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.trailer: Trailer
        """Set when `pages` has ended."""
        self._digest: Final = hashlib.sha256()
        self._line = 1
        self._file: Final = open_compressed(path)
        try:
            self.header: Final = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pieces(self) -> Generator[bytes]:
        """The pieces of the baseline, if the header has one. Read all of them before the entries."""
        baseline = self.header.cut
        for _ in range(0 if baseline is None else baseline.pieces):
            self._line += 1
            line = b""
            try:
                line = self._file.readline(_PIECE_BYTES_MAX)
                data = _decode_piece(line).baseline
            except DECOMPRESSION_ERRORS as error:
                self._break(f"expected a piece of the baseline, got data that cannot be decompressed ({error})")
            except ValueError as error:
                self._break(f"expected a piece of the baseline, got {found_bytes(line)} ({error})")
            self._digest.update(line)
            yield data

    def pages(self) -> Generator[list[StreamEntry]]:
        """The entries in their order, many at a time."""
        entries, first, last = 0, None, b""
        last_key = (-1, 0)
        while lines := self._read_lines():
            trailer = lines.pop() if lines[-1].startswith(_TRAILER) else None
            self._digest.update(b"".join(lines))
            page: list[StreamEntry] = []
            for line in lines:
                self._line += 1
                entry = self._decode(line)
                entry_key = position_key(entry.id.decode())
                if entry_key <= last_key:
                    self._break(f"id: expected an id greater than {last.decode()}, got {entry.id.decode()}")
                last_key, last = entry_key, entry.id
                first = first or last
                page.append(entry)
            entries += len(page)
            if page:
                yield page
            if trailer is not None:
                self._line += 1
                counted = Trailer(entries=entries, lost=0, first=_text(first), last=_text(last), sha256="")
                return self._check_end(trailer, counted)
        self._break("expected a trailer with count and checksum, got the end of the file: the file is truncated")

    def _read_header(self) -> Header:
        try:
            line = self._file.readline(_HEADER_BYTES_MAX)
            header = _decode_header(line)
        except DECOMPRESSION_ERRORS as error:
            self._break(f"expected a header, got data that cannot be decompressed ({error})")
        except ValueError as error:
            self._break(f"expected the header of a file that kinfold export made, got something else ({error})")
        if header.kinfold != "log":
            self._break(f"kinfold: expected 'log', got {header.kinfold!r}")
        expected = VERSION if header.cut is None else BASELINE_VERSION
        if header.version != expected:
            self._break(f"version: expected {expected}, got {header.version}; a newer kinfold may read it")
        if header.cut is not None and header.cut.shape != SHAPE:
            self._break(f"baseline: expected shape {SHAPE}, got shape {header.cut.shape}; a newer kinfold may read it")
        self._digest.update(line)
        return header

    def _read_lines(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        try:
            while size < _BLOCK_BYTES and (line := self._file.readline(MAX_LINE_BYTES + 1)):
                if len(line) > MAX_LINE_BYTES:
                    self._line += len(lines) + 1
                    self._break(f"expected a line of at most {MAX_LINE_BYTES} bytes, got more")
                lines.append(line)
                size += len(line)
        except DECOMPRESSION_ERRORS as error:
            self._break(
                f"expected more lines, got data that cannot be decompressed ({error}): the file is damaged or truncated",
                after=True,
            )
        return lines

    def _decode(self, line: bytes) -> StreamEntry:
        try:
            return decode_entry(line)
        except ValueError as error:
            if line.endswith(b"\n"):
                self._break(str(error))
            self._break(f"expected a whole line, got {found_bytes(line)} without a line end: the file is truncated")

    def _check_end(self, line: bytes, counted: Trailer) -> None:
        try:
            trailer = _decode_trailer(line)
        except ValueError as error:
            self._break(f"expected a trailer, got one that is damaged or truncated ({error})")
        for field in ("entries", "first", "last"):
            got, expected = getattr(trailer, field), getattr(counted, field)
            if got != expected:
                self._break(f"{field}: expected {expected}, as counted in the lines before the trailer, got {got}")
        before, _, digest = line.partition(_DIGEST_FIELD)
        self._digest.update(before + _DIGEST_FIELD)
        computed = self._digest.hexdigest()
        if digest != computed.encode() + b'"}\n':
            self._break(f"sha256: expected {computed} for the bytes before it, got {trailer.sha256}: the file was changed")
        if self._read_lines():
            self._break("expected the end of the file, got more lines after the trailer", after=True)
        self.trailer = trailer

    def _break(self, what: str, *, after: bool = False) -> NoReturn:
        place = f"after line {self._line}" if after else f"line {self._line}"
        raise BrokenFile(f"{self.path}: {place}: {what}")


def _is_plain(data: bytes) -> bool:
    """Whether a line can hold the bytes unchanged: one JSON object in UTF-8, without control characters."""
    if data[:1] != b"{" or data[-1:] != b"}" or _CONTROL.search(data):
        return False
    try:
        if not data.isascii():
            data.decode()  # msgspec does not check what it skips
        _check_json(data)
    except (ValueError, RecursionError):
        return False
    return True


def _text(entry_id: bytes | None) -> str | None:
    return entry_id.decode() if entry_id else None
