"""The gateway's answers from the directory, besides contacts. Fields may be added, and the ones here never change.

A `position` of an answer is the entry of the change feed that the directory had applied.
"""

from typing import Any

import msgspec

from kinfold_schemas.canonical import Primitive


class ContactCount(msgspec.Struct, frozen=True, rename="camel"):
    """How many contacts match. Up to 10,000 the count is exact, and beyond it may be an estimate (`isExact`).

    `unknownKeys` lists the metadata keys of the query that no contact has, if there are any: a misspelt field is such a key.
    """

    count: int
    is_exact: bool
    position: str
    unknown_keys: list[str] | msgspec.UnsetType = msgspec.UNSET


class ValueCount(msgspec.Struct, frozen=True):
    """A value, and how many contacts have it."""

    value: Primitive
    count: int


class ContactCounts(msgspec.Struct, frozen=True, rename="camel"):
    """How many contacts have each value of the field `by`, the most frequent first.

    `other` counts the contacts with other values than these, and `missing` those without a value. If `isExact` is false, all
    counts are estimates. `unknownKeys` is as in `ContactCount`.
    """

    by: str
    values: list[ValueCount]
    other: int
    missing: int
    is_exact: bool
    position: str
    unknown_keys: list[str] | msgspec.UnsetType = msgspec.UNSET


class TimelineEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One change of a contact.

    `position` is the entry of the change feed, and `cause` the log entry that made the change. `contactId` is the contact that
    changed; it may have been merged since. `rule` names the contract's rule. `details` depend on the type: `changed`, a list of
    `field`, `before` and `after`, `visitorId`, `mergedContactId`, `email`, `heldBy`, ….
    """

    position: str
    at: str
    type: str
    contact_id: str
    cause: str
    rule: str
    details: dict[str, Any]


class Conflict(msgspec.Struct, frozen=True, rename="camel"):
    """An address that an event named for the contact `contactId`, and that `heldBy` keeps (contract section 5).

    `position` is the entry of the change feed. `reason` is null, or `too-many-merges`. `settledAt` is null while the conflict
    is open.
    """

    position: str
    at: str
    contact_id: str
    email: str
    held_by: str
    reason: str | None
    settled_at: str | None
