"""Erasing a person by hand: what will go, a confirmation that is typed, and the receipt (contract section 10).

The confirmation page folds the log for its dry run. The projector does the erasure itself, as it does for `POST /v1/erasures`.
"""

from typing import Any, Final, NamedTuple

from litestar import Request, Response, get, post
from litestar.params import FromPath

from kinfold_schemas.contacts import Contact
from kinfold_schemas.identifiers import email_key, id_key
from kinfold_services.connections import Client
from kinfold_services.gateway.erasures import MAX_REASON_CHARS, eraser_of
from kinfold_services.gateway.problems import Problem
from kinfold_services.gateway.screen.folding import fold_log
from kinfold_services.gateway.screen.pages import html, is_fragment, page, redirect, render
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.person import living
from kinfold_services.gateway.screen.sessions import form_of, reason_of, require_secret, session_of, workspace_of
from kinfold_services.gateway.workspaces import shared
from kinfold_services.log.pages import NoLog
from kinfold_services.privacy.eraser import ELSEWHERE, Eraser
from kinfold_services.privacy.planning import Plan
from kinfold_services.privacy.receipt_page import facts_of, removed_of
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier

MAX_LISTED: Final = 50
"""How many identifiers of a kind the confirmation page lists."""

_MISMATCH: Final = "Type the contact id, the e-mail or the external id of this person to confirm. Nothing was erased."
_CHANGED: Final = "This person has changed since the page was made, so nothing was erased. This is what would go now."


class Going(NamedTuple):
    """Identifiers of a kind that an erasure removes, or that stay with other people."""

    label: str
    listed: list[str]
    more: int
    """How many are left out."""


@get("/people/{contact_id:str}/erase")
async def erase(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """What an erasure would remove, and the form that confirms it."""
    require_secret(request)
    return await _confirmation(request, await living(workspace_of(request), contact_id))


@post("/people/{contact_id:str}/erase")
async def confirm_erasure(request: Request[Any, Any, Any], contact_id: FromPath[str]) -> Response[bytes]:
    """Request the erasure, if the form names the person and they are as the page showed them."""
    require_secret(request)
    fields = await form_of(request)
    workspace = workspace_of(request)
    contact = await living(workspace, contact_id)
    reason = reason_of(fields, MAX_REASON_CHARS)
    if not _names(fields.get("confirm", ""), contact):
        return await _confirmation(request, contact, _MISMATCH, 422, reason)
    if fields.get("version") != str(contact.version):
        return await _confirmation(request, contact, _CHANGED, 409, reason)
    eraser = eraser_of(request, workspace)
    receipt = await eraser.request([Identifier(contact=contact.id)], by=session_of(request).session.by, reason=reason)
    return redirect(f"/erasures/{receipt.erasure}")


@get("/erasures/{erasure:str}")
async def erasure_page(request: Request[Any, Any, Any], erasure: FromPath[str]) -> Response[bytes]:
    """The receipt of an erasure, pending or done. It has no personal data."""
    require_secret(request)
    receipt = await eraser_of(request, workspace_of(request)).records.receipt(erasure)
    if receipt is None:
        raise Problem(404, f"No erasure has the id {erasure!r}.")
    shown: dict[str, Any] = {"receipt": receipt, "facts": facts_of(receipt), "removed": removed_of(receipt.removed)}
    if is_fragment(request):
        return html(request, render("_erasure.html", **shown))
    return page(request, "erasure.html", **chrome(request), **shown)


async def _confirmation(
    request: Request[Any, Any, Any], contact: Contact, warning: str | None = None, status: int = 200, reason: str | None = None
) -> Response[bytes]:
    settings = shared(request).settings.model_copy(update={"workspace": workspace_of(request).name})
    try:
        plan = await fold_log(settings, lambda client, settings: _plan(client, settings, Identifier(contact=contact.id)))
    except NoLog as error:
        raise Problem(409, str(error)) from error
    if plan is None:
        raise Problem(409, "The log does not have this person any more. Load the page again.")
    shown: dict[str, Any] = {
        "contact": contact,
        "going": _going(contact, plan),
        "removed": plan.removed,
        "elsewhere": ELSEWHERE,
        "warning": warning,
        "reason": reason,
        "max_reason_chars": MAX_REASON_CHARS,
    }
    return page(request, "erase.html", status=status, **chrome(request), **shown)


async def _plan(client: Client, settings: Settings, identifier: Identifier) -> Plan | None:
    """The dry run; None if the log does not have the person."""
    eraser = Eraser(client, settings)
    log, people = await eraser.find([identifier])
    return await eraser.preview(log, people) if people.found else None


def _going(contact: Contact, plan: Plan) -> list[Going]:
    theirs = plan.belongings
    kinds = {
        "E-mails": theirs.emails - theirs.shared_emails,
        "External ids": theirs.external_ids,
        "Merged contacts": theirs.contacts - {contact.id},
        "Devices": theirs.visitors - theirs.shared_visitors,
        "Shared devices, which stay with the other people": theirs.shared_visitors,
        "Former e-mails, which stay with the people who have them now": theirs.shared_emails,
    }
    return [Going(label, sorted(each)[:MAX_LISTED], max(0, len(each) - MAX_LISTED)) for label, each in kinds.items() if each]


def _names(text: str, contact: Contact) -> bool:
    """Whether the text is one of the person's identifiers."""
    text = text.strip()
    return bool(text) and (
        text == contact.id
        or (contact.email is not None and email_key(text) == email_key(contact.email))
        or (contact.external_id is not None and id_key(text) == id_key(contact.external_id))
    )
