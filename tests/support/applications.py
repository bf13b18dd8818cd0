"""Pages that npm and Vite build from `tests/browser/react_app`, once for all workers of a test run."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.node import need_node, node
from tools import web

REACT_VERSIONS: Final = ("18", "19")

_SOURCE: Final = Path(__file__).parents[1] / "browser/react_app"
_BUILT: Final = ".built"


def applications(temporary: pytest.TempPathFactory) -> Path:
    """Return the directory of the built applications. Skips the test if Node or an npm package is missing."""
    need_node()
    directory = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # the workers of a run share it
    directory /= "applications"
    directory.mkdir(exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / _BUILT).exists():
            try:
                _build(directory)
            except web.NoNode as error:
                pytest.skip(str(error))
            (directory / _BUILT).touch()
    return directory / "dist"


def _build(directory: Path) -> None:
    shutil.copytree(_SOURCE, directory, dirs_exist_ok=True)
    web.build_packages()
    for name in web.PACKAGES:
        web.npm_pack(web.CLIENTS / name, directory)
    web.npm_install(directory)
    for version in REACT_VERSIONS:
        for option in ((), ("--ssr",)):
            command = [directory / "node_modules/.bin/vite", "build", *option]
            env = {**web.environment(), "REACT": version}
            done = subprocess.run(command, cwd=directory, env=env, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def rendered(built: Path, version: str, props: str) -> str:
    """The HTML that React renders on a server, for props as JSON."""
    return node(built / f"react-{version}/server.js", props)
