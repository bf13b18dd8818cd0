"""Searches and counts of contacts, which the directory answers."""

import re
import time
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, get
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from kinfold_schemas import filters
from kinfold_schemas.directory import ContactCount, ContactCounts, ValueCount
from kinfold_schemas.filters import Field, Filter, WrongFilter
from kinfold_schemas.rejections import found
from kinfold_services.directory.metadata_keys import unknown_keys
from kinfold_services.directory.query import MAX_Q_CHARS, Count, Counts, Page, Query
from kinfold_services.directory.search import count, count_by, search
from kinfold_services.directory.sorting import DEFAULT_SORT, parse_sort
from kinfold_services.gateway.callers import caller_of, reading_key
from kinfold_services.gateway.contacts.lookups import After
from kinfold_services.gateway.openapi import answers
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=500, description="Maximum number of items")]
Cursor = Annotated[str | None, QueryParameter(name="cursor", description="`nextCursor` of the previous page", max_length=4096)]
Words = Annotated[
    str | None,
    QueryParameter(
        name="q",
        description="Words, all of which the name, e-mail, external id or contact id contains; case and accents do not matter",
        max_length=MAX_Q_CHARS,
    ),
]
Where = Annotated[
    list[str] | None,
    QueryParameter(
        name="where",
        description="A filter, such as `plan=pro and mrr>=99`; several are combined by `and`",
        examples=[Example(value=["plan=pro and mrr>=99", "not lastSeenAt before 30d"])],
    ),
]
SortBy = Annotated[
    str | None,
    QueryParameter(
        name="sort",
        description="A field or metadata key to sort by, with `-` in front for descending; default: `-createdAt`. "
        "Contacts without a value come last",
        max_length=512,
        examples=[Example(value="-lastSeenAt")],
    ),
]
WithCount = Annotated[bool, QueryParameter(name="count", description="Also count all contacts that match")]

_is_unfit: Final = re.compile("[\0\ud800-\udfff]").search
_encode: Final = msgspec.json.Encoder().encode


class Search(NamedTuple):
    """A search as the query parameters say it."""

    q: str | None
    where: list[str] | None
    sort: str | None
    limit: int
    cursor: str | None
    with_count: bool = False

    @property
    def parameters(self) -> list[str]:
        """The parameters that make a request a search."""
        given = {"q": self.q is not None, "where": bool(self.where), "sort": self.sort is not None, "count": self.with_count}
        return [name for name, is_given in given.items() if is_given]

    def query(self) -> Query:
        """The query to the directory. Raises Problem (400) for a wrong filter, and WrongQuery for a wrong sort."""
        sort = DEFAULT_SORT if self.sort is None else parse_sort(self.sort)
        return Query(q=self.q, where=_filter(self.where or []), sort=sort, limit=self.limit, cursor=self.cursor)


async def found_contacts(request: Request[Any, Any, Any], searched: Search, after: str | None) -> Response[bytes]:
    """The response to a search: a `ContactPage`."""
    query, now_ms = searched.query(), _now_ms()
    workspace = await in_directory(request, after)

    def ask(connection: sa.Connection) -> tuple[Page, Count | None, list[str]]:
        page = search(connection, workspace.name, query, now_ms)
        counted = count(connection, workspace.name, query, now_ms) if searched.with_count else None
        return page, counted, unknown_keys(connection, workspace.name, query.fields)

    page, counted, unknown = await workspace.directory.ask(ask)
    await workspace.check_directory(page.position)
    answer: dict[str, Any] = {
        "contacts": [msgspec.Raw(record) for record in page.records],
        "nextCursor": page.next_cursor,
        "approximate": page.approximate,
        "position": page.position,
    }
    if counted is not None:
        answer["count"] = _count(counted)
    if unknown:
        answer["unknownKeys"] = unknown
    return json_answer(answer)


@get(
    "/v1/contacts/count",
    guards=[reading_key],
    responses=answers(ContactCount | ContactCounts, 400, 401, 403, 429, 503),
    tags=["contacts"],
    summary="How many contacts match, in all or by their values of a field",
)
async def contact_count(  # noqa: PLR0913, PLR0917  each is a query parameter
    request: Request[Any, Any, Any],
    q: Words = None,
    where: Where = None,
    by: Annotated[
        str | None,
        QueryParameter(
            name="by",
            description="A field or metadata key: count the contacts of each value",
            max_length=512,
            examples=[Example(value="plan")],
        ),
    ] = None,
    limit: Annotated[
        int, QueryParameter(name="limit", ge=1, le=500, description="With `by`: the maximum number of values")
    ] = 10,
    after: After = None,
) -> Response[bytes]:
    """The number of contacts that match `q` and `where`, as in `GET /v1/contacts`; without both, of all contacts.

    With `by`, the number of contacts for each value of that field: the most frequent values, and how many contacts have another
    value or none.
    """
    query, now_ms = Search(q, where, None, limit, None).query(), _now_ms()
    field = None if by is None else _field(by)
    workspace = await in_directory(request, after)

    def ask(connection: sa.Connection) -> ContactCount | ContactCounts:
        fields = query.fields if field is None else [*query.fields, field]
        unknown = unknown_keys(connection, workspace.name, fields) or msgspec.UNSET
        if field is None:
            return _count(count(connection, workspace.name, query, now_ms), unknown)
        return _counts(field, count_by(connection, workspace.name, field, query, limit, now_ms), unknown)

    counted = await workspace.directory.ask(ask)
    await workspace.check_directory(counted.position)
    return json_answer(counted)


async def in_directory(request: Request[Any, Any, Any], after: str | None) -> GatewayWorkspace:
    """The caller's workspace, once `after` is folded and in the directory. Raises Problem (400) and NotFolded."""
    workspace = shared(request).workspace(caller_of(request).workspace)
    if after is not None:
        await workspace.wait_until_in_directory(after)
    return workspace


def json_answer(answer: Any) -> Response[bytes]:
    """A response that no cache keeps."""
    return Response(_encode(answer), media_type="application/json", headers={"Cache-Control": "no-store"})


def _filter(texts: list[str]) -> Filter | None:
    parsed: list[Filter] = []
    for number, text in enumerate(texts, 1):
        name = "where" if len(texts) == 1 else f"where (number {number})"
        try:
            parsed.append(filters.parse(text))
        except WrongFilter as wrong:
            raise Problem(400, f"{name}: {wrong}", column=wrong.column) from None
    try:
        return filters.all_of(parsed)
    except WrongFilter as wrong:
        raise Problem(400, f"where: {wrong}") from None


def _field(text: str) -> Field:
    if _is_unfit(text) is not None:
        raise Problem(400, f"by: expected Unicode text without NUL, got {found(text)}")
    try:
        return filters.field(text)
    except WrongFilter as wrong:
        raise Problem(400, f"by: {wrong}", column=wrong.column) from None


_Unknown = list[str] | msgspec.UnsetType


def _count(counted: Count, unknown: _Unknown = msgspec.UNSET) -> ContactCount:
    return ContactCount(counted.count, counted.is_exact, counted.position, unknown)


def _counts(by: Field, counted: Counts, unknown: _Unknown) -> ContactCounts:
    values = [ValueCount(value, times) for value, times in counted.values]
    rest = (counted.other, counted.missing, counted.is_exact, counted.position, unknown)
    return ContactCounts(filters.field_text(by), values, *rest)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
