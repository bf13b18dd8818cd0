"""A file with rows, as `reading_csv` and `reading_parquet` read it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from kinfold_services.contact_files.cells import Convert, Kind


class WrongFile(ValueError):
    """A file cannot be read as what it should be."""


class Table(Protocol):
    """A file with rows. They can be read several times."""

    @property
    def headings(self) -> Sequence[str]:
        """The name of each column."""
        ...

    @property
    def total(self) -> int | None:
        """How many rows it has, if the file tells."""
        ...

    @property
    def has_types(self) -> bool:
        """Whether its columns have types of their own."""
        ...

    @property
    def kinds(self) -> Mapping[Kind | None, Convert]:
        """What makes a metadata value of a cell, by the kind of its column."""
        ...

    @property
    def unsupported(self) -> Mapping[int, str]:
        """The columns that cannot be metadata, by their place from 0, with what they hold."""
        ...

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows, each with its number. Raises WrongFile and OSError."""
        ...

    def place(self, number: int) -> str:
        """How a message names a row, after the name of the file."""
        ...
