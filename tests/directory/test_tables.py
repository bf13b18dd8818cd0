"""The directory's tables and views, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from kinfold_services.directory import shapes, tables
from kinfold_services.directory.builds import Build, current_build
from kinfold_services.directory.database import Database
from kinfold_services.directory.errors import NoDirectory
from kinfold_services.settings import Settings
from tests.support.directory_rows import AT, LATER, add_build, contact, merged, timeline_row

SORTED_BY = ["external_id", "email", "name_key", "visitor_count", "first_seen_at", "last_seen_at", "created_at", "updated_at"]


def rows(connection: sa.Connection, query: str, **values: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sa.text(query), values)]


def plan(connection: sa.Connection, query: sa.Select[Any]) -> str:
    compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    if explain == "EXPLAIN":  # tables without rows are always scanned otherwise
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {compiled}".replace("%", "%%")))


def test_what_was_written_is_read_again(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection)
        written = contact(
            build,
            "ct_1",
            email="Ada@example.org",
            metadata={"plan": "pro", "mrr": 1.5, "x": None},
            last_seen_at=LATER,
            sampled=True,
        )
        connection.execute(tables.contacts.insert(), [written])
    with database.reading() as connection:
        (row,) = connection.execute(sa.select(tables.contacts)).mappings()
    assert {name: row[name] for name in written} == written


def test_encoded_json_is_stored_as_it_is(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection)
        connection.execute(tables.contacts.insert(), [contact(build, "ct_1", metadata=msgspec.Raw(b'{"a":true}'))])
        details = msgspec.Raw(b'{"changed":[{"field":"metadata.n","after":1e308}]}')
        connection.execute(tables.timeline.insert(), [timeline_row(build, 1, "ct_1", details=details)])
    with database.reading() as connection:
        assert connection.scalar(sa.select(tables.contacts.c.metadata)) == {"a": True}
        assert connection.scalar(sa.select(tables.timeline.c.details)) == {"changed": [{"field": "metadata.n", "after": 1e308}]}


def test_strings_sort_by_code_point(database: Database) -> None:
    names = ["a", "B", "é", "e\u0301", "Z", "\U0001f600", "\uff5a", "a b", "ab", "a-b", "_"]
    with database.writing() as connection:
        build = add_build(connection)
        connection.execute(tables.contacts.insert(), [contact(build, f"ct_{n}", name_key=name) for n, name in enumerate(names)])
    with database.reading() as connection:
        assert list(connection.scalars(sa.select(tables.contacts.c.name_key).order_by("name_key"))) == sorted(names)


@pytest.mark.parametrize("field", SORTED_BY)
@pytest.mark.parametrize("descending", [False, True])
def test_a_sort_walks_an_index(database: Database, field: str, *, descending: bool) -> None:
    keys = [tables.contacts.c[field], tables.contacts.c.id]
    query = sa.select(tables.contacts.c.record).where(tables.contacts.c.build == 1)
    query = query.order_by(*(key.desc() if descending else key for key in keys)).limit(50)
    with database.writing() as connection:
        shown = plan(connection, query)
    assert f"contacts_{field}" in shown
    assert "sort" not in shown.lower()
    assert "TEMP B-TREE" not in shown


def test_the_sample_has_an_index(database: Database) -> None:
    query = (
        sa.select(sa.func.count()).select_from(tables.contacts).where(tables.contacts.c.build == 1, tables.contacts.c.sampled)
    )
    with database.writing() as connection:
        assert "contacts_sampled" in plan(connection, query)


def test_long_identifiers_and_names_fit_the_indexes(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection)
        wide = [chr(0x10000 + n) for n in range(320)]
        long = {
            "external_id": "".join(wide[:255]),
            "email": "".join(wide),
            "email_key": "".join(wide),
            "name": "".join(wide) * 25,
        }
        connection.execute(tables.contacts.insert(), [contact(build, "ct_1", name_key="".join(wide[:217]), **long)])
        value = {"key": "".join(wide[:128]), "kind": 3, "number": 0.0, "text": "".join(wide[:217])}
        connection.execute(tables.metadata.insert(), [{"build": build, **value, "contact_id": "ct_1"}])
        connection.execute(tables.counts.insert(), [{"build": build, **value, "contacts": 1}])


def test_part_of_a_text_is_found_through_the_text_index(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection)
        texts = ["ada lovelace\nada@example.org", "grace hopper", "adam"]
        connection.execute(
            tables.contacts.insert(), [contact(build, f"ct_{n}", n=n, search_text=text) for n, text in enumerate(texts)]
        )
        if connection.dialect.name == "sqlite":
            added = sa.select(tables.contacts.c.n, tables.contacts.c.search_text)
            connection.execute(sa.insert(tables.search).from_select(["rowid", "search_text"], added))
            query = sa.select(tables.search.c.rowid).where(tables.search.c.search_text.op("MATCH")('"ada"')).order_by("rowid")
            assert list(connection.scalars(query)) == [0, 2]
        else:
            query = sa.select(tables.contacts.c.n).where(tables.contacts.c.search_text.contains("ada")).order_by("n")
            assert list(connection.scalars(query)) == [0, 2]
            assert "contacts_search_text" in plan(connection, query)


def test_json_has_an_index_on_postgresql_alone(database: Database) -> None:
    with database.writing() as connection:
        if connection.dialect.name == "sqlite":
            names = {index["name"] for index in sa.inspect(connection).get_indexes(tables.contacts.name)}
            assert not names & {f"{tables.contacts.name}_metadata", f"{tables.contacts.name}_search_text"}
            return
        condition = tables.contacts.c.metadata.op("@>")(sa.text("""'{"plan": "pro"}'::jsonb"""))
        query = sa.select(tables.contacts.c.n).where(condition)
        assert "contacts_metadata" in plan(connection, query)


def test_a_workspace_has_one_current_build_of_a_shape(database: Database) -> None:
    with database.writing() as connection:
        for state in ("current", "building", "building", "old"):
            add_build(connection, state=state)
        add_build(connection, shape=tables.SHAPE + 1)
        add_build(connection, "another")
    with pytest.raises(exc.IntegrityError), database.engine.begin() as connection:
        add_build(connection)


def test_a_build_id_is_never_used_again(database: Database) -> None:
    with database.writing() as connection:
        first = add_build(connection)
        connection.execute(tables.builds.delete())
        assert add_build(connection) > first


def test_readers_get_the_current_build(database: Database) -> None:
    with database.writing() as connection:
        add_build(connection, state="old")
        build = add_build(connection)
        add_build(connection, state="building")
        add_build(connection, "another", state="building")
        add_build(connection, "third", shape=tables.SHAPE + 1)
    with database.reading() as connection:
        assert current_build(connection, "w") == Build(build, "7-1", 2, None)
        for workspace in ("another", "third", "unknown"):
            with pytest.raises(NoDirectory, match=f"workspace {workspace} has no directory"):
                current_build(connection, workspace)


def test_views_show_the_current_builds_of_all_workspaces(database: Database) -> None:
    with database.writing() as connection:
        old, one, other = add_build(connection, state="old"), add_build(connection), add_build(connection, "other")
        added = [contact(old, "ct_0"), contact(one, "ct_1", metadata={"plan": "pro"}), contact(other, "ct_1")]
        connection.execute(tables.contacts.insert(), added)
    with database.reading() as connection:
        assert rows(connection, "SELECT workspace, id FROM contacts ORDER BY workspace") == [("other", "ct_1"), ("w", "ct_1")]
        pro = rows(connection, "SELECT workspace FROM contacts WHERE metadata ->> 'plan' = 'pro'")
        assert pro == [("w",)]


def test_views_show_what_merged_contacts_had_as_the_living_contacts(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection)
        connection.execute(tables.identifiers.insert(), [merged(build, "ct_2", "ct_1"), merged(build, "ct_3", "ct_1")])
        entries = [timeline_row(build, n, f"ct_{n}") for n in (1, 2, 3, 4)]
        connection.execute(tables.timeline.insert(), entries)
        links = [("v-1", "ct_1"), ("v-2", "ct_2"), ("v-4", "ct_4")]
        since = {"build": build, "since": AT, "until": None}
        connection.execute(tables.visitors.insert(), [{**since, "visitor_id": v, "contact_id": c} for v, c in links])
    with database.reading() as connection:
        timeline = "SELECT contact_id, original_contact_id, position FROM contact_timeline ORDER BY position_ms, position_seq"
        assert rows(connection, timeline) == [
            ("ct_1", "ct_1", "7-1"),
            ("ct_1", "ct_2", "7-2"),
            ("ct_1", "ct_3", "7-3"),
            ("ct_4", "ct_4", "7-4"),
        ]
        visitors = "SELECT visitor_id FROM contact_visitors WHERE contact_id = :id ORDER BY visitor_id"
        assert rows(connection, visitors, id="ct_1") == [("v-1",), ("v-2",)]
        former = "SELECT workspace, kind, value FROM contact_identifiers WHERE contact_id = :id ORDER BY value"
        assert rows(connection, former, id="ct_1") == [("w", "contact_id", "ct_2"), ("w", "contact_id", "ct_3")]


def test_the_timeline_view_finds_a_contact_by_indexes(database: Database) -> None:
    query = sa.select(sa.text("at")).select_from(sa.text("contact_timeline")).where(sa.text("contact_id = 'ct_1'"))
    with database.writing() as connection:
        shown = plan(connection, query)
    assert "timeline_contact_id" in shown
    assert "identifiers_contact_id" in shown


def test_conflicts_have_a_view(database: Database) -> None:
    with database.writing() as connection:
        conflict = {
            "build": add_build(connection),
            "position_ms": 9,
            "position_seq": 2,
            "contact_id": "ct_1",
            "held_by": "ct_2",
            "email": "A@example.org",
            "email_key": "a@example.org",
            "reason": None,
            "at": AT,
            "settled_at": None,
        }
        connection.execute(tables.conflicts.insert(), [conflict])
    with database.reading() as connection:
        found = rows(
            connection, "SELECT workspace, contact_id, email, held_by, reason, settled_at, position FROM identity_conflicts"
        )
    assert found == [("w", "ct_1", "A@example.org", "ct_2", None, None, "9-2")]


def test_tables_that_exist_are_left_alone(database: Database) -> None:
    with database.writing() as connection:
        add_build(connection)
    with database.writing() as connection:
        shapes.create_tables(connection)
    with database.reading() as connection:
        current_build(connection, "w")


def test_tables_are_created_once_by_several_at_once(directory_settings: Settings) -> None:
    databases = [Database(directory_settings) for _ in range(4)]

    def create(database: Database) -> None:
        with database.writing() as connection:
            shapes.create_tables(connection)
        database.close()

    with ThreadPoolExecutor(len(databases)) as threads:
        list(threads.map(create, databases))


def test_views_of_another_shape_stay_while_it_has_a_current_build(database: Database) -> None:
    with database.writing() as connection:
        build = add_build(connection, shape=tables.SHAPE + 1)
        connection.exec_driver_sql("DROP VIEW contacts")
        connection.exec_driver_sql("CREATE VIEW contacts AS SELECT 'other' AS shape")
        shapes.create_tables(connection)
        assert rows(connection, "SELECT * FROM contacts") == [("other",)]
        connection.execute(tables.builds.update().where(tables.builds.c.id == build).values(state="old"))
        if connection.dialect.name == "postgresql":  # it replaces a view only by one with the same columns, and more
            connection.exec_driver_sql("DROP VIEW contacts")
        shapes.create_tables(connection)
        assert rows(connection, "SELECT id FROM contacts") == []
