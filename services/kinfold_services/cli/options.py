"""Options that commands share, and the settings that come of them."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kinfold_schemas.keys import check_workspace
from kinfold_schemas.positions import position_key
from kinfold_services.replay.moments import parse_moment
from kinfold_services.settings import Settings


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


def settings_from(**options: Any) -> Settings:
    """The environment's settings, with the options that were given."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter("; ".join(map(_sentence, error.errors()))) from error


def _sentence(wrong: ErrorDetails) -> str:
    setting = str(wrong["loc"][0])  # what follows is a place in a list
    what = wrong["msg"].removeprefix("Value error, ")
    if setting == "redis_url":  # there may be a password in it
        return what
    return f"{setting} (KINFOLD_{setting.upper()}): found {wrong['input']!r}; {what}"
