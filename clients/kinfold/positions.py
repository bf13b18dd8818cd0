"""Where a reader of the feed remembers how far it has come."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

_number: Final = itertools.count()


class Position(Protocol):
    """A place for one position. `load` returns None where nothing was saved yet."""

    def load(self) -> str | None:
        """The position saved last."""
        ...

    def save(self, position: str) -> None:
        """Saves a position."""
        ...


PositionPair = tuple[Callable[[], str | None], Callable[[str], object]]
"""The same as a pair of functions, `(load, save)`."""


class FilePosition:
    """Remembers a position in a file, which is whole at any time: written beside, synced, renamed.

    Raises OSError where the file cannot be read or written.

    >>> position = kinfold.FilePosition("/tmp/kinfold-doc-position")
    >>> position.save("1732262400000-0")
    >>> position.load()
    '1732262400000-0'
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._path: Final = Path(path)

    def load(self) -> str | None:
        """The position saved last; None where the file is not there.

        >>> kinfold.FilePosition("/tmp/kinfold-doc-nothing").load() is None
        True
        """
        try:
            return self._path.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def save(self, position: str) -> None:
        """Saves a position.

        >>> kinfold.FilePosition("/tmp/kinfold-doc-position").save("1732262400000-1")
        """
        # A file of its own for each time: `close` in a signal handler, or in another thread, may come while this is under way.
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.{next(_number)}.partial")
        with partial.open("w", encoding="ascii") as file:
            file.write(position)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


class PairPosition:
    """A pair of functions as a Position."""

    def __init__(self, pair: PositionPair) -> None:
        self._load, self._save = pair

    def load(self) -> str | None:
        """What the first function returns."""
        return self._load()

    def save(self, position: str) -> None:
        """Calls the second function."""
        self._save(position)
