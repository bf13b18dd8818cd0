"""Options that commands share, and the settings that result from them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from kinfold_schemas import filters
from kinfold_schemas.filter_tree import parse_time
from kinfold_schemas.filters import Filter
from kinfold_schemas.keys import check_workspace
from kinfold_schemas.positions import position_key
from kinfold_schemas.urls import hide_password
from kinfold_services.history.moments import parse_moment
from kinfold_services.settings import Settings, wrong_settings
from kinfold_services.state.queries import Identifier

WAIT_S: Final = 60.0
"""The default of --wait-timeout."""


def _callback(check: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """A callback of typer that returns the value unchanged, and raises BadParameter if `check` raises ValueError."""

    def callback(value: str | None) -> str | None:
        try:
            if value is not None:
                check(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return callback


def _each(check: Callable[[str], object]) -> Callable[[list[str] | None], list[str] | None]:
    """As `_callback`, for an option that can be repeated."""

    def callback(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            _callback(check)(value)
        return values

    return callback


def _check_time(text: str) -> None:
    if parse_time(text) is None:
        raise ValueError(f"expected a time, a date or an age such as 30d, got {text!r}")


check_workspace_name: Final = _callback(check_workspace)
check_position: Final = _callback(position_key)
"""For a position, or the id of a feed entry."""
check_text: Final = _callback(str.encode)
"""For an identifier: bytes that are not UTF-8 cannot be part of one."""


check_workspace_names: Final = _each(check_workspace)
"""As `check_workspace_name`, for an option that can be repeated."""


RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="The server of the log. Default: KINFOLD_REDIS_URL, or the data dir's embedded server."),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The directory of the embedded server's data. Default: ./.kinfold.")
]
WorkspaceName = Annotated[
    str | None, typer.Option("--workspace", callback=check_workspace_name, help="Default: KINFOLD_WORKSPACE, or `default`.")
]
Wait = Annotated[
    str | None,
    typer.Option("--wait", metavar="POSITION", callback=check_position, help="Wait until this position is folded."),
]
WaitTimeout = Annotated[float, typer.Option("--wait-timeout", help="Wait at most this many seconds.")]


At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME|POSITION",
        callback=_callback(parse_moment),
        help="Use the state at this time, or after this log entry.",
    ),
]


VisitorOption = Annotated[str | None, typer.Option("--visitor", callback=check_text, help="The contact of this visitor.")]
ExternalIdOption = Annotated[
    str | None, typer.Option("--external-id", callback=check_text, help="The contact with this external id.")
]
EmailOption = Annotated[
    str | None,
    typer.Option("--email", callback=check_text, help="The contact that has this e-mail address, or that had it last."),
]
ContactOption = Annotated[
    str | None,
    typer.Option("--contact", callback=check_text, help="The contact with this id, or the one it was merged into."),
]


ContactArgument = Annotated[
    str | None,
    typer.Argument(metavar="CONTACT", callback=check_text, help="The id of a contact, or of one that was merged into it."),
]


def identifier_from(
    visitor: str | None, external_id: str | None, email: str | None, contact: str | None, contact_id: str | None = None
) -> Identifier:
    """The contact that options, or the argument `contact_id`, name. Raises BadParameter if they are not exactly one."""
    if contact_id is not None and contact is not None:
        raise typer.BadParameter("expected CONTACT or --contact, got both")
    if contact_id is not None and not contact_id.strip().startswith("ct_"):
        hint = "--email, --external-id and --visitor take other identifiers"
        raise typer.BadParameter(f"expected the id of a contact, ct_…, got {contact_id!r}; {hint}")
    identifier = Identifier(visitor, external_id, email, contact_id or contact)
    if sum(each is not None for each in identifier) != 1:
        raise typer.BadParameter("expected exactly one of --visitor, --external-id, --email and --contact")
    return identifier


SearchOption = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="WORDS",
        callback=check_text,
        help="Only contacts with all of these words in their name, e-mail, external id or contact id.",
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        callback=_each(filters.parse),
        help="Only contacts that a filter matches, such as 'plan=pro and mrr>=99'; can be repeated.",
    ),
]
SeenBefore = Annotated[
    str | None,
    typer.Option(
        "--seen-before",
        metavar="TIME|AGE",
        callback=_callback(_check_time),
        help="Only contacts last seen before this time, or longer ago than an age such as 30d.",
    ),
]
SortOption = Annotated[
    str | None,
    typer.Option(
        "--sort",
        metavar="[-]FIELD",
        callback=_callback(lambda text: filters.field(text.removeprefix("-"))),
        help="Sort by this field or metadata key, with - in front for descending. Default of a search: -createdAt.",
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="FIELD", callback=_callback(filters.field), help="Count by the values of this field or key."),
]


def filter_from(where: list[str] | None, seen_before: str | None) -> Filter | None:
    """The filter that options name. Raises BadParameter if it has too many comparisons."""
    given = [filters.parse(text) for text in where or ()]
    if seen_before is not None:
        given.append(filters.parse(f'lastSeenAt before "{seen_before}"'))
    try:
        return filters.all_of(given)
    except filters.WrongFilter as wrong:
        raise typer.BadParameter(str(wrong)) from wrong


def repeated_options(settings: Settings, *names: str) -> str:
    """The options that a suggested command needs to use the same log: the settings that differ from the environment.

    Omits the password of a URL.
    """
    found = Settings()
    differing = [name for name in names if getattr(settings, name) != getattr(found, name)]
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(shown_url(str(getattr(settings, name))))}" for name in differing)


def shown_url(url: str) -> str:
    """A URL without its login, or any other value unchanged, for printing."""
    return hide_password(url) if "://" in url and "@" in url else url


def settings_from(**options: Any) -> Settings:
    """The settings of the environment, overridden by options that are not None. Raises BadParameter."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter(wrong_settings(error)) from error
