"""Options that commands share, and the settings that come of them."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from kinfold_schemas.keys import check_workspace
from kinfold_schemas.positions import position_key
from kinfold_schemas.urls import hide_password
from kinfold_services.replay.moments import parse_moment
from kinfold_services.settings import Settings, wrong_settings


def check_workspace_name(value: str | None) -> str | None:
    """A workspace's name as it was given. Raises BadParameter for what cannot be one."""
    return value if value is None else _checked(lambda: check_workspace(value))


def check_workspace_names(values: list[str] | None) -> list[str] | None:
    """Several of them. Raises BadParameter."""
    return values if values is None else [_checked(partial(check_workspace, value)) for value in values]


def check_position(value: str | None) -> str | None:
    """A position, or an entry's id on the feed, as it was given. Raises BadParameter for what is none."""
    if value is not None:
        _checked(lambda: position_key(value))
    return value


def check_text(value: str | None) -> str | None:
    """An identifier as it was given. Raises BadParameter for bytes that are not UTF-8: nothing can have such a name."""
    if value is not None:
        _checked(value.encode)
    return value


def _moment(value: str | None) -> str | None:
    if value is not None:
        _checked(lambda: parse_moment(value))
    return value


def _checked(check: Any) -> Any:
    try:
        return check()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="Where the log is. Default: KINFOLD_REDIS_URL, or the data dir's embedded server."),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the embedded server keeps its data. Default: ./.kinfold.")
]
WorkspaceName = Annotated[
    str | None, typer.Option("--workspace", callback=check_workspace_name, help="Default: KINFOLD_WORKSPACE, or `default`.")
]
Wait = Annotated[
    str | None,
    typer.Option("--wait", metavar="POSITION", callback=check_position, help="First wait until this position is folded."),
]
WaitTimeout = Annotated[float, typer.Option("--wait-timeout", help="For how many seconds at most.")]


At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME|POSITION", callback=_moment, help="The state as it was at a time, or after a log entry."
    ),
]


def repeated_options(settings: Settings, *names: str) -> str:
    """The options with which a command that is shown means the same log: what it does not find in the environment.

    A password in a URL is left out.
    """
    found = Settings()
    differing = [name for name in names if getattr(settings, name) != getattr(found, name)]
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(shown_url(str(getattr(settings, name))))}" for name in differing)


def shown_url(url: str) -> str:
    """A URL, or another value, as it may be printed: without its login."""
    return hide_password(url) if "://" in url and "@" in url else url


def settings_from(**options: Any) -> Settings:
    """The environment's settings, with the options that were given."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter(wrong_settings(error)) from error
