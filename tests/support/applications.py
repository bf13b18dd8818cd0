"""Applications with our npm packages. `tests/browser/react_app` is built once for all workers of a test run."""

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

_SOURCES: Final = Path(__file__).parents[1] / "browser"
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


def install(name: str, directory: Path) -> None:
    """Copy an application of `tests/browser` into a directory, and install its packages. Raises NoNode."""
    shutil.copytree(_SOURCES / name, directory, dirs_exist_ok=True)
    web.build_packages()
    for package in web.PACKAGES:
        web.npm_pack(web.CLIENTS / package, directory)
    web.npm_install(directory)


def build(directory: Path, *command: str, **env: str) -> None:
    """Run the program of an installed package that builds an application."""
    program, *arguments = command
    whole: list[Path | str] = [directory / "node_modules/.bin" / program, *arguments]
    done = subprocess.run(whole, cwd=directory, env={**web.environment(), **env}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _build(directory: Path) -> None:
    install("react_app", directory)
    for version in REACT_VERSIONS:  # one as developers run it: StrictMode renders and runs effects twice there alone
        build(directory, "vite", "build", REACT=version, NODE_ENV="development" if version == "18" else "production")
        build(directory, "vite", "build", "--ssr", REACT=version)


def rendered(built: Path, version: str, props: str) -> str:
    """The HTML that React renders on a server, for props as JSON."""
    return node(built / f"react-{version}/server.js", props)
