"""The directory's tables, for SQLite and PostgreSQL. `shapes.py` creates them, with the views.

Every table except `directory_builds` has the shape's number in its name and the build as its first column. A build is one
complete copy of one workspace's contacts. Readers ask the workspace's current build (`builds.current_build`), and nothing but
the views is a promise to others (docs/reference/directory.md).

A change of any table, or of what a column holds, is a new SHAPE. Then the directory builds itself again, beside the old tables.

Strings compare by code point, in every column and on both databases. On PostgreSQL, everything is in the schema `kinfold`.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from kinfold_schemas.times import to_ms, to_text

SHAPE: Final = 2
"""The version of the tables."""

POSTGRESQL_SCHEMA: Final = "kinfold"

PREFIX: Final = f"directory{SHAPE}_"
"""Of the names of all tables of this shape."""


class Time(sa.TypeDecorator[str]):
    """A time as the contract writes it: RFC 3339, UTC, milliseconds. PostgreSQL stores a `timestamptz`."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type in a database."""
        stored = postgresql.TIMESTAMP(timezone=True) if dialect.name == "postgresql" else sa.Text()
        return dialect.type_descriptor(stored)

    def process_result_value(self, value: str | datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The contract's string."""
        return to_text(to_ms(value.astimezone(UTC))) if isinstance(value, datetime) else value


def encode_json(value: object) -> str:
    """Encode a value of a JSON column. A `msgspec.Raw` is JSON already and stays as it is."""
    return msgspec.json.encode(value).decode()


decode_json: Final = msgspec.json.decode

_Text: Final = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_Number: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only an INTEGER can be SQLite's row id
_Document: Final = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

schema: Final = sa.MetaData()


def _table(name: str, *columns: sa.schema.SchemaItem, primary_key: str = "", **options: Any) -> sa.Table:
    """A table of this shape. With a primary key of several columns, the table is stored in its order (SQLite)."""
    build = sa.Column("build", sa.Integer, nullable=False)
    if not primary_key:
        return sa.Table(PREFIX + name, schema, columns[0], build, *columns[1:], **options)
    key = sa.PrimaryKeyConstraint("build", *primary_key.split())
    return sa.Table(PREFIX + name, schema, build, *columns, key, sqlite_with_rowid=False, **options)


def _index(table: sa.Table, *columns: Any, **options: Any) -> sa.Index:
    """An index over the build and some columns, in their order."""
    name = "_".join([table.name, *(column if isinstance(column, str) else column.element.name for column in columns)])
    expressions = [table.c[column] if isinstance(column, str) else column for column in columns]
    return sa.Index(name, table.c.build, *expressions, **options)


builds: Final = sa.Table(
    "directory_builds",
    schema,
    sa.Column("id", _Number, sa.Identity(), primary_key=True),
    sa.Column("workspace", _Text, nullable=False),
    sa.Column("shape", sa.Integer, nullable=False),
    sa.Column("state", _Text, nullable=False),
    sa.Column("position", _Text, nullable=False),
    sa.Column("contacts", sa.BigInteger, nullable=False),
    sa.Column("timeline_since", Time),
    sa.Column("updated_at", Time, nullable=False),
    sqlite_autoincrement=True,
)
"""One row for each build, of any shape. This table has the same columns in every version.

`state` is `building`, `current` or `old`. `position` is the feed entry that was applied last; `0-0` before the first.
`contacts` is the number of living contacts. The timeline is complete from `timeline_since` on, or from the beginning if that
is null. `updated_at` is when the row was written, by the clock of the program.
"""
sa.Index(
    "directory_builds_current",
    builds.c.workspace,
    builds.c.shape,
    unique=True,
    sqlite_where=builds.c.state == "current",
    postgresql_where=builds.c.state == "current",
)

contacts: Final = _table(
    "contacts",
    sa.Column("n", _Number, sa.Identity(), primary_key=True),
    sa.Column("id", _Text, nullable=False),
    sa.Column("external_id", _Text),
    sa.Column("email", _Text),
    sa.Column("email_key", _Text),
    sa.Column("name", _Text),
    sa.Column("name_key", _Text),
    sa.Column("image", _Text),
    sa.Column("metadata", _Document, nullable=False),
    sa.Column("visitor_count", sa.BigInteger, nullable=False),
    sa.Column("first_seen_at", Time, nullable=False),
    sa.Column("last_seen_at", Time, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("record", _Text, nullable=False),
    sa.Column("search_text", _Text, nullable=False),
    sa.Column("folded", _Document),
    sa.Column("sampled", sa.Boolean, nullable=False),
)
"""The living contacts.

`n` is the row's number, under which `search` knows it. `email_key` is the address as it is compared (contract section 2).
`name_key` is `index_text` of the name: the name itself up to 200 characters. `record` is the contact's JSON exactly as the feed
shows it. `search_text`, `folded` (`folded_strings`) and `sampled` are those of `kinfold_projections.directory`.
"""
_index(contacts, "id", unique=True)
for _sorted_by in (
    *("external_id", "email", "name_key", "visitor_count"),
    *("first_seen_at", "last_seen_at", "created_at", "updated_at"),
):
    _index(contacts, _sorted_by, "id")
_index(contacts, "email_key")
sa.Index(
    f"{PREFIX}contacts_sampled",
    contacts.c.build,
    contacts.c.sampled,  # the same in every row, but without it SQLite prefers other indexes
    contacts.c.id,
    contacts.c.search_text,  # to count those with a word without reading contacts
    sqlite_where=sa.text("sampled = 1"),  # as SQLAlchemy writes it in queries
).ddl_if(dialect="sqlite")
sa.Index(
    f"{PREFIX}contacts_sampled", contacts.c.build, contacts.c.sampled, contacts.c.id, postgresql_where=contacts.c.sampled
).ddl_if(dialect="postgresql")
# To count those with a word without reading contacts: SQLite adds `n` to each index.
sa.Index(f"{PREFIX}contacts_build", contacts.c.build).ddl_if(dialect="sqlite")
sa.Index(
    f"{PREFIX}contacts_metadata",
    contacts.c.metadata,
    postgresql_using="gin",
    postgresql_ops={"metadata": "jsonb_path_ops"},
).ddl_if(dialect="postgresql")
sa.Index(
    f"{PREFIX}contacts_search_text",
    contacts.c.search_text,
    postgresql_using="gin",
    postgresql_ops={"search_text": "gin_trgm_ops"},
).ddl_if(dialect="postgresql")
# PostgreSQL estimates from a histogram how many texts have a word, to choose between the index of words and a walk in the order
# of the sort. Its usual 100 values cannot tell a word of 200 among 100,000 texts from one of 2,000.
_COUNT_WORDS: Final = sa.DDL(f"ALTER TABLE {contacts.name} ALTER COLUMN search_text SET STATISTICS 1000")  # type: ignore[no-untyped-call]
event.listen(contacts, "after_create", _COUNT_WORDS.execute_if(dialect="postgresql"))

search: Final = sa.table(f"{PREFIX}search", sa.column("rowid", sa.Integer), sa.column("search_text", sa.Text))
"""SQLite's full-text index (FTS5, trigrams) of `contacts.search_text`; `rowid` is `contacts.n`.

`search.c.search_text.op("MATCH")('"ada"')` finds the contacts of all builds whose text contains `ada`. The index does not fold
text itself. It holds no text of its own: code that changes `contacts` removes the old text and adds the new (store.py).
"""
_CREATE_SEARCH: Final = sa.DDL(  # type: ignore[no-untyped-call]
    f"CREATE VIRTUAL TABLE {search.name} USING fts5(search_text, content='{contacts.name}', content_rowid='n', "
    "tokenize='trigram case_sensitive 1')"
)
event.listen(contacts, "after_create", _CREATE_SEARCH.execute_if(dialect="sqlite"))

trigrams: Final = sa.table("trigrams", sa.column("term", sa.Text), sa.column("doc", sa.Integer), schema="temp")
"""Each trigram of SQLite's full-text index, with `contacts.n`, in the order of the trigrams (fts5vocab)."""
CREATE_TRIGRAMS: Final = f"CREATE VIRTUAL TABLE temp.trigrams USING fts5vocab('main', '{search.name}', 'instance')"
"""For each connection: a reader may not create tables in the file."""

metadata: Final = _table(
    "metadata",
    sa.Column("key", _Text, nullable=False),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("text", _Text, nullable=False),
    sa.Column("contact_id", _Text, nullable=False),
    primary_key="key kind number text contact_id",
)
"""The metadata of the living contacts, for sorting and for finding rare values.

`kind`, `number` and `text` are those of `index_value`. `contacts.metadata` has the exact values.
"""

counts: Final = _table(
    "counts",
    sa.Column("key", _Text, nullable=False),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("text", _Text, nullable=False),
    sa.Column("contacts", sa.BigInteger, nullable=False),
    primary_key="key kind number text",
)
"""How many living contacts have a metadata value. A value that no contact has any more has no row."""
_index(counts, "key", counts.c.contacts.desc(), "kind", "number", "text")

visitors: Final = _table(
    "visitors",
    sa.Column("visitor_id", _Text, nullable=False),
    sa.Column("contact_id", _Text, nullable=False),
    sa.Column("since", Time, nullable=False),
    sa.Column("until", Time),
    primary_key="visitor_id since",
)
"""The links of visitors. A link without `until` lasts.

`contact_id` is the contact at that time, which may have been merged since. It is empty where a correction unlinked the visitor.
"""
_index(visitors, "contact_id", "since")

identifiers: Final = _table(
    "identifiers",
    sa.Column("kind", _Text, nullable=False),
    sa.Column("value_key", _Text, nullable=False),
    sa.Column("position_ms", sa.BigInteger, nullable=False),
    sa.Column("position_seq", sa.BigInteger, nullable=False),
    sa.Column("value", _Text, nullable=False),
    sa.Column("contact_id", _Text, nullable=False),
    sa.Column("held_by", _Text, nullable=False),
    sa.Column("merged_into", _Text),
    sa.Column("until", Time, nullable=False),
    sa.Column("cause", _Text, nullable=False),
    primary_key="kind value_key position_ms position_seq",
)
"""Identifiers that contacts had: `kind` is `contact_id` (of a merged contact), `email` or `external_id`.

`value_key` is the value as it is compared. `held_by` is the contact that had the identifier until then, and `contact_id` the
contact that this one has become: the living contact, across all merges. So the merged ids of a contact are the rows with its
`contact_id` and the kind `contact_id`; `merged_into` of such a row is the contact that it was merged into itself. The position
is that of the feed entry.
"""
_index(identifiers, "contact_id", "kind")

timeline: Final = _table(
    "timeline",
    sa.Column("position_ms", sa.BigInteger, nullable=False),
    sa.Column("position_seq", sa.BigInteger, nullable=False),
    sa.Column("contact_id", _Text, nullable=False),
    sa.Column("type", _Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("cause", _Text, nullable=False),
    sa.Column("rule", _Text, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    primary_key="position_ms position_seq",
)
"""One row for each entry of the feed, except `ContactSeen`. The position is that of the entry.

`contact_id` is the contact that the entry names, which may have been merged since.
"""
_index(timeline, "contact_id", "at", "position_ms", "position_seq")

conflicts: Final = _table(
    "conflicts",
    sa.Column("position_ms", sa.BigInteger, nullable=False),
    sa.Column("position_seq", sa.BigInteger, nullable=False),
    sa.Column("contact_id", _Text, nullable=False),
    sa.Column("email", _Text, nullable=False),
    sa.Column("email_key", _Text, nullable=False),
    sa.Column("held_by", _Text, nullable=False),
    sa.Column("reason", _Text),
    sa.Column("at", Time, nullable=False),
    sa.Column("settled_at", Time),
    primary_key="position_ms position_seq",
)
"""Identity conflicts: an event named an address for `contact_id` that `held_by` holds. Without `settled_at`, it is open."""
_open: Final = {"sqlite_where": conflicts.c.settled_at.is_(None), "postgresql_where": conflicts.c.settled_at.is_(None)}
_index(conflicts, "contact_id", **_open)
_index(conflicts, "held_by", **_open)
_index(conflicts, "at", "position_ms", "position_seq")
