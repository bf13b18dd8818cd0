"""Settings: from the environment (`KINFOLD_…`), overridden by the command line's options."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace
from kinfold_services.connections import check_url

Workspace = Annotated[str, AfterValidator(check_workspace)]

_PREFIX: Final = "KINFOLD_"
_OTHERS: Final = frozenset({"KINFOLD_DETACHED", "KINFOLD_TEST_REDIS_URL", "KINFOLD_TEST_SEED"})
"""Variables that are not settings, but have a meaning for kinfold or its tests."""
_KUBERNETES: Final = re.compile(r"KINFOLD_(\w+_)?(SERVICE_(HOST|PORT\w*)=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)\w*=.*)")
"""Kubernetes sets these in every container where a service is called `kinfold` or `kinfold-…`."""

_NEAR: Final = 0.75
"""How alike two names must be, from 0 to 1, for one to be taken for a misspelling of the other."""

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


def _listed(value: Any) -> Any:
    return [item for item in map(str.strip, value.split(",")) if item] if isinstance(value, str) else value


def _some(workspaces: frozenset[str] | None) -> frozenset[str] | None:
    if workspaces is not None and not workspaces:
        raise ValueError("expected workspaces, separated by commas, got none")
    return workspaces


def _check_origin(origin: str) -> str:
    """As a browser writes it, or it would never be the one that asks. Raises ValueError."""
    if origin != "*" and _ORIGIN.fullmatch(origin) is None:
        expected = "* or an origin such as https://app.example.org or http://localhost:3000, without a path"
        raise ValueError(f"expected {expected}, got {origin!r}")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]


class Settings(BaseSettings):
    """What can be set. Every field is also an environment variable: `batch_entries` is `KINFOLD_BATCH_ENTRIES`.

    An empty variable is none: `${KINFOLD_SERVE:-}` in a compose file must not mean a projector that serves nobody.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore")

    redis_url: Annotated[str, AfterValidator(check_url)] | None = None
    """Where the log is: `redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://host:port/master/0`.
    None: the embedded server of the data dir."""
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Path(".kinfold")
    """Where the embedded server keeps its data."""
    workspace: Workspace = DEFAULT_WORKSPACE
    """The workspace that a command is about."""
    serve: Annotated[frozenset[Workspace] | None, NoDecode, BeforeValidator(_listed), AfterValidator(_some)] = None
    """The workspaces that a projector serves, separated by commas.
    None: `default`, and the members of `kinfold:workspaces` as they come."""
    batch_entries: int = Field(default=150, ge=1, le=10_000)
    """How many log entries the projector folds in one transaction, at most. A batch must take less time than a lease lasts."""
    feed_entries: int = Field(default=1_000_000, ge=1)
    """How many entries the change feed of a workspace keeps, about."""
    cached_records: int = Field(default=200_000, ge=0)
    """How many visitors, contacts and identifiers of a workspace the projector keeps in memory between batches, of each."""
    snapshot_entries: int = Field(default=100_000, ge=0)
    """After how many log entries looking back keeps a snapshot, to begin there the next time. 0: never."""
    gateway_host: str = "127.0.0.1"
    """Where the gateway listens."""
    gateway_port: int = Field(default=8000, ge=0, le=65_535)
    """0: any port that is free."""
    gateway_origins: Annotated[frozenset[Origin], NoDecode, BeforeValidator(_listed)] = frozenset()
    """The origins whose pages may use the gateway from a browser (CORS), separated by commas; `*` is everyone's."""
    gateway_requests_per_s: float = Field(default=1000, gt=0)
    """How often a secret key may ask from one address; bursts may be twice that."""
    gateway_browser_requests_per_s: float = Field(default=20, gt=0)
    """How often a publishable key may, bursts of three times that; and who has no key, bursts of ten times that."""
    gateway_buffer_entries: int = Field(default=5_000, ge=1)
    """How many changes may wait for one reader of the feed before it is cut off."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """How logs are written: `console`, `json`, or by whether standard error is a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The `KINFOLD_…` variables that nothing reads, each with a sentence that names the setting that may be meant."""
    known = {_PREFIX + field.upper() for field in Settings.model_fields}
    sentences: dict[str, str] = {}
    for name in sorted(environment):
        upper = name.upper()  # pydantic-settings reads them in either case
        if not upper.startswith(_PREFIX) or upper in known | _OTHERS or _KUBERNETES.fullmatch(f"{upper}={environment[name]}"):
            continue
        near = difflib.get_close_matches(upper, sorted(known), n=1, cutoff=_NEAR)
        hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}"
        sentences[name] = f"{name}: this variable is ignored, because kinfold has no such setting; {hint}"
    return sentences


def wrong_settings(error: ValidationError) -> str:
    """What is wrong with the settings, in a sentence that shows no password."""
    return "; ".join(map(_sentence, error.errors()))


def _sentence(wrong: ErrorDetails) -> str:
    setting = str(wrong["loc"][0])  # what follows is a place in a list
    what = wrong["msg"].removeprefix("Value error, ")
    if setting == "redis_url":  # there may be a password in it
        return what
    if wrong["type"] != "value_error":  # a validator of ours shows the value itself
        what = f"{what[:1].lower()}{what[1:]}, got {wrong['input']!r}"
    return f"{setting} ({_PREFIX}{setting.upper()}): {what}"
