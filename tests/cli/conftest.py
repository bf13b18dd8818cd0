"""One `kinfold up --detach` for all tests of the command line; every test has a workspace of its own."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import redis as redis_py

from kinfold_schemas.keys import WORKSPACES
from kinfold_services.server.embedded import running_url
from tests.support.command_line import Kinfold

_NUMBERS: Final = count()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the data dir of a running kinfold. Its path contains spaces, as on many desktops."""
    data_dir = tmp_path_factory.mktemp("up") / "my own data"
    kinfold = Kinfold("--data-dir", data_dir)
    started = kinfold.run_apart("up", "--detach")
    assert started.status == 0, started
    yield data_dir
    assert kinfold.run("down").status == 0


@pytest.fixture
def log(house: Path) -> Iterator[redis_py.Redis]:
    """Give a client of the server of `house`."""
    url = running_url(house)
    assert url is not None
    with redis_py.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def workspace() -> str:
    """Give a workspace name that no other test uses: the tests share the server, and no test empties it."""
    return f"cli-{next(_NUMBERS)}"


@pytest.fixture
def kinfold(house: Path, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program, with a workspace that is served and empty."""
    log.sadd(WORKSPACES, workspace)
    return Kinfold("--data-dir", house, "--workspace", workspace)
