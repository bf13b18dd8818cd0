"""Settings, from the environment (`KINFOLD_…`) and, with precedence, from the options of the command line."""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace
from kinfold_services.connections import check_url

WorkspaceName = Annotated[str, AfterValidator(check_workspace)]

_PREFIX: Final = "KINFOLD_"
_OTHERS: Final = frozenset({"KINFOLD_DETACHED", "KINFOLD_TEST_REDIS_URL", "KINFOLD_TEST_SEED"})
"""Variables that are not settings, but that kinfold or its tests use."""
_KUBERNETES: Final = re.compile(r"KINFOLD_(\w+_)?(SERVICE_(HOST|PORT\w*)=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)\w*=.*)")
"""Kubernetes sets these in every container if a service is called `kinfold` or `kinfold-…`."""

_NEAR: Final = 0.75
"""The similarity, from 0 to 1, from which one name counts as a misspelling of another."""

_POSTGRESQL: Final = ("postgresql+psycopg", "postgresql", "postgres")
"""The schemes of a directory URL; the first one is SQLAlchemy's."""

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


def _listed(value: Any) -> Any:
    return [item for item in map(str.strip, value.split(",")) if item] if isinstance(value, str) else value


def _some(workspaces: frozenset[str] | None) -> frozenset[str] | None:
    if workspaces is not None and not workspaces:
        raise ValueError("expected workspaces, separated by commas, got none")
    return workspaces


def _check_origin(origin: str) -> str:
    """Accept only the form that browsers send: any other origin would never match. Raises ValueError."""
    if origin != "*" and _ORIGIN.fullmatch(origin) is None:
        expected = "* or an origin such as https://app.example.org or http://localhost:3000, without a path"
        raise ValueError(f"expected {expected}, got {origin!r}")
    return origin


def _networks(value: Any) -> Any:
    """Addresses and networks, as networks. Raises ValueError."""
    try:
        return [ipaddress.ip_network(each) if isinstance(each, str) else each for each in _listed(value)]
    except ValueError as error:
        raise ValueError(f"expected addresses and networks such as 10.0.0.0/8, separated by commas, got {value!r}") from error


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Origin = Annotated[str, AfterValidator(_check_origin)]


def _check_directory_url(url: str) -> str:
    """Return the URL with SQLAlchemy's name of the driver. Raises ValueError; shows no password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _POSTGRESQL:
        got = f"{scheme}://…" if separator and re.fullmatch(r"[\w+]+", scheme) else "another form"
        raise ValueError(f"expected a URL such as postgresql+psycopg://user:password@host:5432/database, got {got}")
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError("expected a port from 0 to 65535 in the URL, got something else") from error
    return f"{_POSTGRESQL[0]}://{rest}"


class Settings(BaseSettings):
    """The settings. Every field is also an environment variable: `batch_entries` is `KINFOLD_BATCH_ENTRIES`.

    An empty variable counts as unset: `${KINFOLD_SERVE:-}` in a compose file must not mean "serve no workspace".
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    redis_url: Annotated[str, AfterValidator(check_url)] | None = Field(default=None, repr=False)
    """The URL of the log's server: `redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://host:port/master/0`.
    Unset: the embedded server of the data dir."""
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Path(".kinfold")
    """The directory of the embedded server's data."""
    workspace: WorkspaceName = DEFAULT_WORKSPACE
    """The workspace that a command works on."""
    serve: Annotated[frozenset[WorkspaceName] | None, NoDecode, BeforeValidator(_listed), AfterValidator(_some)] = None
    """The workspaces that a projector serves, separated by commas.
    Unset: `default` and all members of `kinfold:workspaces`, also later ones."""
    batch_entries: int = Field(default=150, ge=1, le=10_000)
    """The maximum number of log entries that the projector folds in one transaction. A batch must take less time than a lease
    lasts."""
    feed_entries: int = Field(default=1_000_000, ge=1)
    """The approximate number of entries that the change feed of a workspace keeps."""
    feed_bytes: int = Field(default=4 * 1024**3, ge=1)
    """How many bytes the change feed of a workspace keeps, approximately, if it keeps fewer entries for that."""
    cache_bytes: int = Field(default=128 * 1024 * 1024, ge=0)
    """How many bytes of a workspace's stored visitors and contacts the projector caches between batches. They take about three
    times as much memory. When the cache is full, the projector empties it, and loads again what events name."""
    snapshot_entries: int = Field(default=100_000, ge=0)
    """Queries of the past store a snapshot after this many log entries, from which the next query starts. 0: no snapshots."""
    retention_check_s: float = Field(default=3600, gt=0)
    """How often the projector looks whether a workspace holds data older than its retention allows, in seconds."""
    directory_url: Annotated[str, AfterValidator(_check_directory_url)] | None = Field(default=None, repr=False)
    """The URL of the directory's database: `postgresql+psycopg://user:password@host:5432/database` (PostgreSQL 14 or newer).
    Unset: SQLite, in the file `directory.db` of the data dir."""
    gateway_host: str = "127.0.0.1"
    """The address on which the gateway listens."""
    gateway_port: int = Field(default=8000, ge=0, le=65_535)
    """The port on which the gateway listens. 0: any free port."""
    gateway_origins: Annotated[frozenset[Origin], NoDecode, BeforeValidator(_listed)] = frozenset()
    """The origins whose pages may use the gateway from a browser (CORS), separated by commas; `*` allows all. Unset: those of
    this machine (`http://localhost:3000`), if the gateway listens on it alone."""
    gateway_requests_per_s: float = Field(default=1000, gt=0)
    """The rate limit of a secret key per address; bursts may be twice as large."""
    gateway_browser_requests_per_s: float = Field(default=20, gt=0)
    """The rate limit per address of a publishable key, with bursts three times as large, and of requests without a valid key,
    with bursts ten times as large. `/healthz` is not limited."""
    gateway_browser_events_per_s: float = Field(default=100, gt=0)
    """How many events a second the gateway accepts with a publishable key from an address. Bursts may be three times as
    large."""
    gateway_connections_per_address: int = Field(default=1000, ge=1)
    """The maximum number of open connections from one address, or from one /64 network of IPv6. Never more than half of
    what the process may open. Behind a proxy, all connections come from the proxy's address."""
    gateway_trusted_proxies: Annotated[frozenset[Network], NoDecode, BeforeValidator(_networks)] = frozenset()
    """The proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` the gateway believes: addresses and networks such as
    `10.0.0.0/8`, separated by commas. Unset: none, and the address of a client is the one that connects."""
    gateway_buffer_entries: int = Field(default=5_000, ge=1)
    """How many changes may wait for a slow reader of the feed before the gateway disconnects it."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """The form of the logs: `console`, `json`, or `auto`: `console` if standard error is a terminal, else `json`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def inherited_environment() -> dict[str, str]:
    """What a kinfold process inherits from this one: the environment without the variables that this one has reported.

    Add the URL of the server to it, and not to the command line, which every user can read: the URL may have a password.
    """
    unknown = unknown_variables(os.environ)
    return {name: value for name, value in os.environ.items() if name not in unknown}


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The `KINFOLD_…` variables that are not settings, each with a sentence that suggests the setting that may be meant."""
    known = {_PREFIX + field.upper() for field in Settings.model_fields}
    sentences: dict[str, str] = {}
    for name in sorted(environment):
        upper = name.upper()  # pydantic-settings ignores case
        if not upper.startswith(_PREFIX) or upper in known | _OTHERS or _KUBERNETES.fullmatch(f"{upper}={environment[name]}"):
            continue
        near = difflib.get_close_matches(upper, sorted(known), n=1, cutoff=_NEAR)
        hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}"
        sentences[name] = f"{name}: this variable is ignored, because kinfold has no such setting; {hint}"
    return sentences


def wrong_settings(error: ValidationError) -> str:
    """A sentence about the invalid settings, without any password."""
    return "; ".join(map(_sentence, error.errors()))


def _sentence(wrong: ErrorDetails) -> str:
    setting = str(wrong["loc"][0])  # the rest is a place in a list
    what = expected_and_got(wrong)
    if setting == "redis_url":  # the URL may contain a password
        return what
    return f"{setting} ({_PREFIX}{setting.upper()}): {what}"


def expected_and_got(wrong: ErrorDetails) -> str:
    """An error of pydantic as "expected X, got Y". Our own validators say that themselves."""
    bounds = wrong.get("ctx", {})
    match wrong["type"]:
        case "value_error":
            return wrong["msg"].removeprefix("Value error, ")
        case "int_parsing" | "int_parsing_size" | "int_type" | "int_from_float":
            expected = "an integer"
        case "float_parsing" | "float_type" | "finite_number":
            expected = "a number"
        case "bool_parsing" | "bool_type":
            expected = "true or false"
        case "literal_error":
            expected = str(bounds["expected"])
        case "greater_than":
            expected = f"more than {bounds['gt']:g}"
        case "greater_than_equal":
            expected = f"at least {bounds['ge']}"
        case "less_than_equal":
            expected = f"at most {bounds['le']}"
        case _:
            expected = wrong["msg"][:1].lower() + wrong["msg"][1:]
    return f"expected {expected}, got {wrong['input']!r}"
