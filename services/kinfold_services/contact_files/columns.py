"""Which field of an event each column of a file fills: by `--map FIELD=HEADING`, or by its heading."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple

METADATA: Final = "metadata."
FIELDS: Final = {
    "email": "email",
    "externalid": "externalId",
    "name": "name",
    "image": "image",
}
"""The fields that a heading names, without spaces, `-`, `_` and upper case."""
_MAPPED_FIELDS: Final = FIELDS | {"at": "at"}
"""A heading `at` is metadata, because it may be any time; only `--map at=…` makes it the time of the row."""
_EXTERNAL_IDS: Final = ("userid", "id")
"""Headings of the external id where none is called so. Beside a `user_id`, as in Segment's tables, `id` is that of a call."""
_NOTHING: Final = str.maketrans("", "", "-_ ")


class WrongColumns(ValueError):
    """The headings of a file and the options do not fit each other."""


class Column(NamedTuple):
    """A column, and the field that it fills: `email`, `externalId`, `name`, `image`, `at`, or `metadata.KEY`."""

    number: int
    """Its place in a row, from 0."""
    heading: str
    field: str

    @property
    def key(self) -> str | None:
        """The metadata key, if the column fills one."""
        return self.field.removeprefix(METADATA) if self.field.startswith(METADATA) else None


class Columns(NamedTuple):
    """What is made of a file's columns, in its order."""

    used: list[Column]
    left_out: list[str]
    """The headings of the others."""
    width: int
    """How many cells a row has."""

    def __str__(self) -> str:
        """For a person who checks it before the import."""
        told = ", ".join(
            each.field if each.heading in {each.field, each.key} else f"{each.field} from {each.heading!r}"
            for each in self.used
        )
        return told + (f"; left out: {', '.join(map(repr, self.left_out))}" if self.left_out else "")


def parse_maps(maps: Iterable[str]) -> dict[str, str]:
    """`FIELD=HEADING` options as field -> heading. Raises WrongColumns."""
    parsed: dict[str, str] = {}
    for text in maps:
        name, equals, heading = text.partition("=")
        name = name.strip()
        is_key = name.startswith(METADATA) and name != METADATA
        field = name if is_key else _MAPPED_FIELDS.get(_plain(name))
        if field is None or not equals:
            raise WrongColumns(
                "--map: expected FIELD=HEADING with a FIELD of email, external-id, name, image, at and metadata.KEY, "
                f"got {text!r}"
            )
        if field in parsed:
            raise WrongColumns(f"--map: expected {field} once, got {parsed[field]!r} and {heading.strip()!r}")
        parsed[field] = heading.strip()
    return parsed


def columns_of(headings: Sequence[str], maps: Mapping[str, str], *, only_mapped: bool) -> Columns:
    """What each column fills. Raises WrongColumns.

    A column that no `--map` names fills the field that its heading names: `email`, `externalId` (or else `userId`, or else
    `id`), `name`, `image`, `metadata.KEY`. Any other is the metadata key of its name, or is left out with `only_mapped`. A
    column without a heading is left out.
    """
    titles = [heading.strip() for heading in headings]
    used = [Column(_find(titles, heading, field), heading, field) for field, heading in maps.items()]
    named = {column.number for column in used}
    rest = [(index, title) for index, title in enumerate(titles) if index not in named]
    taken = set(maps)
    fields = {index: field for index, title in rest if (field := _field_of(title)) is not None and field not in taken}
    for name in _EXTERNAL_IDS:
        if "externalId" not in taken and "externalId" not in fields.values():
            fields |= {index: "externalId" for index, title in rest if _plain(title) == name}
    left_out: list[str] = []
    for index, title in rest:
        field = fields.get(index) or (None if only_mapped or not title else f"{METADATA}{title.removeprefix(METADATA)}")
        if field is None:
            left_out.append(title)
        else:
            used.append(Column(index, title, field))
    _check(used)
    return Columns(sorted(used), left_out, len(titles))


def _find(titles: Sequence[str], heading: str, field: str) -> int:
    places = [index for index, title in enumerate(titles) if title == heading]
    if not places:
        close = get_close_matches(heading, titles, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise WrongColumns(f"--map {field}={heading}: expected one of the headings {', '.join(map(repr, titles))}{hint}")
    if len(places) > 1:
        raise WrongColumns(f"--map {field}={heading}: expected one column with this heading, got {len(places)}")
    return places[0]


def _field_of(title: str) -> str | None:
    if title.startswith(METADATA) and title != METADATA:
        return title
    return FIELDS.get(_plain(title))


def _check(used: Sequence[Column]) -> None:
    headings: dict[str, str] = {}
    for column in used:
        if column.field in headings:
            raise WrongColumns(
                f"expected one column for {column.field}, got {headings[column.field]!r} and {column.heading!r}; "
                f"--map {column.field}=HEADING names the one to use, or another field for one of them"
            )
        headings[column.field] = column.heading
    if not headings.keys() & {"email", "externalId"}:
        found = ", ".join(repr(column.heading) for column in used) or "none"
        raise WrongColumns(
            f"expected a column for email or externalId, got {found}; "
            "--map external-id=HEADING or --map email=HEADING names one"
        )


def _plain(title: str) -> str:
    return title.casefold().translate(_NOTHING)
