"""Settings: from the environment (`KINFOLD_…`), overridden by the command line's options."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kinfold_schemas.keys import DEFAULT_WORKSPACE, check_workspace
from kinfold_services.connections import check_url

Workspace = Annotated[str, AfterValidator(check_workspace)]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


def _listed(value: Any) -> Any:
    return [item for item in map(str.strip, value.split(",")) if item] if isinstance(value, str) else value


def _some(workspaces: frozenset[str] | None) -> frozenset[str] | None:
    if workspaces is not None and not workspaces:
        raise ValueError("allowed are workspaces, separated by commas")
    return workspaces


def _check_origin(origin: str) -> str:
    """As a browser writes it, or it would never be the one that asks. Raises ValueError."""
    if origin != "*" and _ORIGIN.fullmatch(origin) is None:
        raise ValueError("allowed is * or an origin such as https://app.example.org or http://localhost:3000, without a path")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]


class Settings(BaseSettings):
    """What can be set. Every field is also an environment variable: `batch_entries` is `KINFOLD_BATCH_ENTRIES`.

    An empty variable is none: `${KINFOLD_SERVE:-}` in a compose file must not mean a projector that serves nobody.
    """

    model_config = SettingsConfigDict(env_prefix="KINFOLD_", env_ignore_empty=True, extra="ignore")

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
    log_format: str = Field(default="auto", pattern="^(auto|console|json)$")
    """How logs are written: `console`, `json`, or by whether standard error is a terminal."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
