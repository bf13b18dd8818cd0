"""The events that producers append to the log (contract section 2).

Each log entry holds one as a JSON object in its field `event`. Optional fields and types may be added. The name, type or
meaning of a field never changes, because logs are kept forever and folded again. Unknown fields are ignored, so producers may
be newer than the fold.

The types here accept more strings than the contract does. The fold strips identifiers, drops blocked ones and checks the
limits (`kinfold_schemas.identifiers`, `kinfold_schemas.codec`).

The types are final, and the hot path compares them with `type(event) is ...`: a failing `isinstance` costs as much as ten lines
of Python, because it calls msgspec's metaclass.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, final

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_EVENT_BYTES: Final = 64 * 1024
MAX_METADATA_KEYS: Final = 256
MAX_UNTRUSTED_KEYS: Final = 128
"""How many of them pages may have set. The others are for trusted sources."""
MAX_KEY_CHARS: Final = 128
MAX_VALUE_BYTES: Final = 8 * 1024
MAX_NAME_BYTES: Final = 1024
MAX_IMAGE_BYTES: Final = 4 * 1024
"""Of a name and an image as JSON strings, the quotes included."""
MAX_INTEGER: Final = 2**53 - 1

BROWSER: Final = "browser"
"""The `source` of an event that a page sent (contract section 2, Trust)."""

_ID_LENGTH: Final = {"minLength": 1, "maxLength": 255}

_COMPARED: Final = "Compared without surrounding white space and zero-width characters, in normal form C; case matters"
VisitorId = Annotated[
    str, Meta(description=f"The producer's id of a device or browser. {_COMPARED}", extra_json_schema=_ID_LENGTH)
]
ExternalId = Annotated[str, Meta(description=f"The customer's id of a user. {_COMPARED}", extra_json_schema=_ID_LENGTH)]
Email = Annotated[
    str,
    Meta(
        description=(
            "Kept as written, without surrounding white space. Compared in normal form C, ignoring case, and the domain in its "
            "ASCII form (IDNA). White space, control and zero-width characters inside make it invalid"
        ),
        extra_json_schema={"minLength": 3, "maxLength": 320, "pattern": "^[^@]+@[^@]+$"},
    ),
]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)]
_Text = Annotated[str, Meta(max_length=MAX_VALUE_BYTES)]  # msgspec counts characters; the codec counts bytes
_Integer = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Values = Annotated[dict[Key, _Text | _Integer | float | bool | None], Meta(max_length=MAX_METADATA_KEYS)]
Metadata = Annotated[Values, Meta(description="A patch: these keys are set. null is an ordinary value")]
Unset = Annotated[list[Key], Meta(description="Metadata keys to remove")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset. A time before 2000 counts as absent")]
# An old log may hold any value in these fields, which were unknown when it was written. So any value is decoded.
_Source = Annotated[
    Any,
    Meta(
        description=f'"{BROWSER}": a page sent the event, so its values are not trusted. Set by the gateway, never by a caller',
        extra_json_schema={"type": "string"},
    ),
]
_Proven = Annotated[
    Any,
    Meta(
        description="true: an identity token proves that the event is of this visitor. Set by the gateway, never by a caller",
        extra_json_schema={"type": "boolean"},
    ),
]


class _Common(msgspec.Struct, kw_only=True, frozen=True, rename="camel", tag_field="type", omit_defaults=True, gc=False):
    id: Annotated[str, Meta(description="Identifies the event, for idempotency. Default: the id of the log entry")] | None = (
        None
    )
    at: Annotated[Moment, Meta(description="When the event happened, by the producer's clock")] | None = None
    sent_at: Annotated[Moment, Meta(description="When the event was appended, by the same clock as `at`")] | None = None
    source: _Source = None


@final
class VisitorSeen(_Common, frozen=True, tag="VisitorSeen"):
    """A device or browser was seen."""

    visitor_id: VisitorId
    context: Values | None = None


@final
class VisitorIdentified(_Common, frozen=True, tag="VisitorIdentified"):
    """A visitor was identified by an external id, an email address, or both."""

    external_id: ExternalId | None = None
    email: Email | None = None
    visitor_id: VisitorId | None = None
    name: str | None = None
    image: str | None = None
    metadata: Metadata | None = None
    unset: Unset | None = None
    visitor_proven: _Proven = None


@final
class MetadataSet(_Common, frozen=True, tag="MetadataSet"):
    """Metadata was set on a visitor or a contact: exactly one target."""

    visitor_id: VisitorId | None = None
    external_id: ExternalId | None = None
    email: Email | None = None
    contact_id: str | None = None
    name: str | None = None
    image: str | None = None
    metadata: Metadata | None = None
    unset: Unset | None = None
    hash: Annotated[str, Meta(description="The canonical hash of `metadata` (RFC 8785, SHA-256)")] | None = None


@final
class EventsExcluded(_Common, frozen=True, tag="EventsExcluded"):
    """Log entries that every replay leaves out. The live fold only records them (contract section 9)."""

    entries: list[str]
    reason: str | None = None
    by: Annotated[str, Meta(description="Who excluded them")] | None = None


@final
class IdentityCorrected(_Common, frozen=True, tag="IdentityCorrected"):
    """A person corrected a contact by hand: exactly one correction (contract section 5, Corrections).

    In `external_id`, `email`, `name` and `image`, None removes the value, and UNSET leaves it alone.
    """

    by: Annotated[str, Meta(min_length=1, max_length=255, description="Who made the correction")]
    contact_id: str
    reason: str | None = None
    merge_contact_id: Annotated[str, Meta(description="Merge this contact into the other one")] | None = None
    unlink_visitor_id: (
        Annotated[str, Meta(description="Unlink this visitor from the contact", extra_json_schema=_ID_LENGTH)] | None
    ) = None
    dismiss_conflict: (
        Annotated[Email, Meta(description="Dismiss the conflict about this address, which another contact holds")] | None
    ) = None
    external_id: ExternalId | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    image: str | UnsetType | None = UNSET
    metadata: Metadata | None = None
    unset: Unset | None = None
    take: Annotated[bool, Meta(description="Take the external id or the address from the contact that has it")] = False


class ErasedConflict(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """A conflict over an address of an erased person: what is left of it for the other contact."""

    email: Annotated[str, Meta(description="Stands for the address, and does not tell it")]
    held_by: Annotated[str, Meta(description="The contact that held the address, erased since")]
    reason: str | None = None


@final
class Erased(_Common, frozen=True, tag="Erased"):
    """What is left of an entry after an erasure. An erasure writes it, and no producer (contract section 10).

    `id` is a hash of the id of the event that was there.
    """

    salt: Annotated[str, Meta(description="The key of the hashes in this entry")] = ""
    content: Annotated[str, Meta(description="A hash of the event's id and content, to know a late resend")] | None = None
    occurred: Annotated[bool, Meta(description="false: the event was rejected in any state, so its id never occurred")] = True
    contact_id: Annotated[str, Meta(description="A contact of the erased person")] | None = None
    visitor_id: Annotated[str, Meta(description="A visitor that others share, linked to `contactId` at `at`")] | None = None
    unlinks: Annotated[bool, Meta(description="The visitor was unlinked from `contactId`, and has no contact")] = False
    taken_external_id: Annotated[str, Meta(description="What a correction took from another contact")] | None = None
    taken_email: Annotated[str, Meta(description="As `takenExternalId`")] | None = None
    kept: VisitorIdentified | IdentityCorrected | None = None
    """What another person's event says besides."""
    conflict: ErasedConflict | None = None

    metadata: ClassVar[None] = None


@final
class SubjectErased(_Common, frozen=True, tag="SubjectErased"):
    """A person was erased: the entries that were theirs, and keyed hashes of their identifiers (contract section 10).

    An erasure writes it, and no producer.
    """

    erasure: Annotated[str, Meta(description="The id of the erasure")]
    contacts: Annotated[list[str], Meta(description="The contacts that are no more")] = []
    entries: Annotated[list[str], Meta(description="The log entries that were erased")] = []
    identifiers: Annotated[list[str], Meta(description="Keyed hashes of the identifiers")] = []
    by: str | None = None
    reason: str | None = None

    metadata: ClassVar[None] = None


ProducedEvent = VisitorSeen | VisitorIdentified | MetadataSet | EventsExcluded | IdentityCorrected
Event = ProducedEvent | Erased | SubjectErased
EVENT_TYPES: Final = ("VisitorSeen", "VisitorIdentified", "MetadataSet", "EventsExcluded", "IdentityCorrected")
"""Those that producers append. An erasure writes the others."""
