"""Node and npm for tests, as `make web` uses them."""

import functools
import subprocess
from pathlib import Path

import pytest

from tools import web


@functools.cache
def missing_node() -> str | None:
    """Why there is no Node, or nothing that npm installs; None if everything is there."""
    try:
        web.install()
    except web.NoNode as error:
        return str(error)
    return None


def need_node() -> None:
    """Skip the test if Node or an npm package is missing."""
    if (reason := missing_node()) is not None:
        pytest.skip(reason)


def node(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run Node to its end; returns what it prints."""
    command = ["node", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=web.environment(), check=True, capture_output=True, text=True).stdout
