"""What a list of people shows, as its URL says it: words, filters, order, columns and page."""

import json
import math
from typing import Final, NamedTuple
from urllib.parse import urlencode

from kinfold_schemas import filters
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact
from kinfold_schemas.filter_tokens import quoted
from kinfold_schemas.filters import Comparison, Contains, Dated, Exists, Field, Filter, Not, WrongFilter, field_text
from kinfold_services.directory.query import Query
from kinfold_services.directory.sorting import Sort, parse_sort
from kinfold_services.gateway.problems import Problem

ROWS: Final = 50
"""How many people a page has."""
MAX_COLUMNS: Final = 8
USUAL_COLUMNS: Final = 3

LABELS: Final = {
    "name": "Name",
    "email": "E-mail",
    "externalId": "External id",
    "id": "Contact id",
    "image": "Image",
    "visitorCount": "Devices",
    "firstSeenAt": "First seen",
    "lastSeenAt": "Last seen",
    "createdAt": "Created",
    "updatedAt": "Updated",
    "version": "Version",
}
"""The fields of a contact, as people call them."""

OPERATORS: Final = {
    "=": "is",
    "!=": "is not",
    "contains": "contains",
    ">=": "is at least",
    "<=": "is at most",
    ">": "is more than",
    "<": "is less than",
    "after": "is after",
    "before": "is before",
    "exists": "is known",
    "not exists": "is not known",
}
"""The operators that a filter is built with, in words."""

_BY_LAST_SEEN: Final = Sort(Field("lastSeenAt", in_metadata=False), descending=True)
_LITERALS: Final[dict[str, Primitive]] = {"true": True, "false": False, "null": None}


class Chip(NamedTuple):
    """A filter that is on: in words, as it is written, and the URL without it."""

    words: str
    text: str
    without: str


class Column(NamedTuple):
    """A column of metadata: its key, and the URL that sorts by it."""

    key: str
    heading: "Heading"


class Heading(NamedTuple):
    """The head of a column: how it is sorted now (`ascending`, `descending` or `none`), and the URL that sorts by it."""

    label: str
    sorted: str
    url: str


class Listing(NamedTuple):
    """A list of people."""

    q: str = ""
    where: tuple[str, ...] = ()
    sort: Sort = _BY_LAST_SEEN
    columns: tuple[str, ...] | None = None
    """Metadata keys; None means the most frequent ones."""
    cursor: str | None = None

    @classmethod
    def of(
        cls, q: str | None, where: list[str] | None, sort: str | None, columns: list[str] | None, cursor: str | None
    ) -> "Listing":
        """The list that the parameters describe. Raises WrongQuery for a wrong sort."""
        chosen = None if columns is None else tuple(dict.fromkeys(name for name in columns if name))[:MAX_COLUMNS]
        texts = tuple(text for text in where or () if text.strip())
        return cls((q or "").strip(), texts, parse_sort(sort) if sort else _BY_LAST_SEEN, chosen, cursor or None)

    @property
    def is_everybody(self) -> bool:
        """Whether it shows all people."""
        return not self.q and not self.where

    def filter(self) -> Filter | None:
        """The filter. Raises Problem (400) if one is wrong."""
        try:
            return filters.all_of([_parsed(text) for text in self.where])
        except WrongFilter as wrong:
            raise Problem(400, f"filters: {wrong}") from None

    def query(self, limit: int = ROWS) -> Query:
        """The query for the directory. Raises Problem (400) if a filter is wrong."""
        return Query(q=self.q or None, where=self.filter(), sort=self.sort, limit=limit, cursor=self.cursor)

    def parameters(self) -> list[tuple[str, str]]:
        """The parameters of the URL, without those that have their default."""
        given = [("q", self.q)] if self.q else []
        given += [("where", text) for text in self.where]
        if self.sort != _BY_LAST_SEEN:
            given.append(("sort", self.sort_text))
        given += [("column", name) for name in (self.columns or ("",) if self.columns is not None else ())]
        if self.cursor is not None:
            given.append(("cursor", self.cursor))
        return given

    def url(self, path: str = "/people") -> str:
        """The URL."""
        given = self.parameters()
        return f"{path}?{urlencode(given)}" if given else path

    @property
    def sort_text(self) -> str:
        """The sort as the URL has it."""
        return f"{'-' if self.sort.descending else ''}{field_text(self.sort.field)}"

    def first_page(self) -> "Listing":
        """The same list from its beginning."""
        return self._replace(cursor=None)

    def chips(self) -> list[Chip]:
        """The filters that are on."""
        chips: list[Chip] = []
        for number, text in enumerate(self.where):
            rest = self.where[:number] + self.where[number + 1 :]
            chips.append(Chip(in_words(text), text, self._replace(where=rest, cursor=None).url()))
        return chips

    def heading(self, label: str, field: Field, *, descending: bool = False) -> Heading:
        """The head of a column. It sorts by the field, at first in the given direction, and the second time in the other."""
        is_by = self.sort.field == field
        now = ("descending" if self.sort.descending else "ascending") if is_by else "none"
        sort = Sort(field, not self.sort.descending if is_by else descending)
        return Heading(label, now, self._replace(sort=sort, cursor=None).url())

    def headings(self) -> dict[str, Heading]:
        """The heads of the fixed columns."""
        descending = {"lastSeenAt", "createdAt", "visitorCount"}
        names = ("name", "visitorCount", "lastSeenAt", "createdAt")
        return {
            name: self.heading(LABELS[name], Field(name, in_metadata=False), descending=name in descending) for name in names
        }

    def metadata_columns(self, keys: list[str]) -> list[Column]:
        """The columns of metadata."""
        return [Column(each, self.heading(each, Field(each, in_metadata=True))) for each in keys]


def values_of(contact: Contact, keys: list[str]) -> list[Primitive]:
    """The contact's values of metadata keys. A key that it does not have is `""`, as is the empty string."""
    return [contact.metadata.get(name, "") for name in keys]


def composed(field: str, operator: str, value: str) -> str:
    """Write the filter that somebody built of a field, an operator and a value. Raises Problem (400).

    A value that looks like a number, `true`, `false` or `null` is one; in quotes, it is a string.
    """
    if operator not in OPERATORS:
        raise Problem(400, f"operator: expected one of {', '.join(OPERATORS)}, got {operator!r}")
    if operator.endswith("exists"):
        text = f"not ({field} exists)" if operator == "not exists" else f"{field} exists"
    elif operator in {"after", "before"}:
        text = f"{field} {operator} {value.strip()}"
    elif operator == "contains":
        text = f"{field} contains {quoted(value.strip())}"
    else:
        text = f"{field} {operator} {_literal(field, value.strip())}"
    return filters.unparse(_parsed(text))


def suggestion(value: Primitive) -> str:
    """What to enter for a value, so that `composed` gives the same value again."""
    if not isinstance(value, str):
        return json.dumps(value)
    return quoted(value) if _number(value) or value in _LITERALS or value.startswith('"') else value


def in_words(text: str) -> str:  # noqa: PLR0911  one for each kind of filter
    """A filter in words, if it is one comparison; else as it is written."""
    try:
        tree = filters.parse(text)
    except WrongFilter:
        return text
    match tree:
        case Comparison(field=compared, operator=operator):
            rest = filters.unparse(tree).removeprefix(f"{field_text(compared)} {operator} ")
            return f"{label(compared)} {OPERATORS[operator]} {_bare(rest)}"
        case Contains(field=compared):
            return f"{label(compared)} contains {tree.part}"
        case Exists(field=compared):
            return f"{label(compared)} is known"
        case Not(filter=Exists(field=compared)):
            return f"{label(compared)} is not known"
        case Dated(field=compared):
            rest = filters.unparse(tree).removeprefix(f"{field_text(compared)} {tree.order} ")
            return f"{label(compared)} is {tree.order} {rest}" + (" ago" if rest[-1:].isalpha() and len(rest) < 6 else "")  # noqa: PLR2004
        case _:
            return text


def is_filter(text: str) -> bool:
    """Whether a text is a filter."""
    try:
        filters.parse(text)
    except WrongFilter:
        return False
    return True


def label(field: Field) -> str:
    """What people call a field."""
    return field.name if field.in_metadata else LABELS[field.name]


def _parsed(text: str) -> Filter:
    try:
        return filters.parse(text)
    except WrongFilter as wrong:
        raise Problem(400, f"filter {text!r}: {wrong}", column=wrong.column) from None


def _literal(field: str, value: str) -> str:
    is_time = "At" in field and field in LABELS
    is_plain = (
        is_time or _number(value) or value in _LITERALS or (value.startswith('"') and value.endswith('"') and len(value) > 1)
    )
    return value if is_plain else quoted(value)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and isinstance(json.loads(text), int | float)
    except ValueError:
        return False


def _bare(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
