"""The list of people: search, filters, order, columns, and the same as CSV."""

import asyncio
import csv
import io
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
import structlog
from litestar import Request, Response, get
from litestar.params import QueryParameter
from litestar.response import Stream
from litestar.status_codes import HTTP_400_BAD_REQUEST
from redis.exceptions import RedisError

from kinfold_schemas import filters
from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact, Visitor
from kinfold_schemas.filters import WrongFilter
from kinfold_services.contact_files.formulas import escape
from kinfold_services.directory.errors import NoDirectory, WrongQuery
from kinfold_services.directory.metadata_keys import MetadataKeys, metadata_keys, unknown_keys
from kinfold_services.directory.query import MAX_Q_CHARS, Count, Page, Query
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.sorting import DEFAULT_SORT
from kinfold_services.gateway.contacts.lookups import find_visitor
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen import words
from kinfold_services.gateway.screen.listing import (
    LABELS,
    OPERATORS,
    USUAL_COLUMNS,
    Listing,
    composed,
    is_filter,
    suggestion,
    values_of,
)
from kinfold_services.gateway.screen.pages import SECURE, html, is_fragment, page, redirect, render
from kinfold_services.gateway.screen.presence import devices_seen
from kinfold_services.gateway.screen.sessions import first_key, session_of, workspace_of
from kinfold_services.gateway.workspaces import GatewayWorkspace

Words = Annotated[str | None, QueryParameter(name="q", max_length=MAX_Q_CHARS)]
Where = Annotated[list[str] | None, QueryParameter(name="where")]
SortBy = Annotated[str | None, QueryParameter(name="sort", max_length=512)]
Columns = Annotated[list[str] | None, QueryParameter(name="column")]
Cursor = Annotated[str | None, QueryParameter(name="cursor", max_length=4096)]

SUGGESTIONS: Final = 12
LOOKUP_S: Final = 1.0
"""How long a list waits for the visitor whose id may have been searched for."""

_CSV_PAGE: Final = 500
_decode: Final = msgspec.json.Decoder(Contact).decode


class Found(NamedTuple):
    """What the directory answers for a page of people."""

    page: Page
    counted: Count
    keys: MetadataKeys
    unknown: list[str]
    """The metadata keys of the filters and the order that no person has, if nobody matches."""
    is_empty: bool
    """Whether the workspace has nobody at all."""
    warning: str | None = None


class Searched(NamedTuple):
    """What the state has under the text of a search that nobody matches, as the id of a visitor."""

    visitor: Visitor | None = None
    """None if no visitor has the id."""
    contact: Contact | None = None
    """The person who has the visitor now."""


class Typed(NamedTuple):
    """The parts of a new filter, as somebody typed them."""

    field: str = ""
    operator: str = "="
    value: str = ""

    def added_to(self, listing: Listing) -> Listing:
        """The first page of the list with this filter, too; the list itself if nothing was typed. Raises Problem (400)."""
        if not self.field.strip() and not self.value.strip():
            return listing
        if not self.field.strip():
            raise Problem(400, "field: expected the name of a field or of a metadata key, got nothing")
        text = composed(self.field.strip(), self.operator, self.value)
        longer = listing._replace(where=tuple(dict.fromkeys((*listing.where, text))), cursor=None)
        longer.filter()  # the number of filters is limited
        return longer


class Wrong(NamedTuple):
    """Why the list cannot be shown, and the filter that has to be corrected, if it is one."""

    sentence: str
    where: str | None = None
    others: Sequence[tuple[str, str]] = ()
    """The parameters of the list without that filter."""


@get("/")
async def home() -> Response[bytes]:
    """The first page."""
    return redirect("/people")


@get("/people")
async def people(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    q: Words = None,
    where: Where = None,
    sort: SortBy = None,
    column: Columns = None,
    cursor: Cursor = None,
    field: Annotated[str | None, QueryParameter(name="field", max_length=512)] = None,
    operator: Annotated[str | None, QueryParameter(name="operator", max_length=16)] = None,
    value: Annotated[str | None, QueryParameter(name="value", max_length=512)] = None,
) -> Response[bytes]:
    """The page, or the part with the results while somebody types.

    A form without JavaScript sends `field`, `operator` and `value` of a new filter, and empty fields. It is led to the address
    that says the same without them. A wrong filter, sort or cursor gives the page with the reason, and status 400.
    """
    workspace = workspace_of(request)
    is_form = operator is not None and not is_fragment(request)
    typed, wrong_typed = Typed(field or "", operator or "=", value or "") if is_form else Typed(), None
    try:
        listing = Listing.of(q, where, sort, column, cursor)
        query = listing.query()
        try:
            listing = typed.added_to(listing)
            query = listing.query()
        except Problem as wrong:
            wrong_typed = wrong.detail
        found = await _find(workspace, listing, query)
    except (WrongQuery, Problem) as wrong:
        if isinstance(wrong, Problem) and wrong.status_code != HTTP_400_BAD_REQUEST:
            raise
        without_sort = Listing.of(q, where, None, column, None)
        return await _wrong_list(request, without_sort, typed, wrong.detail if isinstance(wrong, Problem) else str(wrong))
    if listing.columns is not None and set(listing.columns) == set(found.keys.frequent[:USUAL_COLUMNS]):
        listing = listing._replace(columns=None)
    if is_form and wrong_typed is None:
        return redirect(listing.url())
    shown = shown_values(listing, found)
    searched = await visitor_searched(workspace, listing.q) if not found.page.records or found.page.approximate else None
    shown |= {"wrong": None, "typed": typed, "wrong_typed": wrong_typed, "searched": searched}
    shown["seen"] = await devices_seen(workspace, shown["contacts"])
    if is_fragment(request):
        return html(request, render("_results.html", **shown), headers={"HX-Replace-Url": listing.url()})
    if wrong_typed is not None:
        return page(request, "people.html", status=400, **chrome(request), **shown)
    if found.is_empty and (searched is None or searched.visitor is None):
        shown["gateway"] = str(request.base_url).rstrip("/")
        shown["key"] = first_key(request)
        return page(request, "first_event.html", **chrome(request), **shown)
    return page(request, "people.html", **chrome(request), **shown)


@get("/people/values")
async def values(
    request: Request[Any, Any, Any], field: Annotated[str, QueryParameter(name="field", max_length=512)] = ""
) -> Response[bytes]:
    """Suggestions for the value of a filter: the most frequent values of a metadata key."""
    try:
        named = filters.field(field.strip())
    except WrongFilter:
        return html(request, "")
    if not named.in_metadata:
        return html(request, "")
    workspace = workspace_of(request)
    counted = await workspace.directory.ask(
        lambda connection: count_by(connection, workspace.name, named, Query(), SUGGESTIONS, now_ms())
    )
    options = [(suggestion(value), times) for value, times in counted.values]
    return html(request, render("_values.html", options=options))


@get("/people/newest")
async def newest(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The person who was created last."""
    workspace = workspace_of(request)
    query = Query(sort=DEFAULT_SORT, limit=1)
    found = await workspace.directory.ask(lambda connection: search(connection, workspace.name, query, now_ms()))
    path = f"/people/{_decode(found.records[0]).id}" if found.records else "/people"
    if is_fragment(request):
        return html(request, "", headers={"HX-Redirect": path})
    return redirect(path)


@get("/people.csv")
async def people_csv(
    request: Request[Any, Any, Any],
    q: Words = None,
    where: Where = None,
    sort: SortBy = None,
    column: Columns = None,
) -> Stream:
    """Everybody on the list, on all its pages, with the columns of the screen."""
    listing = Listing.of(q, where, sort, column, None)
    workspace = workspace_of(request)
    listing.query()  # a wrong filter is an error before the answer begins
    keys = await workspace.directory.ask(lambda connection: metadata_keys(connection, workspace.name))
    first = await _page(workspace, listing.query(_CSV_PAGE))
    stream = _csv(workspace, listing, first, columns_of(listing, keys))
    headers = {**SECURE, "Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="people.csv"'}
    return Stream(stream, media_type="text/csv", headers=headers)


def chrome(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """What the frame around every page shows."""
    signed_in = session_of(request)
    return {
        "by": signed_in.session.by,
        "csrf": signed_in.csrf,
        "kind": signed_in.kind,
        "workspace": signed_in.session.workspace,
        "path": request.url.path,
    }


def columns_of(listing: Listing, keys: MetadataKeys) -> list[str]:
    """The metadata keys that the list has columns for."""
    return list(listing.columns) if listing.columns is not None else keys.frequent[:USUAL_COLUMNS]


def shown_values(listing: Listing, found: Found) -> dict[str, Any]:
    """The values of the template."""
    keys = columns_of(listing, found.keys)
    contacts = [_decode(record) for record in found.page.records]
    live = listing.first_page()._replace(columns=tuple(keys)).parameters()
    live += [("since", found.page.position), ("shown", ",".join(contact.id for contact in contacts))]
    return {
        "listing": listing,
        "contacts": contacts,
        "columns": listing.metadata_columns(keys),
        "column_keys": keys,
        "values_of": values_of,
        "figures": _figures(contacts, keys),
        "headings": listing.headings(),
        "chips": listing.chips(),
        "counted": found.counted,
        "is_approximate": found.page.approximate,
        "next_url": listing._replace(cursor=found.page.next_cursor).url() if found.page.next_cursor else None,
        "first_url": listing.first_page().url(),
        "csv_url": listing.first_page().url("/people.csv"),
        "warning": found.warning,
        "live_url": f"/people/live?{urlencode(live)}",
        "keys": found.keys.names,
        "unknown": found.unknown,
        "labels": LABELS,
        "operators": OPERATORS,
    }


def _figures(contacts: list[Contact], keys: list[str]) -> set[str]:
    """The columns of numbers: their heads stand on the right, as numbers do."""
    shown = {key: [contact.metadata[key] for contact in contacts if key in contact.metadata] for key in keys}
    return {key for key, given in shown.items() if given and all(type(each) in {int, float} for each in given)}


async def _wrong_list(request: Request[Any, Any, Any], listing: Listing, typed: Typed, sentence: str) -> Response[bytes]:
    """The page without rows: the form as it was filled in, and why there are no rows."""
    workspace = workspace_of(request)
    keys = await workspace.directory.ask(lambda connection: metadata_keys(connection, workspace.name))
    none = Page([], None, approximate=False, position="0-0")
    nothing = Found(none, Count(0, is_exact=True, position="0-0"), keys, [], is_empty=False)
    where = next((text for text in listing.where if not is_filter(text)), None)
    others = listing._replace(where=tuple(text for text in listing.where if text != where)).parameters()
    shown: dict[str, Any] = shown_values(listing, nothing)
    shown |= {"wrong": Wrong(sentence, where, others), "typed": typed, "wrong_typed": None}
    if is_fragment(request):
        return html(request, render("_results.html", **shown), status=400, headers={"HX-Replace-Url": listing.url()})
    return page(request, "people.html", status=400, **chrome(request), **shown)


async def visitor_searched(workspace: GatewayWorkspace, q: str) -> Searched | None:
    """The visitor with the searched text as its id. None if nothing was typed, or if Redis does not answer in time."""
    if not q:
        return None
    try:
        async with asyncio.timeout(LOOKUP_S):
            found = await find_visitor(workspace, q)
    except (RedisError, OSError) as error:  # the list is there without it
        structlog.get_logger().warning("a visitor was not looked up", error=str(error), kind=type(error).__name__)
        return None
    return Searched() if found is None else Searched(*found)


async def _find(workspace: GatewayWorkspace, listing: Listing, query: Query) -> Found:
    at_ms = now_ms()

    def ask(connection: sa.Connection) -> Found:
        found = search(connection, workspace.name, query, at_ms)
        counted = count(connection, workspace.name, query, at_ms)
        is_empty = counted.count == 0 and (listing.is_everybody or count(connection, workspace.name, Query(), at_ms).count == 0)
        unknown = [] if found.records else unknown_keys(connection, workspace.name, query.fields)
        return Found(found, counted, metadata_keys(connection, workspace.name), unknown, is_empty=is_empty)

    found = await workspace.directory.ask(ask)
    try:
        await workspace.check_directory(found.page.position)
    except NoDirectory as stopped:
        return found._replace(warning=str(stopped))  # an old list is better than none, if it says so
    return found


async def _page(workspace: GatewayWorkspace, query: Query) -> Page:
    return await workspace.directory.ask(lambda connection: search(connection, workspace.name, query, now_ms()))


async def _csv(workspace: GatewayWorkspace, listing: Listing, found: Page, keys: list[str]) -> AsyncGenerator[bytes]:
    fields = ("id", "externalId", "email", "name", "visitorCount", "firstSeenAt", "lastSeenAt", "createdAt")
    yield _csv_lines([[*fields, *keys]])
    while True:
        contacts = [_decode(record) for record in found.records]
        yield _csv_lines([_csv_row(contact, keys) for contact in contacts])
        if found.next_cursor is None:
            return
        found = await _page(workspace, listing._replace(cursor=found.next_cursor).query(_CSV_PAGE))


def _csv_row(contact: Contact, keys: list[str]) -> list[Primitive]:
    return [
        contact.id,
        contact.external_id,
        contact.email,
        contact.name,
        contact.visitor_count,
        contact.first_seen_at,
        contact.last_seen_at,
        contact.created_at,
        *values_of(contact, keys),
    ]


def _csv_lines(rows: list[list[Primitive]]) -> bytes:
    """Lines of CSV (RFC 4180). A string that a spreadsheet would run as a formula gets an apostrophe (`formulas`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerows([[_csv_cell(each) for each in row] for row in rows])
    return text.getvalue().encode()


def _csv_cell(value: Primitive) -> str:
    if value is None:
        return ""
    return escape(value) if isinstance(value, str) else words.value(value)


def now_ms() -> int:
    """The time, in ms since 1970."""
    return time.time_ns() // 1_000_000
