"""The commands that ask the directory: `kinfold contacts` with a search, `count`, `conflicts` and `timeline`."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
from rich.console import Console
from rich.text import Text

from kinfold_schemas.contacts import Contact
from kinfold_schemas.directory import TimelineEntry
from kinfold_schemas.filters import FIELDS, Field, Filter
from kinfold_services.cli.contact_output import contact_writer
from kinfold_services.cli.output import DONE, NO, complain, print_json, say
from kinfold_services.cli.reading import asking
from kinfold_services.connections import Client
from kinfold_services.directory.database import Database
from kinfold_services.directory.metadata_keys import metadata_keys, unknown_keys
from kinfold_services.directory.query import Count, Counts, Page, Query
from kinfold_services.directory.reading import (
    By,
    Conflicts,
    Holder,
    Status,
    Timeline,
    find_holder,
    read_conflicts,
    read_timeline,
)
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.sorting import DEFAULT_SORT, parse_sort
from kinfold_services.directory.waiting import check_running, last_change, wait_until_applied
from kinfold_services.runtime.terminal import visible
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier

T = TypeVar("T")

_PAGE: Final = 500
_decode_contact: Final = msgspec.json.Decoder(Contact).decode
_BY: Final[dict[str, By]] = {"visitor": "visitor_id", "external_id": "external_id", "email": "email", "contact": "contact_id"}


class Wanted(NamedTuple):
    """Which contacts, and how many; `sort` is a field, with `-` in front for descending."""

    search: str | None = None
    where: Filter | None = None
    sort: str | None = None
    limit: int | None = None

    def query(self, limit: int, cursor: str | None = None) -> Query:
        """The query for one page."""
        sort = DEFAULT_SORT if self.sort is None else parse_sort(self.sort)
        return Query(q=self.search, where=self.where, sort=sort, limit=limit, cursor=cursor)


class Until(NamedTuple):
    """The position up to which the projector and the directory must have come, if any, and for how long to wait for that."""

    position: str | None
    timeout_s: float


class _Page(Protocol):
    """A page of any list."""

    @property
    def next_cursor(self) -> str | None: ...

    @property
    def position(self) -> str: ...


P = TypeVar("P", bound=_Page)


class _Directory:
    """The directory of one workspace."""

    def __init__(self, client: Client, database: Database, workspace: str) -> None:
        self._client: Final = client
        self._database: Final = database
        self.workspace: Final = workspace
        self.now_ms: Final = time.time_ns() // 1_000_000

    async def pages(self, read: Callable[[sa.Connection, int, str | None], P], limit: int | None) -> AsyncGenerator[P]:
        """Pages of `limit` items in all. `read` reads one, of a size and from a cursor on. Raises as `check`."""
        cursor: str | None = None
        while True:
            size = _PAGE if limit is None else min(_PAGE, limit)
            with self._database.reading() as connection:
                page = read(connection, size, cursor)
            if cursor is None:
                await self.check(page.position)
            yield page
            cursor, limit = page.next_cursor, None if limit is None else limit - size
            if cursor is None or limit == 0:
                return

    def ask(self, query: Callable[[sa.Connection], T]) -> T:
        """Run a query on the database."""
        with self._database.reading() as connection:
            return query(connection)

    def say_unknown(self, fields: Iterable[Field]) -> None:
        """Say which metadata keys no contact has, with the nearest name of a field or a key."""
        with self._database.reading() as connection:
            unknown = unknown_keys(connection, self.workspace, fields)
            known = [*FIELDS, *metadata_keys(connection, self.workspace).names] if unknown else []
        for name in unknown:
            nearest = get_close_matches(name, known, n=1)
            hint = f"; the nearest name is {nearest[0]!r}" if nearest else ""
            say(f"no contact has the metadata key {name!r}{hint}")

    async def check(self, position: str) -> None:
        """Raise NoDirectory if an answer as of this position is out of date, because no directory runs."""
        await check_running(self._client, self._database, self.workspace, position)


async def contacts(settings: Settings, wanted: Wanted, until: Until, form: str | None, output: Path | None) -> int:
    """Print the contacts that match, in the order of the sort, or write them to a file."""
    async with _directory(settings, until) as directory:

        def read(connection: sa.Connection, size: int, cursor: str | None) -> Page:
            return search(connection, directory.workspace, wanted.query(size, cursor), directory.now_ms)

        async with aclosing(directory.pages(read, wanted.limit)) as pages:
            is_first = True
            with contact_writer(form, output) as write:
                async for page in pages:
                    if is_first:
                        directory.say_unknown(wanted.query(1).fields)
                        _say_what_was_found(settings, wanted, page)
                    is_first = False
                    if not all(write(_decode_contact(record)) for record in page.records):
                        break
    return DONE


def _say_what_was_found(settings: Settings, wanted: Wanted, page: Page) -> None:
    if not page.records:
        say(f"no contact of workspace {settings.workspace} matches")
    elif page.approximate:
        say(f"no contact has {wanted.search!r}; these have something similar")


async def print_count(settings: Settings, wanted: Wanted, by: Field | None, until: Until) -> int:
    """Print how many contacts match; with `by`, for each of the most frequent values, and then for the rest."""
    query = wanted.query(_PAGE)
    async with _directory(settings, until) as directory:

        def ask(connection: sa.Connection) -> Count | Counts:
            if by is None:
                return count(connection, directory.workspace, query, directory.now_ms)
            return count_by(connection, directory.workspace, by, query, wanted.limit or _PAGE, directory.now_ms)

        counted = directory.ask(ask)
        directory.say_unknown(query.fields if by is None else [*query.fields, by])
        await directory.check(counted.position)
    if isinstance(counted, Count):
        print_json({"count": counted.count, "isExact": counted.is_exact})
        return DONE
    rest = {"other": counted.other, "missing": counted.missing, "isExact": counted.is_exact}
    all(map(print_json, [*({"value": value, "count": times} for value, times in counted.values), rest]))
    return DONE


async def print_conflicts(settings: Settings, status: Status, until: Until) -> int:
    """Print the conflicts, newest first."""
    async with _directory(settings, until) as directory:

        def read(connection: sa.Connection, size: int, cursor: str | None) -> Conflicts:
            return read_conflicts(connection, directory.workspace, status, size, cursor)

        async with aclosing(directory.pages(read, None)) as pages:
            async for page in pages:
                if not all(map(print_json, page.conflicts)):
                    break
    return DONE


async def print_timeline(settings: Settings, identifier: Identifier, limit: int | None, until: Until, *, as_json: bool) -> int:
    """Print the changes of a contact, newest first. Exit status 1 if there is no such contact."""
    by, value = _column_and_value(identifier)
    async with _directory(settings, until) as directory:
        holder = directory.ask(lambda connection: find_holder(connection, directory.workspace, by, value))
        if holder is None:
            return complain(f"{identifier}: not found in the directory of workspace {settings.workspace}", NO)
        contact_id = holder.contact_id

        def read(connection: sa.Connection, size: int, cursor: str | None) -> Timeline:
            return read_timeline(connection, directory.workspace, contact_id, size, cursor)

        print_entry = print_json if as_json else _print_line(Console())
        async with aclosing(directory.pages(read, limit)) as pages:
            is_first = True
            async for page in pages:
                if is_first:
                    _say_about(identifier, holder, page)
                is_first = False
                if not all(map(print_entry, page.timeline)):
                    break
    return DONE


def former_holder(settings: Settings, identifier: Identifier) -> str | None:
    """The living contact that had an identifier last, or None. Raises DirectoryUnavailable."""
    by, value = _column_and_value(identifier)
    with closing(Database(settings, read_only=True)) as database, database.reading() as connection:
        holder = find_holder(connection, settings.workspace, by, value)
    return None if holder is None else holder.contact_id


def _column_and_value(identifier: Identifier) -> tuple[By, str]:
    name, value = next((name, value) for name, value in identifier._asdict().items() if value is not None)
    return _BY[name], value


@asynccontextmanager
async def _directory(settings: Settings, until: Until) -> AsyncGenerator[_Directory]:
    """The directory, once the position is folded and in it. Raises NotFolded and DirectoryUnavailable."""
    deadline = time.monotonic() + until.timeout_s
    async with asking(settings, until.position, until.timeout_s) as (client, _):
        await last_change(client, settings.workspace)  # a server that does not answer is not reported as a missing directory
        with closing(Database(settings, read_only=True)) as database:
            if until.position is not None:
                await wait_until_applied(client, database, settings.workspace, max(0.0, deadline - time.monotonic()))
            yield _Directory(client, database, settings.workspace)


# --- a timeline on a terminal -------------------------------------------------------------------------------------------


def _say_about(identifier: Identifier, holder: Holder, page: Timeline) -> None:
    if identifier.contact is not None and identifier.contact != holder.contact_id:
        say(f"{identifier.contact} was merged into {holder.contact_id}")
    elif holder.until is not None:
        say(f"{holder.contact_id} had {identifier} until {holder.until}")
    if page.complete_since is not None:
        say(f"changes before {page.complete_since} are not in the directory; `kinfold explain` finds them in the log")


def _print_line(console: Console) -> Callable[[TimelineEntry], bool]:
    def print_line(entry: TimelineEntry) -> bool:
        console.print(line_of(entry))
        return True

    return print_line


def line_of(entry: TimelineEntry) -> Text:
    """A change as a line: its time, what changed, and the rule."""
    line = Text.assemble((entry.at, "bold"), "  ", visible(", ".join(_deeds(entry))), overflow="fold")
    return line.append(f"  [{entry.rule}]", "dim") if entry.rule else line


def _deeds(entry: TimelineEntry) -> Iterator[str]:  # noqa: C901  a type of change each
    told = entry.details
    match entry.type:
        case "ContactCreated":
            yield f"created {entry.contact_id}"
        case "VisitorLinked":
            yield f"linked {told.get('visitorId')}"
        case "VisitorUnlinked" if "nextContactId" not in told:
            yield f"unlinked {told.get('visitorId')}"
        case "VisitorUnlinked":
            yield f"{told.get('visitorId')} moved on to {told.get('nextContactId')}"
        case "ContactsMerged":
            yield f"merged {told.get('mergedContactId')}"
        case "IdentityConflict":
            yield f"refused {told.get('email')}, which {told.get('heldBy')} holds"
        case "ConflictDismissed":
            yield f"dismissed the conflict about {told.get('email')}, which {told.get('heldBy')} holds"
        case "ContactGone":
            yield f"{entry.contact_id} is not in the state that a replay made"
        case "ContactErased":
            yield f"{entry.contact_id} was erased"
        case _:
            pass
    for change in told.get("changed", ()):
        is_shown = "before" in change or "after" in change  # not for lists of visitors
        yield str(change["field"]) + (f" {_shown(change, 'before')} → {_shown(change, 'after')}" if is_shown else "")


def _shown(change: dict[str, object], when: str) -> str:
    if when not in change:
        return "nothing"
    value = change[when]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
