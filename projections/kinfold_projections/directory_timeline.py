"""A change of the feed as a row of the directory's timeline: what changed, from what to what, and the rule of the contract."""

from collections.abc import Mapping
from typing import Final

from kinfold_projections import rules
from kinfold_projections.directory import Row
from kinfold_projections.directory_feed import REPLAY, VISITORS, FeedChange, FeedEntry
from kinfold_schemas.contacts import Contact

TimelineRow = tuple[int, int, str, str, str, str, str, Row]
"""Position (ms and number), contact, type, time, cause, rule, details."""


def timeline_row(entry: FeedEntry, known: Contact | None) -> TimelineRow:
    """The row of a change; `known` is the contact before it."""
    change, (ms, seq) = entry.change, entry.position
    details: Row = {}
    if change.type == "ContactCreated":
        if entry.contact is not None:
            details["changed"] = _set_fields(entry.contact)
    elif change.changed:
        details["changed"] = [_difference(name, known, entry.contact) for name in change.changed]
    if change.type not in _PLAIN:
        for attribute, name in _DETAILS:
            if (value := getattr(change, attribute)) is not None:
                details[name] = value
    return ms, seq, change.contact_id, change.type, change.at, change.cause, _rule(change), details


_PLAIN: Final = frozenset({"ContactCreated", "ContactUpdated", "ContactGone"})
_DETAILS: Final = (
    ("visitor_id", "visitorId"),
    ("previous_contact_id", "previousContactId"),
    ("next_contact_id", "nextContactId"),
    ("merged_contact_id", "mergedContactId"),
    ("email", "email"),
    ("held_by", "heldBy"),
    ("reason", "reason"),
)
_FIELDS: Final = dict(zip(Contact.__struct_encode_fields__, Contact.__struct_fields__, strict=True))
_METADATA: Final = "metadata."


def _set_fields(contact: Contact) -> list[Row]:
    """The fields of a new contact that have a value."""
    told = (
        ("externalId", contact.external_id),
        ("email", contact.email),
        ("name", contact.name),
        ("image", contact.image),
    )
    fields: list[Row] = [{"field": name, "after": value} for name, value in told if value is not None]
    return fields + [{"field": _METADATA + key, "after": value} for key, value in contact.metadata.items()]


def _difference(name: str, old: Contact | None, new: Contact | None) -> Row:
    """A field before and after. An absent value has no `before` or no `after`."""
    difference: Row = {"field": name}
    if name == VISITORS:  # up to 100 ids each
        return difference
    for side, contact in (("before", old), ("after", new)):
        if contact is None:
            continue
        if name.startswith(_METADATA):
            key = name[len(_METADATA) :]
            if key in contact.metadata:
                difference[side] = contact.metadata[key]
        elif (attribute := _FIELDS.get(name)) is not None and (value := getattr(contact, attribute)) is not None:
            difference[side] = value
    return difference


_RULES: Final[Mapping[str, str]] = {
    "ContactCreated": rules.NEW_CONTACT,
    "VisitorLinked": rules.LINKED,
    "VisitorUnlinked": rules.MOVES_ON,
    "ContactsMerged": rules.MERGED,
}
_FIELD_RULES: Final[Mapping[str, str]] = {
    "externalId": rules.GAINS_EXTERNAL_ID,
    "email": rules.ADDRESS,
    VISITORS: rules.OTHER_ORDER,
}


def _rule(change: FeedChange) -> str:
    """The rule of the contract, or several, in words."""
    if change.cause == REPLAY:
        return rules.REPLAY
    if change.correction is not None:
        return rules.corrected(change.correction)
    if change.type == "IdentityConflict":
        return rules.FUSE if change.reason == "too-many-merges" else rules.HELD
    if (rule := _RULES.get(change.type)) is not None:
        return rule
    return "; ".join(dict.fromkeys([_FIELD_RULES.get(name, rules.LAST_WRITE) for name in change.changed]))
