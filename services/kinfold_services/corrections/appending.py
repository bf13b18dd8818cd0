"""Appends a correction to the log, once it was tried on the stored state."""

import asyncio
import time
import uuid
from importlib.resources import files
from typing import Final, cast

import msgspec

import kinfold_services.corrections
from kinfold_schemas.codec import encode_event
from kinfold_schemas.events import IdentityCorrected
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Rejection
from kinfold_services.connections import Client
from kinfold_services.corrections.preview import Preview, preview
from kinfold_services.state.queries import NotFolded

_APPEND: Final = files(kinfold_services.corrections).joinpath("append.lua").read_text()
_HOLDS_UP_S: Final = 60
_WAIT_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.01


class Refused(Exception):
    """The fold would reject the correction; nothing was appended."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.detail)
        self.rejection = rejection


class Moved(Exception):
    """The contact has changed since the preview; nothing was appended."""


class Appended(msgspec.Struct, frozen=True):
    """A correction in the log, and what it changes."""

    position: str | None
    """None where it would change nothing, and was not appended."""
    preview: Preview


async def append(
    client: Client, workspace: str, rules: IdentifierRules, event: IdentityCorrected, *, if_version: int | None = None
) -> Appended:
    """Append a correction, unless it would change nothing.

    With `if_version`, only if the contact has this version. An event without an id gets one.

    Raises:
        Refused: the fold would reject it.
        Moved: the contact has another version.
        NotFolded: an earlier correction is in the log and was not folded within 5 s, so that the version is not known.
        RedisError: it may be in the log or not. It is safe to try again with the same event id.

    """
    found = await preview(client, workspace, rules, event)
    if found.rejection is not None:
        raise Refused(found.rejection)
    if not found.changes_anything:
        if if_version not in {None, found.version}:
            raise _moved(found.contact_id, if_version, str(found.version))
        return Appended(None, found)
    event = msgspec.structs.replace(event, contact_id=found.contact_id, id=event.id or uuid.uuid4().hex)
    return Appended(await _append(client, workspace, event, if_version), found)


async def _append(client: Client, workspace: str, event: IdentityCorrected, if_version: int | None) -> str:
    script = client.register_script(_APPEND)
    keys = [key(workspace, "events"), key(workspace, "contacts"), key(workspace, "position"), key(workspace, "corrected")]
    version = "" if if_version is None else str(if_version)
    deadline = time.monotonic() + _WAIT_S
    while True:
        reply = await script(keys=keys, args=[encode_event(event), event.contact_id, version, _HOLDS_UP_S])
        state, value = (each.decode() for each in cast("list[bytes]", reply))
        if state == "appended":
            return value
        if state == "moved":
            raise _moved(event.contact_id, if_version, value or "none")
        if time.monotonic() > deadline:
            raise NotFolded(f"position {value} was not folded within {_WAIT_S:g} s; is a projector running?")
        await asyncio.sleep(_LOOK_AGAIN_S)


def _moved(contact_id: str, expected: int | None, version: str) -> Moved:
    return Moved(f"contact {contact_id}: expected version {expected}, got {version}; it has changed since the preview")
