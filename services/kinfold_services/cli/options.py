"""Options that commands share, and the settings that result from them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from kinfold_schemas.keys import check_workspace
from kinfold_schemas.positions import position_key
from kinfold_schemas.urls import hide_password
from kinfold_services.history.moments import parse_moment
from kinfold_services.settings import Settings, wrong_settings

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


check_workspace_name: Final = _callback(check_workspace)
check_position: Final = _callback(position_key)
"""For a position, or the id of a feed entry."""
check_text: Final = _callback(str.encode)
"""For an identifier: bytes that are not UTF-8 cannot be part of one."""


def check_workspace_names(values: list[str] | None) -> list[str] | None:
    """As `check_workspace_name`, for an option that can be repeated."""
    for value in values or ():
        check_workspace_name(value)
    return values


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
