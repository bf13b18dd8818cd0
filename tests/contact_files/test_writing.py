"""Contacts as CSV and Parquet: one column for each metadata key."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from kinfold_schemas.canonical import Primitive, metadata_hash
from kinfold_schemas.contacts import Contact
from kinfold_services.contact_files import writing
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.writing import WaitingContacts, csv_pages, mixed_keys, write_parquet

pa: Final = load_arrow()
AT: Final = "2026-11-22T08:00:00.123Z"


def contact(number: int, name: str | None = None, **metadata: Primitive) -> Contact:
    """A contact that was seen at AT."""
    return Contact(
        id=f"ct_{number}",
        external_id=f"u-{number}",
        email=None,
        name=name,
        image=None,
        metadata=metadata,
        metadata_hash=metadata_hash(metadata),
        visitor_count=2,
        visitor_ids=["v-2", "v-1"],
        first_seen_at=AT,
        last_seen_at=AT,
        created_at=AT,
        updated_at=AT,
        version=number,
    )


def waiting(contacts: Iterable[Contact]) -> WaitingContacts:
    """The contacts, ready to be written."""
    kept = WaitingContacts(io.BytesIO())
    for each in contacts:
        kept.add(each)
    return kept


def csv_rows(*contacts: Contact) -> list[dict[str, str]]:
    """The CSV of contacts, read again."""
    text = b"".join(csv_pages(waiting(contacts))).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def parquet_table(tmp_path: Path, *contacts: Contact) -> Any:
    """The Parquet of contacts, read again."""
    with (tmp_path / "contacts.parquet").open("wb") as file:
        write_parquet(waiting(contacts), file)
    return pa.parquet.read_table(tmp_path / "contacts.parquet")


def test_csv_has_a_column_for_each_key_of_any_contact() -> None:
    one, two = csv_rows(contact(1, "Ada", plan="pro", mrr=99.5), contact(2, seats=5, trial=True, note=None))

    assert one == {
        "id": "ct_1",
        "externalId": "u-1",
        "email": "",
        "name": "Ada",
        "image": "",
        "visitorCount": "2",
        "firstSeenAt": AT,
        "lastSeenAt": AT,
        "createdAt": AT,
        "updatedAt": AT,
        "version": "1",
        "metadata.mrr": "99.5",
        "metadata.note": "",
        "metadata.plan": "pro",
        "metadata.seats": "",
        "metadata.trial": "",
    }
    assert {key: value for key, value in two.items() if key.startswith("metadata.") and value} == {
        "metadata.seats": "5",
        "metadata.trial": "true",
    }


def test_csv_cell_that_would_run_as_a_formula_is_escaped() -> None:
    """Names come from strangers. A telephone number and a negative number stay as they are."""
    (row,) = csv_rows(contact(1, '=HYPERLINK("https://example.org")', phone="+49 30 1", debt=-5, cell="@A1", lines="a\r\nb,c"))

    assert row["name"] == '\'=HYPERLINK("https://example.org")'
    assert [row[f"metadata.{key}"] for key in ("phone", "debt", "cell", "lines")] == ["+49 30 1", "-5", "'@A1", "a\r\nb,c"]


def test_csv_of_many_contacts_has_every_one_in_order() -> None:
    """More than one page of lines."""
    rows = csv_rows(*(contact(number) for number in range(2500)))

    assert [row["id"] for row in rows] == [f"ct_{number}" for number in range(2500)]


def test_csv_of_no_contacts_has_the_headings() -> None:
    assert b"".join(csv_pages(waiting([]))).startswith(b"id,externalId,email,")


def test_parquet_has_types(tmp_path: Path) -> None:
    """Times are times, and a metadata key has the type of its values."""
    table = parquet_table(
        tmp_path,
        contact(1, "Ada", plan="pro", mrr=99.5, seats=5, trial=True, never=None),
        contact(2, mrr=99, seats=None),
    )

    assert [str(table.schema.field(f"metadata.{key}").type) for key in ("plan", "mrr", "seats", "trial", "never")] == [
        *("string", "double", "int64", "bool", "string")
    ]
    assert str(table.schema.field("lastSeenAt").type) == "timestamp[ms, tz=UTC]"
    one, two = table.to_pylist()
    assert one["lastSeenAt"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == AT
    assert (one["name"], one["visitorIds"], one["visitorCount"], one["version"]) == ("Ada", ["v-2", "v-1"], 2, 1)
    assert [two[f"metadata.{key}"] for key in ("plan", "mrr", "seats", "trial")] == [None, 99.0, None, None]


def test_parquet_writes_a_key_of_several_types_as_text(tmp_path: Path) -> None:
    contacts = [contact(1, seats=5), contact(2, seats="unlimited"), contact(3, seats=True), contact(4)]

    table = parquet_table(tmp_path, *contacts)

    assert table["metadata.seats"].to_pylist() == ["5", "unlimited", "true", None]
    assert mixed_keys(waiting(contacts)) == ["seats"]


def test_parquet_of_many_contacts_has_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory stays flat."""
    monkeypatch.setattr(writing, "_GROUP_CELLS", 140)

    table = parquet_table(tmp_path, *(contact(number, plan="pro") for number in range(95)))

    assert table["id"].to_pylist() == [f"ct_{number}" for number in range(95)]
    assert pa.parquet.ParquetFile(tmp_path / "contacts.parquet").num_row_groups == 10


@pytest.mark.parametrize("contacts", [[], [contact(1)]])
def test_parquet_is_written_without_metadata(tmp_path: Path, contacts: list[Contact]) -> None:
    assert parquet_table(tmp_path, *contacts).num_rows == len(contacts)
