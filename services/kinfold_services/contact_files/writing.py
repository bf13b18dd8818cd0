"""Writes contacts as CSV and Parquet, one column for each metadata key.

The keys, and the kinds of their values, are known only when the last contact was seen. So contacts wait in a file, and memory
stays flat at any number of them.
"""

import csv
import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, Any, Final

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact
from kinfold_schemas.times import text_ms
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.columns import METADATA
from kinfold_services.contact_files.formulas import escape

_FIELDS: Final = (
    *("id", "external_id", "email", "name", "image", "visitor_count"),
    *("first_seen_at", "last_seen_at", "created_at", "updated_at", "version"),
)
"""The fields of a contact in CSV. `metadataHash` and `visitorIds` are for programs, which read JSON or Parquet."""
_PARQUET_FIELDS: Final = (*_FIELDS, "metadata_hash", "visitor_ids")
_HEADINGS: Final = dict(zip(Contact.__struct_fields__, Contact.__struct_encode_fields__, strict=True))
_LINES: Final = 1000
_GROUP_CELLS: Final = 2_000_000
"""How many cells a row group of Parquet has, because it is kept in memory."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Contact).decode


class WaitingContacts:
    """Contacts in a file, in the order in which they came, and what their metadata keys hold."""

    def __init__(self, file: IO[bytes]) -> None:
        self.kinds: Final[dict[str, set[type]]] = {}
        """For each key the Python types of its values: `str`, `int`, `float`, `bool`; none for a key that is always null."""
        self.count = 0
        self._file: Final = file

    def add(self, contact: Contact) -> None:
        """Add a contact. Raises OSError where the disk is full."""
        self.count += 1
        for key, value in contact.metadata.items():
            kinds = self.kinds.setdefault(key, set())
            if value is not None:
                kinds.add(type(value))
        self._file.write(_encode(contact) + b"\n")

    def __iter__(self) -> Iterator[Contact]:
        """The contacts, from the first one."""
        self._file.seek(0)
        yield from map(_decode, self._file)


# --- CSV ----------------------------------------------------------------------------------------------------------------


def csv_pages(contacts: WaitingContacts) -> Iterator[bytes]:
    """CSV in UTF-8, some lines at a time, with the keys of the metadata in order.

    CSV has no types: null is an empty cell, like a key that is missing, and the text `1` looks like the number. A text that a
    spreadsheet would run as a formula gets an apostrophe (`formulas`).
    """
    keys = sorted(contacts.kinds)
    page = io.StringIO()
    lines = csv.writer(page, lineterminator="\n")
    lines.writerow([_HEADINGS[field] for field in _FIELDS] + [f"{METADATA}{key}" for key in keys])
    rows = iter(contacts)
    while True:
        yield page.getvalue().encode()
        page.seek(0)
        page.truncate()
        for contact in islice(rows, _LINES):
            get = contact.metadata.get
            lines.writerow([_cell(getattr(contact, field)) for field in _FIELDS] + [_cell(get(key)) for key in keys])
        if not page.tell():
            return


def _cell(value: Primitive) -> str:
    if value is None:
        return ""
    return escape(value) if isinstance(value, str) else _encode(value).decode()


# --- Parquet ------------------------------------------------------------------------------------------------------------


def mixed_keys(contacts: WaitingContacts) -> list[str]:
    """The keys with values of several kinds, which Parquet has no column for: it gets text."""
    return sorted(key for key, kinds in contacts.kinds.items() if len(kinds) > 1 and kinds != {int, float})


def write_parquet(contacts: WaitingContacts, file: IO[bytes]) -> None:
    """Write Parquet: times as times in UTC, and each metadata key with its own type. Raises NoPyarrow and OSError.

    Values of a key that has several kinds are text: a string as it is, and any other as JSON.
    """
    arrow = load_arrow()
    mixed = set(mixed_keys(contacts))
    columns: list[tuple[str, Any, Callable[[Contact], object]]] = [
        (_HEADINGS[field], _field_type(arrow, field), _field_reader(field)) for field in _PARQUET_FIELDS
    ]
    columns += [
        (f"{METADATA}{key}", _key_type(arrow, kinds), _text_reader(key) if key in mixed else _key_reader(key))
        for key, kinds in sorted(contacts.kinds.items())
    ]
    schema = arrow.schema([(name, kind) for name, kind, _ in columns])
    rows = iter(contacts)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        while page := list(islice(rows, max(1, _GROUP_CELLS // len(columns)))):
            cells = [arrow.array([read(contact) for contact in page], kind) for _, kind, read in columns]
            writer.write_table(arrow.Table.from_arrays(cells, schema=schema))


def _field_type(arrow: Any, field: str) -> Any:
    if field.endswith("_at"):
        return arrow.timestamp("ms", "UTC")
    if field in {"visitor_count", "version"}:
        return arrow.int64()
    return arrow.list_(arrow.string()) if field == "visitor_ids" else arrow.string()


def _field_reader(field: str) -> Callable[[Contact], object]:
    if field.endswith("_at"):
        return lambda contact: text_ms(getattr(contact, field))
    return lambda contact: getattr(contact, field)


def _key_type(arrow: Any, kinds: set[type]) -> Any:
    if kinds == {bool}:
        return arrow.bool_()
    if kinds == {int}:
        return arrow.int64()
    return arrow.float64() if kinds and kinds <= {int, float} else arrow.string()


def _key_reader(key: str) -> Callable[[Contact], object]:
    return lambda contact: contact.metadata.get(key)


def _text_reader(key: str) -> Callable[[Contact], object]:
    def read(contact: Contact) -> str | None:
        value = contact.metadata.get(key)
        return value if value is None or isinstance(value, str) else _encode(value).decode()

    return read
