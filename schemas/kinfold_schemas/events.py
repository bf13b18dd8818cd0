"""The events that producers append (contract section 2), as they are written on the wire.

One JSON object per log entry, in the field `event`. May change: new optional fields, new types. May not: a field's name,
type or meaning, for logs are kept for ever and folded again. Unknown fields are ignored, so that producers can be newer.

Strings are wider here than the contract allows: white space around identifiers is stripped and blocked ones are dropped by
the fold, which checks everything itself (`kinfold_schemas.identifiers`, `kinfold_schemas.codec`).

The types are final, and on the way of every event they are told apart by `type(event) is ...`: to `isinstance`, a struct that
is of another type costs as much as ten lines of Python, since msgspec's metaclass is asked about it.
"""

from datetime import datetime
from typing import Annotated, Final, final

import msgspec
from msgspec import Meta

MAX_EVENT_BYTES: Final = 64 * 1024
MAX_METADATA_KEYS: Final = 256
MAX_KEY_CHARS: Final = 128
MAX_VALUE_BYTES: Final = 8 * 1024
MAX_INTEGER: Final = 2**53 - 1

_ID_LENGTH: Final = {"minLength": 1, "maxLength": 255}

_COMPARED: Final = "Compared without white space and zero-width characters around it, in normal form C; case matters"
VisitorId = Annotated[
    str, Meta(description=f"The producer's id of a device or browser. {_COMPARED}", extra_json_schema=_ID_LENGTH)
]
ExternalId = Annotated[str, Meta(description=f"The customer's own id of a user. {_COMPARED}", extra_json_schema=_ID_LENGTH)]
Email = Annotated[
    str,
    Meta(
        description=(
            "Kept as written, without white space around it. Compared in normal form C, without regard to letter case, "
            "the domain in its ASCII form (IDNA). White space, control and zero-width characters inside make it invalid"
        ),
        extra_json_schema={"minLength": 3, "maxLength": 320, "pattern": "^[^@]+@[^@]+$"},
    ),
]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)]
_Text = Annotated[str, Meta(max_length=MAX_VALUE_BYTES)]  # in characters; who decodes looks at the bytes of what is not ASCII
_Integer = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Values = Annotated[dict[Key, _Text | _Integer | float | bool | None], Meta(max_length=MAX_METADATA_KEYS)]
Metadata = Annotated[Values, Meta(description="A patch: these keys are set; null is a value like any other")]
Unset = Annotated[list[Key], Meta(description="Metadata keys to remove")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset; before 2000 it counts as absent")]


class _Common(msgspec.Struct, kw_only=True, frozen=True, rename="camel", tag_field="type", omit_defaults=True, gc=False):
    id: Annotated[str, Meta(description="For idempotency; the log entry's id where absent")] | None = None
    at: Annotated[Moment, Meta(description="When it happened, on the producer's clock")] | None = None
    sent_at: Annotated[Moment, Meta(description="When it was appended, on the same clock as `at`")] | None = None


@final
class VisitorSeen(_Common, frozen=True, tag="VisitorSeen"):
    """A device or browser was there."""

    visitor_id: VisitorId
    context: Values | None = None


@final
class VisitorIdentified(_Common, frozen=True, tag="VisitorIdentified"):
    """Who a visitor is: an external id, an e-mail address, or both (at least one)."""

    external_id: ExternalId | None = None
    email: Email | None = None
    visitor_id: VisitorId | None = None
    name: str | None = None
    image: str | None = None
    metadata: Metadata | None = None
    unset: Unset | None = None


@final
class MetadataSet(_Common, frozen=True, tag="MetadataSet"):
    """What is known about a visitor or a contact: exactly one target."""

    visitor_id: VisitorId | None = None
    external_id: ExternalId | None = None
    email: Email | None = None
    contact_id: str | None = None
    metadata: Metadata | None = None
    unset: Unset | None = None
    hash: Annotated[str, Meta(description="The canonical hash of `metadata` (RFC 8785, SHA-256)")] | None = None


@final
class EventsExcluded(_Common, frozen=True, tag="EventsExcluded"):
    """Every replay of this log folds as if `entries` were not there; the living fold only notes it (contract section 9)."""

    entries: list[str]
    reason: str | None = None


Event = VisitorSeen | VisitorIdentified | MetadataSet | EventsExcluded
EVENT_TYPES: Final = ("VisitorSeen", "VisitorIdentified", "MetadataSet", "EventsExcluded")
