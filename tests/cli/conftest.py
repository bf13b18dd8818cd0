"""A `kinfold up --detach` for all tests of the command line, and a workspace of each test's own in it."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import redis as redis_py

from kinfold_schemas.keys import WORKSPACES
from kinfold_services.embedded import running_url
from tests.support.command_line import Kinfold

_NUMBERS: Final = count()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the data dir of a kinfold that runs; there are spaces in its path, as there are on many a desktop."""
    data_dir = tmp_path_factory.mktemp("up") / "my own data"
    kinfold = Kinfold("--data-dir", data_dir)
    started = kinfold.run_apart("up", "--detach")
    assert started.status == 0, started
    yield data_dir
    assert kinfold.run("down").status == 0


@pytest.fixture
def log(house: Path) -> Iterator[redis_py.Redis]:
    """Give a client of its server."""
    url = running_url(house)
    assert url is not None
    with redis_py.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def workspace() -> str:
    """Give a name that no other test has: they share the server, and nobody empties it."""
    return f"cli-{next(_NUMBERS)}"


@pytest.fixture
def kinfold(house: Path, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program, on a workspace that is served and empty."""
    log.sadd(WORKSPACES, workspace)
    return Kinfold("--data-dir", house, "--workspace", workspace)
