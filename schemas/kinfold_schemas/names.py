"""The identifiers in an event, normalised, without the blocked ones (contract section 2)."""

from typing import Final

import msgspec
from msgspec import UNSET

from kinfold_schemas.events import BROWSER, Erased, Event, IdentityCorrected, MetadataSet, VisitorIdentified, VisitorSeen
from kinfold_schemas.identifiers import IdentifierRules, email_key, stripped
from kinfold_schemas.rejections import Rejection


class Names(msgspec.Struct, frozen=True, gc=False):
    """The identifiers of one event, as keys. `blocked` counts the blocked ones, which are left out.

    `email` is the address as written, stripped. Its key is `email_key`.
    """

    visitor_id: str | None = None
    external_id: str | None = None
    email: str | None = None
    contact_id: str | None = None
    blocked: int = 0
    email_key: str | None = None
    """The key of the address, which is what is compared."""
    merge_contact_id: str | None = None
    """The contact that a correction merges into the other one."""


_NOBODY: Final = Names()


def named_by(  # noqa: PLR0911  a type each
    event: Event, rules: IdentifierRules
) -> Names | Rejection:
    """Return the identifiers in `event` under a workspace's rules, or why it is rejected."""
    if type(event) is VisitorSeen:
        return rules.visitor_names.get(event.visitor_id) or _visitor(event.visitor_id, rules)
    if type(event) is MetadataSet:
        if event.visitor_id is not None and event.external_id is None and event.email is None and event.contact_id is None:
            return rules.visitor_names.get(event.visitor_id) or _visitor(event.visitor_id, rules)  # the usual case
        return _people(event, rules)
    if type(event) is VisitorIdentified:
        return _people(event, rules)
    if type(event) is IdentityCorrected:
        return _corrected(event, rules)
    if type(event) is Erased:
        return _left_of(event, rules)
    return _NOBODY


def _left_of(event: Erased, rules: IdentifierRules) -> Names | Rejection:
    """The identifiers in what an erasure has left. Those that it copied are in normal form."""
    if event.kept is not None:
        return named_by(event.kept, rules)
    email = event.taken_email
    key = None if email is None else email_key(email)
    return Names(event.visitor_id, event.taken_external_id, email, event.contact_id, email_key=key)


def _visitor(visitor_id: str, rules: IdentifierRules) -> Names | Rejection:
    judged = rules.visitor_id(visitor_id)
    if type(judged) is Rejection:
        return judged
    names = Names(judged)
    if rules.remembered:
        if len(rules.visitor_names) >= rules.remembered:
            rules.visitor_names.clear()
        rules.visitor_names[visitor_id] = names
    return names


def _people(event: VisitorIdentified | MetadataSet, rules: IdentifierRules) -> Names | Rejection:
    visitor = _NOBODY
    if event.visitor_id is not None:
        judged = rules.visitor_names.get(event.visitor_id) or _visitor(event.visitor_id, rules)
        if type(judged) is Rejection:
            return judged
        visitor = judged
    visitor_id = visitor.visitor_id
    external_id = rules.external_id(event.external_id) if event.external_id is not None else None
    email = rules.email(event.email) if event.email is not None else None
    blocked: list[Rejection] = []
    if type(external_id) is Rejection:
        blocked.append(external_id)
        external_id = None
    if type(email) is Rejection:
        blocked.append(email)
        email = None
    for rejection in blocked:
        if rejection.reason != "blocked-identifier":
            return rejection
    if type(event) is MetadataSet:
        contact_id = stripped(event.contact_id) if event.contact_id is not None else None
        names = Names(visitor_id, external_id, email, contact_id, len(blocked), email_key(email) if email is not None else None)
        return _check_target(names, blocked) or names
    if external_id is None and email is None:
        return blocked[0] if blocked else Rejection("no-identifier", "externalId, email", "at least one of them", "neither")
    return Names(visitor_id, external_id, email, None, len(blocked), email_key(email) if email is not None else None)


def _check_target(names: Names, blocked: list[Rejection]) -> Rejection | None:
    targets = names.visitor_id, names.external_id, names.email, names.contact_id
    if targets.count(None) == len(targets) - 1:
        return None
    given = [field for field, value in zip(_TARGETS, targets, strict=True) if value is not None]
    if given:
        return Rejection("invalid", ", ".join(given), "exactly one target", f"{len(given)} targets")
    return blocked[0] if blocked else Rejection("no-identifier", ", ".join(_TARGETS), "exactly one target", "none")


_TARGETS: Final = ("visitorId", "externalId", "email", "contactId")


# --- corrections


_CORRECTIONS: Final = ("mergeContactId", "unlinkVisitorId", "dismissConflict")
_VALUES: Final = ("externalId", "email", "name", "image", "metadata", "unset")


def _corrected(event: IdentityCorrected, rules: IdentifierRules) -> Names | Rejection:
    """The identifiers in a correction (contract section 5, Corrections). A blocked one rejects it."""
    if event.source == BROWSER:
        return Rejection("not-allowed", "source", "a correction from a trusted source", "one from a page")
    values = event.external_id, event.email, event.name, event.image, event.metadata or UNSET, event.unset or UNSET
    forms = [event.merge_contact_id, event.unlink_visitor_id, event.dismiss_conflict]
    given = [field for field, value in zip(_CORRECTIONS, forms, strict=True) if value is not None]
    valued = [field for field, value in zip(_VALUES, values, strict=True) if value is not UNSET]
    if len(given) + bool(valued) != 1:
        expected = f"exactly one of {', '.join(_CORRECTIONS)}, or some of {', '.join(_VALUES)}"
        return Rejection("invalid", "event", expected, ", ".join(given + valued) or "none of them")
    visitor_id = rules.visitor_id(event.unlink_visitor_id) if event.unlink_visitor_id is not None else None
    external_id = rules.external_id(event.external_id) if isinstance(event.external_id, str) else None
    address = event.email if event.dismiss_conflict is None else event.dismiss_conflict
    email = rules.email(address) if isinstance(address, str) else None
    fields = "unlinkVisitorId", "externalId", "email" if event.dismiss_conflict is None else "dismissConflict"
    for field, judged in zip(fields, (visitor_id, external_id, email), strict=True):
        if type(judged) is Rejection:
            return msgspec.structs.replace(judged, field=field)
    return Names(
        _text(visitor_id),
        _text(external_id),
        _text(email),
        stripped(event.contact_id),
        0,
        email_key(email) if isinstance(email, str) else None,
        stripped(event.merge_contact_id) if event.merge_contact_id is not None else None,
    )


def _text(judged: str | Rejection | None) -> str | None:
    return judged if isinstance(judged, str) else None
