"""Corrections by hand over HTTP (contract section 5): preview, append, and take back. For secret keys only."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.params import FromPath, QueryParameter

from kinfold_schemas.codec import decode_event
from kinfold_schemas.contacts import merged_into
from kinfold_schemas.event_fields import decode_members
from kinfold_schemas.events import IdentityCorrected
from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Rejection, found
from kinfold_services.corrections.appending import Appended, Moved, Refused, append
from kinfold_services.corrections.preview import preview as preview_of
from kinfold_services.corrections.process import NotAnswered, NotTakenBack, take_back_apart
from kinfold_services.corrections.undoing import TakenBack
from kinfold_services.gateway.callers import bounds_of, caller_of, secret_key
from kinfold_services.gateway.events.bodies import read_body
from kinfold_services.gateway.openapi import CorrectionOperation, UndoOperation, answers
from kinfold_services.gateway.problems import Problem, unavailable, wrong_body
from kinfold_services.gateway.workspaces import GatewayWorkspace, shared
from kinfold_services.settings import Settings

IsPreview = Annotated[bool, QueryParameter(name="preview", description="Only answer what would change")]

MAX_REASON_CHARS: Final = 8192
_STATUSES: Final = {"unknown-contact": 404, "held-by-another": 409}
_encode: Final = msgspec.json.Encoder().encode
_undoing: Final = asyncio.Semaphore(1)
"""Taking back folds the whole log: one at a time."""


class _Version(msgspec.Struct, rename="camel"):
    if_version: int | None = None


class _Undo(msgspec.Struct):
    by: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\0]*\Z")]
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS, pattern=r"^[^\0]*\Z")] | None = None


_UNDO_FIELDS: Final = {
    "by": "a string of 1 to 255 characters without NUL",
    "reason": f"a string of at most {MAX_REASON_CHARS} characters without NUL, or null",
}
_decode_version: Final = msgspec.json.Decoder(_Version).decode
_decode_undo: Final = msgspec.json.Decoder(_Undo).decode


@post(
    "/v1/corrections",
    guards=[secret_key],
    status_code=202,
    operation_class=CorrectionOperation,
    responses={**answers(Appended), **answers(Appended, 400, 401, 403, 404, 409, 413, 415, 422, 429, 503, status=202)},
    tags=["corrections"],
    summary="Correct a contact by hand",
)
async def correct(
    request: Request[Any, Any, Any],
    preview: IsPreview = False,  # noqa: FBT002  a query parameter
) -> Response[bytes]:
    """Append a correction, and answer what it changes. With `?preview=true` only answer that (200).

    A correction that would change nothing is not appended: `position` is null. `ifVersion` is the `version` of a preview: if
    the contact has changed since, the answer is 409. With an `id` it is safe to send the request again.
    """
    event, if_version = _read(await read_body(request, bounds_of(caller_of(request)).body_bytes))
    workspace = _workspace(request)
    rules = await workspace.rules()
    if preview:
        return _answer(Appended(None, await preview_of(workspace.client, workspace.name, rules, event)), 200)
    try:
        done = await append(workspace.client, workspace.name, rules, event, if_version=if_version)
    except Refused as refused:
        shared(request).metrics.refused.labels(workspace.name, refused.rejection.reason).inc()
        raise Problem(_STATUSES.get(refused.rejection.reason, 422), f"{refused}; nothing was appended") from None
    except Moved as moved:
        raise Problem(409, f"{moved}; nothing was appended") from None
    if done.position is not None:
        shared(request).metrics.events.labels(workspace.name, IdentityCorrected.__name__).inc()
    return _answer(done, 202)


@post(
    "/v1/corrections/{entry:str}/undo",
    guards=[secret_key],
    status_code=200,
    operation_class=UndoOperation,
    responses=answers(TakenBack, 400, 401, 403, 404, 409, 413, 415, 429, 503),
    tags=["corrections"],
    summary="Take a correction back",
)
async def undo_correction(
    request: Request[Any, Any, Any],
    entry: FromPath[str],
    preview: IsPreview = False,  # noqa: FBT002  a query parameter
) -> Response[bytes]:
    """Leave an entry of the log out for good, and rebuild the state without it. With `?preview=true` only answer what changes.

    The entry is a correction, an event that merged two contacts, or the `EventsExcluded` that took something back. It folds the
    whole log, so it takes as long as a replay. The gateway's Redis user needs the rights of a replay.
    """
    workspace = _workspace(request)
    if await workspace.entry(entry) is None:
        raise Problem(404, f"entry: expected the id of an entry of the log, got {found(entry)}")
    return await _take_back(request, "undo", entry, is_preview=preview)


@post(
    "/v1/contacts/{contact_id:str}/unmerge",
    guards=[secret_key],
    status_code=200,
    operation_class=UndoOperation,
    responses=answers(TakenBack, 400, 401, 403, 404, 409, 413, 415, 429, 503),
    tags=["corrections"],
    summary="Take the merge of a contact back",
)
async def unmerge_contact(
    request: Request[Any, Any, Any],
    contact_id: FromPath[str],
    preview: IsPreview = False,  # noqa: FBT002  a query parameter
) -> Response[bytes]:
    """Leave out every event that merged this contact into another one, as `undo` does. The id is that of the merged one."""
    workspace = _workspace(request)
    reply: Any = await workspace.client.hget(key(workspace.name, "contacts"), contact_id)
    if reply is None or merged_into(reply) is None:
        raise Problem(404, f"contact: expected the id of a contact that was merged into another one, got {found(contact_id)}")
    return await _take_back(request, "unmerge", contact_id, is_preview=preview)


def _workspace(request: Request[Any, Any, Any]) -> GatewayWorkspace:
    return shared(request).workspace(caller_of(request).workspace)


def _read(body: bytes) -> tuple[IdentityCorrected, int | None]:
    """The correction in a body, and `ifVersion`. Raises Problem: 400 for another form, 422 for an invalid event."""
    try:
        members = decode_members(body)
        version = _decode_version(body).if_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = {"ifVersion": "an integer or null"}
        raise wrong_body(body, error, "a correction as a JSON object", expected) from error
    for name in ("ifVersion", "source", "type"):
        members.pop(name, None)
    event = decode_event(_encode({"type": IdentityCorrected.__name__, **members}))
    if isinstance(event, Rejection):
        raise Problem(422, f"{event.detail}; nothing was appended")
    assert isinstance(event, IdentityCorrected)  # noqa: S101  its type says so
    return event, version


async def _take_back(request: Request[Any, Any, Any], command: str, subject: str, *, is_preview: bool) -> Response[bytes]:
    body = await read_body(request, bounds_of(caller_of(request)).body_bytes)
    try:
        who = _decode_undo(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wrong_body(body, error, "a JSON object with by and reason", _UNDO_FIELDS) from error
    settings = shared(request).settings.model_copy(update={"workspace": _workspace(request).name})
    answer = await taken_back(settings, command, subject, by=who.by, reason=who.reason, dry_run=is_preview)
    return Response(answer.rstrip(), media_type="application/json")


async def taken_back(  # noqa: PLR0913  as `take_back_apart`
    settings: Settings, command: str, subject: str, *, by: str, reason: str | None, dry_run: bool
) -> bytes:
    """What `take_back_apart` answers, for one caller of this process at a time. Raises Problem: 409 and 503."""
    if _undoing.locked():
        raise unavailable("another correction is being taken back, which folds the whole log; try again in a moment")
    async with _undoing:
        try:
            return await take_back_apart(settings, command, [subject], by=by, reason=reason, dry_run=dry_run)
        except NotTakenBack as error:
            raise Problem(409, str(error)) from None
        except NotAnswered as error:
            raise unavailable(str(error)) from None


def _answer(done: Appended, status: int) -> Response[bytes]:
    return Response(_encode(done), status_code=status, media_type="application/json")
