"""Transactions on the directory's database, and what happens if it cannot be asked."""

from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy import event

from kinfold_services.directory import shapes, tables
from kinfold_services.directory.builds import current_build
from kinfold_services.directory.database import FILE, Database
from kinfold_services.directory.errors import DirectoryUnavailable, NoDirectory, QueryTookTooLong
from kinfold_services.settings import Settings, wrong_settings
from tests.support.directory_rows import AT, add_build, contact
from tests.support.engines import free_port

FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


def test_what_a_failed_transaction_wrote_is_rolled_back(database: Database) -> None:
    with suppress(ZeroDivisionError), database.writing() as connection:
        add_build(connection)
        raise ZeroDivisionError
    with database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.builds)) == 0


def test_a_reader_sees_one_state(database: Database, directory_settings: Settings) -> None:
    reader = Database(directory_settings, read_only=True)
    with database.writing() as connection:
        build = add_build(connection)
        connection.execute(tables.contacts.insert(), [contact(build, "ct_1")])
    with reader.reading() as connection:
        current_build(connection, "w")
        with database.writing() as writer:
            writer.execute(tables.contacts.delete())
        assert list(connection.scalars(sa.select(tables.contacts.c.id))) == ["ct_1"]
    with reader.reading() as connection:
        assert list(connection.scalars(sa.select(tables.contacts.c.id))) == []
    reader.close()


def test_a_file_that_is_created_while_it_is_looked_for_holds_no_directory_yet(tmp_path: Path) -> None:
    """A reader that waits for the first build must not be told that the database failed."""
    settings = Settings(data_dir=tmp_path)
    reader = Database(settings, read_only=True)

    @event.listens_for(reader.engine, "handle_error")
    def create(_: sa.engine.ExceptionContext) -> None:
        (tmp_path / FILE).touch()

    with pytest.raises(NoDirectory), reader.reading():
        pytest.fail("there is no file")
    reader.close()


def test_a_reader_cannot_write(database: Database, directory_settings: Settings) -> None:
    reader = Database(directory_settings, read_only=True)
    with pytest.raises(DirectoryUnavailable, match=r"read.?only"), reader.reading() as connection:
        add_build(connection)
    reader.close()
    with database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.builds)) == 0


@pytest.mark.usefixtures("database")
def test_a_query_that_takes_too_long_is_ended(directory_settings: Settings) -> None:
    reader = Database(directory_settings, read_only=True, read_timeout_s=0.05)
    for _ in range(2):  # the connection serves the next query
        with (
            pytest.raises(QueryTookTooLong, match=r"the query took longer than 0\.05 s; narrow it"),
            reader.reading() as connection,
        ):
            connection.exec_driver_sql(FOREVER)
    with reader.reading() as connection:
        assert connection.scalar(sa.select(sa.literal(1))) == 1
    reader.close()


def test_a_database_without_a_directory_says_so(directory_settings: Settings) -> None:
    reader = Database(directory_settings, read_only=True)
    with pytest.raises(NoDirectory, match="holds no directory yet"), reader.reading() as connection:
        current_build(connection, "w")
    reader.close()
    assert not (directory_settings.data_dir / "directory.db").exists()


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    settings = Settings(directory_url=f"postgresql://ada:secret@127.0.0.1:{free_port()}/kinfold")
    database = Database(settings)
    with pytest.raises(DirectoryUnavailable, match=r"127\.0\.0\.1") as caught, database.writing():
        pass
    assert "secret" not in str(caught.value)
    assert "ada" in str(caught.value)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    database = Database(Settings(data_dir=tmp_path / "new"))
    with database.writing() as connection:
        shapes.create_tables(connection)
    database.close()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_cleaning_fails_as_any_other_write_does(tmp_path: Path) -> None:
    """It does not pass through SQLAlchemy, whose errors are translated."""
    (tmp_path / FILE).write_bytes(b"this is no database " * 1000)
    database = Database(Settings(data_dir=tmp_path))
    with pytest.raises(DirectoryUnavailable, match="file is not a database"):
        database.clean()
    database.close()


def test_cleaning_reports_a_reader_that_keeps_it_from_emptying_the_log(tmp_path: Path) -> None:
    """Otherwise the log would keep what was erased, and the directory would take it for gone."""
    database, backup = Database(Settings(data_dir=tmp_path)), Database(Settings(data_dir=tmp_path), read_only=True)
    with database.writing() as connection:
        shapes.create_tables(connection)
    log = tmp_path / f"{FILE}-wal"
    with backup.reading() as connection:
        connection.execute(sa.select(tables.builds))
        with pytest.raises(DirectoryUnavailable, match="another process reads from it"):
            database.clean()
        assert log.stat().st_size > 0

    database.clean()

    assert log.stat().st_size == 0
    backup.close()
    database.close()


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres", "PostgreSQL"])
def test_a_url_of_postgresql_is_known_by_several_names(scheme: str) -> None:
    assert Settings(directory_url=f"{scheme}://u:p%40@h/d?sslmode=require").directory_url == (
        "postgresql+psycopg://u:p%40@h/d?sslmode=require"
    )


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "directory.db", "u:secret@h/d", "postgresql://u:secret@h:x/d"])
def test_another_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(directory_url=url)
    sentence = wrong_settings(caught.value)
    assert sentence.startswith("directory_url (KINFOLD_DIRECTORY_URL): expected a")
    assert "secret" not in sentence


def test_a_time_is_what_the_contract_writes(database: Database) -> None:
    with database.writing() as connection:
        add_build(connection)
        assert connection.scalar(sa.select(tables.builds.c.updated_at)) == AT
        later = tables.builds.c.updated_at > "2026-11-01T07:59:59.999Z"
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.builds).where(later)) == 1
