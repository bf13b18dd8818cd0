"""Both databases of the directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kinfold_services.directory.database import Database
from kinfold_services.directory.shapes import create_tables
from kinfold_services.settings import Settings
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def directory_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Give the settings of an empty database, on each kind of server."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Settings(data_dir=tmp_path / "data #1?", directory_url=url)


@pytest.fixture(scope="session")
def shared_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Give the URL of a PostgreSQL database that several tests use."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def database(directory_settings: Settings) -> Iterator[Database]:
    """Give a database with the tables."""
    database = Database(directory_settings)
    with database.writing() as connection:
        create_tables(connection)
    yield database
    database.close()
