"""The queries of a search in the directory, and their answers (`search.py`)."""

from typing import Final

import msgspec

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.filters import Field, Filter, fields_of
from kinfold_schemas.identifiers import MAX_EMAIL_CHARS
from kinfold_services.directory.sorting import DEFAULT_SORT, Sort

MAX_Q_CHARS: Final = MAX_EMAIL_CHARS
"""The longest identifier can be searched for."""
MAX_LIMIT: Final = 1000


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Words, a filter, an order, and which page."""

    q: str | None = None
    where: Filter | None = None
    sort: Sort = DEFAULT_SORT
    limit: int = 100
    cursor: str | None = None

    @property
    def fields(self) -> list[Field]:
        """The fields of the filter and of the order."""
        return [*(() if self.where is None else fields_of(self.where)), self.sort.field]


class Page(msgspec.Struct, frozen=True):
    """Contacts as the feed shows them, encoded.

    `approximate`: no contact has the words themselves. These have the most similar ones, the best first, on one page.
    """

    records: list[bytes]
    next_cursor: str | None
    approximate: bool
    position: str
    """The feed entry that the directory has applied."""


class Count(msgspec.Struct, frozen=True):
    """How many contacts match: exactly, or estimated from a sample of one in 64."""

    count: int
    is_exact: bool
    position: str


class Counts(msgspec.Struct, frozen=True):
    """How many contacts have each value, the most frequent first; have another one; and have none."""

    values: list[tuple[Primitive, int]]
    other: int
    missing: int
    is_exact: bool
    position: str
