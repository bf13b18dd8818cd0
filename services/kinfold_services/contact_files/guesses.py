"""Decides which columns of a file without types stay text: those whose numbers would not come back as they were written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from kinfold_schemas.rejections import found
from kinfold_services.contact_files.cells import Kind, csv_value, is_decimal, is_empty, is_written_otherwise
from kinfold_services.contact_files.columns import Columns
from kinfold_services.contact_files.tables import Table

_Sort = Literal["empty", "number", "boolean", "text", "written otherwise"]
_REMEMBERED: Final = 1 << 16


@dataclass
class Guess:
    """What the cells of a column are: examples, each with the number of its row."""

    key: str
    numbers: int = 0
    text: tuple[int, str] | None = None
    """The first cell that is not a number."""
    odd: tuple[int, str] | None = None
    """The first number that would not come back as it is written."""

    @property
    def kind(self) -> Kind | None:
        """`string` where the whole column stays text."""
        return None if self.odd is None else "string"

    def note(self) -> str | None:
        """What to tell a person who may have expected numbers, or text; None where there is nothing to choose."""
        if self.odd is not None and (self.numbers or is_decimal(self.odd[1])):
            return (
                f"metadata.{self.key} stays text, because a number would not come back as {_shown(self.odd)}; "
                f"--as {self.key}=number makes numbers of it, --as {self.key}=string ends this note"
            )
        if self.odd is None and self.numbers and self.text is not None:
            return (
                f"metadata.{self.key} gets numbers and text, such as {_shown(self.text)}; "
                f"--as {self.key}=string makes all of it text"
            )
        return None


def guesses(table: Table, columns: Columns, kinds: Mapping[str, Kind]) -> Iterator[Guess]:
    """Look at every cell of the metadata columns whose kind nobody chose. Raises WrongFile and OSError."""
    if table.has_types:
        return
    watched = [(each.number, Guess(key)) for each in columns.used if (key := each.key) is not None and key not in kinds]
    for number, cells in table.rows():
        if len(cells) == columns.width:
            for index, guess in watched:
                _look(guess, number, cells[index])
    yield from (guess for _, guess in watched)


def _look(guess: Guess, number: int, cell: str) -> None:
    sort = _sort(cell)
    if sort == "number":
        guess.numbers += 1
    elif sort == "text":
        guess.text = guess.text or (number, cell)
    elif sort == "written otherwise":
        guess.odd = guess.odd or (number, cell)


@lru_cache(_REMEMBERED)
def _sort(cell: str) -> _Sort:
    if is_empty(cell):
        return "empty"
    value = csv_value(cell)
    if isinstance(value, bool):
        return "boolean"
    if not isinstance(value, str):
        return "number"
    return "written otherwise" if is_written_otherwise(cell) else "text"


def _shown(example: tuple[int, str]) -> str:
    number, cell = example
    return f"{found(cell)} (line {number})"
