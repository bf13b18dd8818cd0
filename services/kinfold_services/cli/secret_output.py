"""Keys and secrets are shown on terminals only. Anywhere else they would stay in a log: there they go into a file."""

import os
import sys
from pathlib import Path
from typing import IO, Final

from kinfold_services.cli.output import say
from kinfold_services.server.data_dir import make_data_dir, using_data_dir

KEYS: Final = "keys"
"""The directory of the files, in the data dir."""


def shown_or_written(secret: str, field: str, name: str, data_dir: Path) -> dict[str, str]:
    """A field of a command's answer: the secret if standard output is a terminal, else `{field}File`, where it is.

    Raises DataDirUnusable.
    """
    if sys.stdout.isatty():
        return {field: secret}
    path = write_secret(secret, name, data_dir)
    say(f"standard output is not a terminal: the secret is in {path}, which only you can read")
    return {f"{field}File": str(path)}


def secret_file(name: str, data_dir: Path) -> Path:
    """The path of a secret's file, whether it exists or not."""
    return data_dir.absolute() / KEYS / name


def write_secret(secret: str, name: str, data_dir: Path) -> Path:
    """Write a secret to a file that only its owner can read, and return the file's path. Raises DataDirUnusable."""
    path = secret_file(name, data_dir)
    make_data_dir(data_dir)
    make_data_dir(path.parent)
    with using_data_dir(data_dir), _create(path) as file:
        file.write(f"{secret}\n")
    return path


def _create(path: Path) -> IO[str]:
    path.unlink(missing_ok=True)  # an existing file may be open to others
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
