"""Where a reader of the feed stores its position."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

_number: Final = itertools.count()


class PositionStore(Protocol):
    """A place for one position. `load` returns None before the first `save`."""

    def load(self) -> str | None:
        """Return the position that was saved last."""
        ...

    def save(self, position: str, /) -> object:
        """Save a position."""
        ...


PositionFunctions = tuple[Callable[[], str | None], Callable[[str], object]]
"""The same as a pair of functions, `(load, save)`."""


class FilePosition:
    """Stores a position in a file. The file is complete at any time: written under another name, synced, renamed.

    Raises OSError if the file cannot be read or written.

    >>> position = kinfold.FilePosition("/tmp/kinfold-doc-position")
    >>> position.save("1732262400000-0")
    >>> position.load()
    '1732262400000-0'
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._path: Final = Path(path)

    def load(self) -> str | None:
        """Return the position that was saved last; None if there is no file.

        >>> kinfold.FilePosition("/tmp/kinfold-doc-nothing").load() is None
        True
        """
        try:
            return self._path.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def save(self, position: str) -> None:
        """Save a position.

        >>> kinfold.FilePosition("/tmp/kinfold-doc-position").save("1732262400000-1")
        """
        # A new name each time: a signal handler or another thread may call `close`, which saves, while this is running.
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.{next(_number)}.partial")
        with partial.open("w", encoding="ascii") as file:
            file.write(position)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


class FunctionPosition:
    """A position store made of a pair of functions."""

    def __init__(self, functions: PositionFunctions) -> None:
        self.load, self.save = functions
