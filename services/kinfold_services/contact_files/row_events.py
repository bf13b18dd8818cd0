"""Makes an event of each row: a `VisitorIdentified` whose id is a hash of what it says (contract sections 2 and 3)."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.codec import why_rejected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.rejections import Rejection
from kinfold_services.contact_files.cells import Convert, Kind, WrongCell, parquet_text
from kinfold_services.contact_files.columns import Columns, WrongColumns
from kinfold_services.contact_files.tables import Table

_encode: Final = msgspec.json.Encoder().encode
_ID_CHARS: Final = 32
"""128 bits of SHA-256: two of a billion rows have one id with a chance of 1 in 10^21."""
_is_date: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch


class RowEvent(NamedTuple):
    """A row, its number, and the event that it makes or the reason for which it is refused."""

    number: int
    event: bytes
    rejection: Rejection | None


class RowEvents:
    """Makes events of the rows of a table.

    `kinds` are the kinds of metadata keys that somebody chose. `at` is when the values were true, as RFC 3339, unless a row has
    a time of its own.
    Raises WrongColumns if a kind is for a key that no column fills, or if a column cannot be metadata.
    """

    def __init__(self, table: Table, columns: Columns, kinds: Mapping[str, Kind], at: str, rules: IdentifierRules) -> None:
        self._table: Final = table
        self._rules: Final = rules
        self._width: Final = columns.width
        self.at: Final = at
        text = table.kinds["string"]
        self._fields: Final = [
            (each.number, each.field, _time if each.field == "at" else text) for each in columns.used if each.key is None
        ]
        self._metadata: Final[list[tuple[int, str, str, Convert]]] = [
            (each.number, each.field, key, table.kinds[kinds.get(key)])
            for each in columns.used
            if (key := each.key) is not None
        ]
        if unknown := kinds.keys() - {key for _, _, key, _ in self._metadata}:
            raise WrongColumns(
                f"--as: expected a metadata key that a column fills, got {', '.join(map(repr, sorted(unknown)))}"
            )
        for each in columns.used:
            if each.number in table.unsupported:
                raise WrongColumns(
                    f"column {each.heading!r}: expected strings, numbers, booleans or times, "
                    f"got {table.unsupported[each.number]}; --only-mapped leaves out the columns that you do not name"
                )

    def __iter__(self) -> Iterator[RowEvent]:
        """The events, with whether the fold would take them in any state (contract section 7)."""
        for number, cells in self._table.rows():
            event = self._event(cells)
            rejection = event if isinstance(event, Rejection) else why_rejected(event, self._rules)
            yield RowEvent(number, b"" if isinstance(event, Rejection) else event, rejection)

    def _event(self, cells: Sequence[Any]) -> bytes | Rejection:
        if len(cells) != self._width:
            return Rejection("invalid", "row", f"{self._width} cells, one for each heading", f"{len(cells)} cells")
        event: dict[str, object] = {"type": "VisitorIdentified", "at": self.at}
        metadata: dict[str, Primitive] = {}
        field = ""
        try:
            for number, field, convert in self._fields:
                if (value := convert(cells[number])) is not None:
                    event[field] = value
            for number, field, key, convert in self._metadata:  # noqa: B007  an error names the field
                if (value := convert(cells[number])) is not None:
                    metadata[key] = value
        except WrongCell as error:
            return Rejection("invalid", field, error.expected, error.got)
        if metadata:
            event["metadata"] = metadata
        data = _encode(event)
        return b'{"id":"row-%b",%b' % (hashlib.sha256(data).hexdigest()[:_ID_CHARS].encode(), data[1:])


def _time(cell: object) -> str | None:
    """The time of a row: RFC 3339, or a date, which stands for its first instant in UTC."""
    text = (parquet_text(cell) or "").strip()
    return f"{text}T00:00:00Z" if _is_date(text) else text or None
