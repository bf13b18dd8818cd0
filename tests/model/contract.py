"""The contract by definition, slow and separate: what the fold of a log must return (contract sections 2 to 7).

`Model.apply` takes one entry. It then views the whole state again and compares it with the view before; the difference is the
change feed. Nothing is computed the way the fold does it: a contact is a set of last-write-wins registers, a visitor is the
list of all events that linked it, and lists, counts, versions and changes are derived from those.
"""

import bisect
import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple, cast

import msgspec

from tests.model.identifiers import Rejected, checked_email, checked_id, email_key, shown

Event = Mapping[str, Any]
Values = dict[str, Any]

Stamp = tuple[int, int]
"""1 if a trusted source set the value, else 0; and the effective time in ms."""
NEVER: Final[Stamp] = (-1, -1)
"""Before every time and every source."""
ABSENT: Final = object()
"""The value in the register of a removed key."""

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
MINUTE_MS: Final = 60_000
LAST_MS: Final = 253_402_300_799_999
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2000: Final = datetime(2000, 1, 1, tzinfo=UTC)
UNKNOWN_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00.000Z, the effective time of an event whose time is unknown."""
KINDS: Final = ("VisitorSeen", "VisitorIdentified", "MetadataSet", "EventsExcluded", "IdentityCorrected", "SubjectErased")
FORMS: Final = ("mergeContactId", "unlinkVisitorId", "dismissConflict")
NULLABLE: Final = ("externalId", "email", "name", "image")
"""In a correction, null removes these."""


class Limits(NamedTuple):
    """The limits in the contract; a test makes them small, to reach them soon."""

    window: int = 65_536
    listed: int = 100
    keys: int = 256
    merges: int = 25
    kept: int = 64
    links: int = 1000
    timed: int = 64
    listed_bytes: int = 16_384
    contact_bytes: int = 65_536
    visitor_bytes: int = 16_384

    @property
    def untrusted_keys(self) -> int:
        """How many keys pages may set."""
        return self.keys // 2


# --- values


def ms(text: str) -> int:
    """Milliseconds since 1970, rounded down."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


def is_trusted(event: Event) -> bool:
    """Section 2, Trust."""
    return event.get("source") != "browser"


def effective_ms(entry_ms: int, event: Event) -> int:
    """Section 3, Effective time. A page's event is not older than a week, unless its time is not known."""
    at = dated_ms(entry_ms, event)
    return at if is_trusted(event) or at == UNKNOWN_MS else max(at, min(entry_ms, LAST_MS) - WEEK_MS)


def dated_ms(entry_ms: int, event: Event) -> int:
    """The table of section 3."""
    at, sent = (datetime.fromisoformat(event[name]) if event.get(name) else None for name in ("at", "sentAt"))
    if at is None or at < YEAR_2000:
        return min(entry_ms, LAST_MS)
    at_ms = ms(event["at"])
    if sent is None or sent < YEAR_2000 or ms(event["sentAt"]) < at_ms:
        return min(at_ms, entry_ms)
    offset = entry_ms - ms(event["sentAt"])
    if offset > DAY_MS or abs(offset) <= MINUTE_MS:
        return min(at_ms, entry_ms)
    return max(0, min(at_ms + offset, entry_ms))


def number_text(value: float) -> str:
    """ECMAScript's text of a finite double, from Python's shortest digits (RFC 8785)."""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{point - 1:+d}"


def normal(values: Mapping[str, Any]) -> Values:
    """The values with `1.0` as `1`, and `-0` as `0`."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
        for key, value in values.items()
    }


def canonical(value: object) -> str:
    """Canonical JSON (RFC 8785): keys in the order of their UTF-16 code units, no white space."""
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        values = cast("dict[str, object]", value)
        keys = sorted(values, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join([f"{encode_basestring(key)}:{canonical(values[key])}" for key in keys]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([canonical(each) for each in cast("list[object]", value)]) + "]"
    return number_text(value) if isinstance(value, float) else json.dumps(value)


def size_of(value: object) -> int:
    """The bytes of a value in stored JSON: no white space, the shortest form of every string and number."""
    return len(msgspec.json.encode(value))


def weight_of(contact: Mapping[str, Any]) -> int:
    """Section 2, Limits: the stored JSON, with 16 digits for each of the two counters, and 24 characters for each time."""
    counters, times = dict.fromkeys(("version", "visitorCount"), 10**15), dict.fromkeys(TIMES, "x" * 24)
    return size_of({**contact, **counters, **times})


TIMES: Final = ("firstSeenAt", "lastSeenAt", "createdAt", "updatedAt")


def hash_of(values: Mapping[str, Any]) -> str:
    """Section 4: the hash of metadata."""
    return hashlib.sha256(canonical(normal(values)).encode()).hexdigest()


def contact_id(workspace: str, entry: str) -> str:
    """Section 5, Contact ids."""
    digest = hashlib.sha256(f"{workspace}\0{entry}".encode()).digest()
    number = int(entry.split("-", maxsplit=1)[0]) * 2**80 + int.from_bytes(digest[:10], "big")
    return "ct_" + "".join("0123456789abcdefghjkmnpqrstvwxyz"[number // 32**place % 32] for place in range(25, -1, -1))


def content_of(event: Event) -> str:
    """Section 3, Duplicates: the content of an event without `id`, `sentAt` and nulls, with each time in one spelling."""
    said = {key: event[key] for key in FIELDS[event["type"]] if event.get(key) is not None}
    if event["type"] == "IdentityCorrected":
        said |= {key: event[key] for key in NULLABLE if key in event}
        if not event.get("take"):
            said.pop("take", None)
    for name in {"metadata", "context"} & said.keys():
        said[name] = normal(said[name])
    if event.get("at") is not None:
        said["at"] = (datetime.fromisoformat(event["at"]) - EPOCH) // timedelta(microseconds=1)
    return canonical({**said, "type": event["type"]})


FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "VisitorSeen": ("visitorId", "context"),
    "VisitorIdentified": ("visitorId", "externalId", "email", "name", "image", "metadata", "unset", "visitorProven"),
    "MetadataSet": ("visitorId", "externalId", "email", "contactId", "name", "image", "metadata", "unset", "hash"),
    "EventsExcluded": ("entries", "reason", "by"),
    "SubjectErased": ("erasure", "contacts", "entries", "identifiers", "by", "reason"),
    "IdentityCorrected": (*("by", "contactId", "reason", *FORMS, *NULLABLE), "metadata", "unset", "take"),
}


# --- the state


@dataclass
class Register:
    """A register in which the greater stamp wins, with the stamp of the event that last set it."""

    stamp: Stamp = NEVER
    value: Any = None

    def put(self, stamp: Stamp, value: Any) -> None:
        """Take an event's value, unless the current one has a greater stamp. At equal ones the later entry of the log wins."""
        if stamp >= self.stamp:
            self.stamp, self.value = stamp, value

    def join(self, other: "Register") -> None:
        """Take the value of a merged register if its stamp is greater. At equal stamps this one stays."""
        if other.stamp > self.stamp:
            self.stamp, self.value = other.stamp, other.value


@dataclass(eq=False, kw_only=True)
class Patched:
    """What contacts and visitors share: registers for each metadata key (also removed ones), name and image; seen times."""

    id: str
    name: Register = field(default_factory=Register)
    image: Register = field(default_factory=Register)
    registers: dict[str, Register] = field(default_factory=dict[str, Register])
    first: int | None = None
    last: int | None = None
    shown: tuple[Values, str] | None = None

    def metadata(self) -> tuple[Values, str]:
        """The keys that are set, and their hash. Cached until the next patch, or a million events would take hours."""
        if self.shown is None:
            there = {key: register.value for key, register in self.registers.items() if register.value is not ABSENT}
            self.shown = there, hash_of(there)
        return self.shown

    def profile(self) -> Values:
        """Name and image."""
        return {"name": self.name.value, "image": self.image.value}

    def take_profile(self, event: Event, stamp: Stamp) -> int:
        """Take the name and image of an event, if it has them. Return how many of them a page may not change."""
        said = [(register, event[name]) for name, register in (("name", self.name), ("image", self.image)) if event.get(name)]
        return sum(say(register, stamp, value) for register, value in said)

    def join_profile(self, other: "Patched") -> None:
        """Take the name and image of a merged contact or visitor, if they are newer."""
        self.name.join(other.name)
        self.image.join(other.image)

    def seen(self, at: int | None) -> None:
        """Extend the range of seen times, which never shrinks."""
        if at is not None:
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)


@dataclass(eq=False, kw_only=True)
class Contact(Patched):
    """A contact, living or merged."""

    created: int
    updated: int
    external_id: str | None = None
    into: "Contact | None" = None
    email: Register = field(default_factory=Register)
    told: "Conflict | None" = None
    """The last conflict on the feed."""
    merges: int = 0
    presence: int = -MINUTE_MS
    version: int = 0
    dismissed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """The conflicts that corrections dismissed: the key of the address, and the id of the contact that holds it."""
    is_erased: bool = False
    """It is a tombstone that leads to no contact (section 10): it is not seen, takes no values, and is not on the feed."""


Conflict = tuple[str, Contact, str | None]
"""An address, the contact that holds it, and the reason."""


@dataclass(eq=False)
class Said:
    """One event that linked the visitor. `start`: it begins a link, because no link or one to another contact precedes it.

    The contact is None where a correction unlinked the visitor.
    """

    at: int
    contact: Contact | None
    start: bool


@dataclass(eq=False, kw_only=True)
class Visitor(Patched):
    """A visitor."""

    said: list[Said] = field(default_factory=list[Said])
    context: Register = field(default_factory=lambda: Register(NEVER, {}))


@dataclass(kw_only=True)
class Names:
    """The identifiers in an event (section 2)."""

    visitor_id: str | None = None
    external_id: str | None = None
    email: str | None = None
    contact_id: str | None = None
    blocked: int = 0


def say(register: Register, stamp: Stamp, value: Any) -> bool:
    """Put a value, and return whether it is dropped: a page may not change what a trusted source set (section 4, Trust)."""
    if stamp[0] < register.stamp[0]:
        old = register.value
        return (value is ABSENT) != (old is ABSENT) or (value is not ABSENT and canonical(value) != canonical(old))
    register.put(stamp, value)
    return False


def copy_without_context(visitor: Patched) -> Visitor:
    """A visitor as it is weighed before metadata is set."""
    return Visitor(id=visitor.id, name=visitor.name, image=visitor.image, registers=visitor.registers)


def living(contact: Contact) -> Contact:
    """The contact that `contact` was merged into, or itself."""
    while contact.into is not None:
        contact = contact.into
    return contact


def holder(visitor: Visitor, at: int | None = None) -> Contact | None:
    """The contact of a visitor at a time, by default now."""
    if not visitor.said:
        return None
    held = [said for said in visitor.said if at is None or said.at <= at]
    return linked_to(held[-1] if held else visitor.said[0])


def linked_to(said: Said) -> Contact | None:
    """The living contact that an event linked the visitor to."""
    return None if said.contact is None else living(said.contact)


def history(visitor: Visitor) -> list[tuple[Contact | None, int]]:
    """The links of a visitor. Successive events with the same contact make one link."""
    return [(linked_to(said), said.at) for said in visitor.said if said.start]


# --- section 2


def judge(event: Event) -> Names:
    """The identifiers in an event. Raises Rejected if the event is rejected in any state."""
    kind = event.get("type")
    if isinstance(kind, str) and kind not in KINDS:
        raise Rejected("unknown-type")
    if kind is None or (kind == "VisitorSeen" and event.get("visitorId") is None) or not _within_limits(event):
        raise Rejected("invalid")
    if kind in {"EventsExcluded", "SubjectErased"}:
        return Names()
    if kind == "MetadataSet" and event.get("hash") not in {None, hash_of(event.get("metadata") or {})}:
        raise Rejected("hash-mismatch")
    if kind == "IdentityCorrected":
        return _corrected(event)
    names = Names(visitor_id=None if event.get("visitorId") is None else checked_id(event["visitorId"]))
    return names if kind == "VisitorSeen" else _people(event, names)


def _people(event: Event, names: Names) -> Names:
    """The other identifiers. Blocked ones count as absent, as long as one is left."""
    names.external_id = _unless_blocked(names, event.get("externalId"), checked_id)
    names.email = _unless_blocked(names, event.get("email"), checked_email)
    left = [each for each in (names.external_id, names.email) if each is not None]
    if event["type"] == "MetadataSet":
        names.contact_id = None if event.get("contactId") is None else shown(event["contactId"])
        left += [each for each in (names.contact_id, names.visitor_id) if each is not None]
        if len(left) > 1:
            raise Rejected("invalid")
    if not left:
        raise Rejected("blocked-identifier" if names.blocked else "no-identifier")
    return names


def _corrected(event: Event) -> Names:
    """The identifiers in a correction. A blocked one rejects it."""
    if not is_trusted(event):
        raise Rejected("not-allowed")
    sets = any(key in event for key in NULLABLE) or bool(event.get("metadata")) or bool(event.get("unset"))
    given = [key for key in FORMS if event.get(key) is not None]
    if len(given) + sets != 1:
        raise Rejected("invalid")
    address = event.get("dismissConflict") or event.get("email")
    names = Names(contact_id=shown(event["contactId"]))
    if "unlinkVisitorId" in given:
        names.visitor_id = checked_id(event["unlinkVisitorId"])
    if event.get("externalId") is not None:
        names.external_id = checked_id(event["externalId"])
    if address is not None:
        names.email = checked_email(address)
    return names


def _unless_blocked(names: Names, value: str | None, check: Callable[[str], str]) -> str | None:
    try:
        return None if value is None else check(value)
    except Rejected as why:
        if str(why) != "blocked-identifier":
            raise
        names.blocked += 1
        return None


def _is_signed(event: Event) -> bool:
    """Whether a correction says who made it, and of what."""
    by, contact = event.get("by"), event.get("contactId")
    return isinstance(by, str) and 0 < len(by) <= 255 and isinstance(contact, str)


def _within_limits(event: Event) -> bool:
    if event["type"] == "IdentityCorrected" and not _is_signed(event):
        return False
    values: Values = {**(event.get("metadata") or {}), **(event.get("context") or {})}
    keys: list[str] = [*values, *(event.get("unset") or [])]
    return (
        "\\u0000" not in json.dumps(event)
        and all(0 < len(key) <= 128 for key in keys)
        and not any(
            isinstance(value, (dict, list))
            or (isinstance(value, int) and abs(value) >= 2**53)
            or (isinstance(value, str) and len(value.encode()) > 8192)
            for value in values.values()
        )
    )


# --- the model


class Change(NamedTuple):
    """A change that does not have its contact and version yet."""

    type: str
    contact: Contact
    more: Values


class Model:
    """A workspace."""

    def __init__(
        self, workspace: str = "w", limits: Limits | None = None, originals: Mapping[str, Event | None] | None = None
    ) -> None:
        """`originals`: by entry id, the event that was there before an erasure; None if it never occurred."""
        self.workspace = workspace
        self.originals = originals or {}
        self.limits = limits or Limits()
        self.contacts: list[Contact] = []
        self.visitors: dict[str, Visitor] = {}
        self.by_external_id: dict[str, Contact] = {}
        self.by_email: dict[str, Contact] = {}
        self.feed: list[Values] = []
        self.rejected: list[tuple[str, str]] = []
        self.blocked = self.duplicates = self.ids_reused = self.untrusted = 0
        self._occurred: list[tuple[bool, str, str] | None] = []
        self._views: dict[str, Values] = {}

    def apply(self, entry: str, event: Event) -> None:
        """Fold one entry with its id."""
        self.entry = entry
        if event.get("type") == "Erased":
            self._apply_erased(event)
            return
        try:
            names = judge(event)
        except Rejected as why:
            self._occurred.append(None)
            self.rejected.append((entry, str(why)))
            return
        this = self._occurrence(event)
        looked_back = self._occurred[-2 * self.limits.window :]
        window = [each for each in looked_back if each is not None and each[0] == this[0]][-self.limits.window :]
        self._occurred.append(this)
        if this in window:
            self.duplicates += 1
            return
        self.ids_reused += any(each[1] == this[1] for each in window)
        self._fold(event, names)

    def _occurrence(self, event: Event) -> tuple[bool, str, str]:
        return is_trusted(event), event.get("id") or self.entry, content_of(event)

    def _apply_erased(self, event: Event) -> None:
        """Section 10, What is left. A duplicate of the event that was there is one, as if it still were."""
        original = self.originals[self.entry]
        self._occurred.append(None if original is None else self._occurrence(original))
        if not event.get("occurred", True):
            return
        if event.get("kept") is not None:  # the rest of another person's event, with the time and the trust that it had
            common = {name: event[name] for name in ("at", "sentAt", "source") if name in event}
            self._fold({**event["kept"], **common}, judge(event["kept"]), event.get("conflict"))
        else:
            self._fold(event, Names())

    def _fold(self, event: Event, names: Names, conflict: Event | None = None) -> None:
        """`conflict`: what is left of the event's conflict over an erased person's address."""
        entry = self.entry
        entry_ms = int(entry.split("-", maxsplit=1)[0])
        self.at = effective_ms(entry_ms, event)
        self.seen_at = min(entry_ms, LAST_MS) if self.at == UNKNOWN_MS else self.at
        self.stamp: Stamp = int(is_trusted(event)), self.at
        self.erased_conflict = conflict
        self.dropped = 0
        """How much of the event a page may not say."""
        self.identifies: tuple[Names, bool, Visitor | None, bool] | None = None
        """The names in an identification, whether the contact takes the address, the visitor, and whether that joins it."""
        self.merged: Contact | None = None
        self.conflict: Conflict | None = None
        self.moved: tuple[Visitor, Contact | None] | None = None
        """A visitor that moved to another contact, and its previous contact."""
        self.about: Contact | None = None
        self.present: Contact | None = None
        self.losers: list[Contact] = []
        """The contacts from which a correction took something, in order."""
        self.dismissed: tuple[Contact, str, Contact] | None = None
        """A contact, the address of its conflict that a correction dismissed, and the contact that holds it."""
        self.correction = {key: event[key] for key in ("by", "reason") if event.get(key) is not None}
        self.is_correction = event["type"] == "IdentityCorrected"
        folds: dict[str, Callable[[Event, Names], None]] = {
            "VisitorSeen": self._visitor_seen,
            "VisitorIdentified": self._visitor_identified,
            "MetadataSet": self._metadata_set,
            "IdentityCorrected": self._identity_corrected,
            "Erased": self._erased,
        }
        try:
            if event["type"] in folds:  # the fold only records an EventsExcluded and a SubjectErased
                folds[event["type"]](event, names)
        except Rejected as why:
            self.rejected.append((entry, str(why)))
            return
        self.blocked += names.blocked
        self.untrusted += self.dropped
        self._tell()

    # --- the three events

    def _visitor_seen(self, event: Event, names: Names) -> None:
        visitor = self.visitors.get(names.visitor_id or "") or Visitor(id=names.visitor_id or "")
        if event.get("context") is not None:
            before = Register(visitor.context.stamp, visitor.context.value)
            size = self._visitor_weight(visitor)
            visitor.context.put((1, self.at), normal(event["context"]))
            if self._visitor_weight(visitor) > max(self.limits.visitor_bytes, size):
                visitor.context = before
                raise Rejected("too-large")
        self.visitors[visitor.id] = visitor
        visitor.seen(self.seen_at)
        if self.at != UNKNOWN_MS:
            present = holder(visitor, self.at)
            self.present = None if present is None or present.is_erased else present

    def _metadata_set(self, event: Event, names: Names) -> None:
        if names.visitor_id is not None:
            visitor = self.visitors.get(names.visitor_id) or Visitor(id=names.visitor_id)
            self.about = holder(visitor, self.at)
            if self.about is None and holder(visitor) is not None:  # a correction had unlinked it at that time
                visitor.seen(self.seen_at)
                return
            if self.about is not None and self.about.is_erased:
                self.about = None
                visitor.seen(self.seen_at)
                return
            described = self.about or visitor
            self._patch(described, event)
            self.dropped += described.take_profile(event, self.stamp)
            if described is visitor and self._visitor_weight(visitor) > self.limits.visitor_bytes:
                visitor.context.value = {}
            self.visitors[visitor.id] = visitor
            visitor.seen(self.seen_at)
            return
        if names.contact_id is not None:
            contact: Contact | None = self._contact(names.contact_id)
        elif names.external_id is not None:
            contact = self.by_external_id.get(names.external_id)
        else:
            contact = self.by_email.get(email_key(names.email or ""))
        if contact is None:
            contact = self._new_contact()
            contact.external_id = names.external_id
            contact.email.value = names.email  # as a target, the address has no effect on times
            self._patch(contact, event)
            self.contacts.append(contact)
            if names.external_id is not None:
                self.by_external_id[names.external_id] = contact
            elif names.email is not None:
                self.by_email[email_key(names.email)] = contact
        else:
            contact = living(contact)
            self._patch(contact, event)
        self.dropped += contact.take_profile(event, self.stamp)
        self.about = contact

    def _visitor_identified(self, event: Event, names: Names) -> None:
        x = self.by_external_id.get(names.external_id) if names.external_id is not None else None
        x = None if x is None else living(x)  # a correction may have merged it
        e = self.by_email.get(email_key(names.email)) if names.email is not None else None
        target = self._target(names, x, e)
        contact = target or self._new_contact()
        merging, conflict = self._second_table(contact, e, names.email or "")
        visitor = None
        if names.visitor_id is not None:
            visitor = self.visitors.get(names.visitor_id) or Visitor(id=names.visitor_id)
        joins = visitor is not None and holder(visitor) is None and (not visitor.said or self.at >= visitor.said[-1].at)
        bringing = visitor if visitor is not None and joins and visitor.registers else None
        joining = [each for each in (merging, bringing) if each is not None]
        self.identifies = names, conflict is None, visitor, joins
        self._patch(contact, event, *joining)  # this may raise Rejected

        if self.erased_conflict is not None:
            conflict = self._left_of_conflict(self.erased_conflict)
        self.about, self.conflict = contact, conflict
        if target is None:
            self.contacts.append(contact)
        if names.external_id is not None and contact.external_id is None:
            contact.external_id = names.external_id
            self.by_external_id[names.external_id] = contact
        if merging is not None:
            self._merge(merging, contact, names.email or "")
        elif conflict is None and names.email is not None:
            self._take(contact, names.email, (1, self.at))
        if visitor is not None and joins:
            contact.join_profile(visitor)
        self.dropped += contact.take_profile(event, self.stamp)
        if visitor is not None:
            self._identify(visitor, contact, event)
        if joining:
            self._lighten(contact)

    def _target(self, names: Names, x: Contact | None, e: Contact | None) -> Contact | None:
        """The first table of section 5; None: a new contact."""
        if names.external_id is None:
            return e
        if x is not None:
            return x
        return e if e is not None and e.external_id is None else None

    def _second_table(self, contact: Contact, e: Contact | None, email: str) -> tuple[Contact | None, Conflict | None]:
        """The second table of section 5: the contact to merge into this one, or the conflict."""
        if e is None or e is contact:
            return None, None
        if e.external_id is not None:
            return None, (email, e, None)
        if contact.merges >= self.limits.merges:
            return None, (email, e, "too-many-merges")
        return e, None

    # --- corrections

    def _identity_corrected(self, event: Event, names: Names) -> None:
        contact = self._contact(names.contact_id)
        if event.get("mergeContactId") is not None:
            merged = self._contact(shown(event["mergeContactId"]))
            if merged is not contact:
                self._merge_by_hand(merged, contact)
        elif names.visitor_id is not None:
            self._unlink(names.visitor_id, contact)
        elif event.get("dismissConflict") is not None:
            self._dismiss(names.email or "", contact)
        else:
            self._set(event, names, contact)

    def _contact(self, contact_id: str | None) -> Contact:
        for each in self.contacts:
            if each.id == contact_id and not living(each).is_erased:
                return living(each)
        raise Rejected("unknown-contact")

    def _merge_by_hand(self, merged: Contact, contact: Contact) -> None:
        self._patch(contact, {}, merged)
        merged.into = contact
        self.merged, self.about = merged, contact
        contact.merges += merged.merges + 1
        contact.join_profile(merged)
        if contact.external_id is None and merged.external_id is not None:
            contact.external_id = merged.external_id
            self.by_external_id[merged.external_id] = contact
        if merged.email.value is not None:
            del self.by_email[email_key(merged.email.value)]
            if merged.email.stamp > contact.email.stamp or (contact.email.value is None and contact.email.stamp == NEVER):
                self._take(contact, merged.email.value, merged.email.stamp)
        contact.seen(merged.first)
        contact.seen(merged.last)
        contact.created = min(contact.created, merged.created)
        contact.presence = max(contact.presence, merged.presence)
        for each in merged.dismissed:
            contact.dismissed = [*(other for other in contact.dismissed if other != each), each][-32:]
        self._lighten(contact)

    def _unlink(self, visitor_id: str, contact: Contact) -> None:
        visitor = self.visitors.get(visitor_id)
        if visitor is None or not visitor.said or holder(visitor, self.at) not in (None, contact):
            return
        before = holder(visitor)
        self._link(visitor, None)
        if holder(visitor) is not before:
            self.moved = visitor, before
            visitor.name, visitor.image, visitor.registers, visitor.shown = Register(), Register(), {}, None

    def _dismiss(self, email: str, contact: Contact) -> None:
        held_by = self.by_email.get(email_key(email))
        if self.erased_conflict is not None:
            email, held_by, _ = self._left_of_conflict(self.erased_conflict)
        held_by = None if held_by is None else living(held_by)
        if held_by is None or held_by is contact or (email_key(email), held_by.id) in contact.dismissed:
            return
        contact.dismissed = [*contact.dismissed, (email_key(email), held_by.id)][-32:]
        self.dismissed = contact, email, held_by

    def _set(self, event: Event, names: Names, contact: Contact) -> None:
        x = self.by_external_id.get(names.external_id) if names.external_id is not None else None
        e = self.by_email.get(email_key(names.email)) if names.email is not None else None
        x, e = (None if each is None else living(each) for each in (x, e))
        self.losers = [each for each in (x, e) if each is not None and each is not contact]
        if self.losers and not event.get("take"):
            raise Rejected("held-by-another")
        self._patch(contact, event)
        self.about = contact
        if "externalId" in event and names.external_id != contact.external_id:
            if contact.external_id is not None:
                del self.by_external_id[contact.external_id]
            if x is not None and x.external_id == names.external_id:
                x.external_id = None
            contact.external_id = names.external_id
            if names.external_id is not None:
                self.by_external_id[names.external_id] = contact
        if "email" in event:
            self._correct_email(names.email, contact, e)
        for name, register in (("name", contact.name), ("image", contact.image)):
            if name in event:
                register.put(self.stamp, event[name])

    def _correct_email(self, email: str | None, contact: Contact, holder: Contact | None) -> None:
        stamp = (1, self.at)
        if stamp < contact.email.stamp:
            return
        if email is None:
            self._lose(contact, stamp)
        elif holder is None or holder is contact:
            self._take(contact, email, stamp)
        elif stamp >= holder.email.stamp:
            self._lose(holder, stamp)
            self._take(contact, email, stamp)

    def _lose(self, contact: Contact, stamp: Stamp) -> None:
        if contact.email.value is not None:
            del self.by_email[email_key(contact.email.value)]
            contact.told = None
        contact.email.put(stamp, None)

    # --- what an erasure has left

    def _erased(self, event: Event, _names: Names) -> None:
        """The table of section 10, but for `kept` and `conflict`."""
        if event.get("contactId") is None:
            return
        contact = self._tombstone(event["contactId"])
        if contact not in self.contacts:
            self.contacts.append(contact)
        x = self.by_external_id.pop(event.get("takenExternalId", ""), None)
        e = self.by_email.get(email_key(event.get("takenEmail", "")))
        x, e = (None if each is None else living(each) for each in (x, e))
        self.losers = [each for each in (x, e) if each is not None]
        if x is not None and x.external_id == event["takenExternalId"]:
            x.external_id = None
        if e is not None:
            self._lose(e, (1, self.at))
        if event.get("visitorId") is None:
            return
        visitor = self._visitor(Names(visitor_id=event["visitorId"]))
        before = holder(visitor)
        if not event.get("unlinks"):
            visitor.seen(self.seen_at)
        self._link(visitor, None if event.get("unlinks") else contact)
        if holder(visitor) is not before:
            self.moved = visitor, before
            if event.get("unlinks"):
                visitor.name, visitor.image, visitor.registers, visitor.shown = Register(), Register(), {}, None

    def _tombstone(self, contact_id: str) -> Contact:
        erased = Contact(id=contact_id, created=self.at, updated=self.at, is_erased=True)
        return next((each for each in self.contacts if each.id == contact_id), erased)

    def _left_of_conflict(self, conflict: Event) -> Conflict:
        return conflict["email"], self._tombstone(conflict["heldBy"]), conflict.get("reason")

    # --- their parts

    def _visitor(self, names: Names) -> Visitor:
        name = names.visitor_id or ""
        return self.visitors.setdefault(name, Visitor(id=name))

    def _new_contact(self) -> Contact:
        return Contact(id=contact_id(self.workspace, self.entry), created=self.seen_at, updated=self.seen_at)

    def _patch(self, patched: Patched, event: Event, *others: Patched) -> None:
        """Merge the metadata of `others`, then apply the event's. Raises Rejected, and then changes nothing."""
        trusted = self.stamp[0]
        new = {key: Register(register.stamp, register.value) for key, register in patched.registers.items()}
        for other in others:
            for key, register in other.registers.items():
                new.setdefault(key, Register()).join(register)
        values = normal(event.get("metadata") or {})
        for key, value in values.items():
            self.dropped += say(new.setdefault(key, Register()), self.stamp, value)
        for key in set(event.get("unset") or ()) - values.keys():
            self.dropped += say(new.setdefault(key, Register()), self.stamp, ABSENT)
        there = [key for key in new if new[key].value is not ABSENT]
        of_pages = [key for key in there if not new[key].stamp[0]]
        counted = len(there) - len(of_pages) if trusted else len(there)
        if not others and (counted > self.limits.keys or (not trusted and len(of_pages) > self.limits.untrusted_keys)):
            raise Rejected("invalid")
        removed = [key for key in new if new[key].value is ABSENT]
        in_excess = {
            key
            for group, most in ((of_pages, self.limits.untrusted_keys), (there, self.limits.keys), (removed, self.limits.keys))
            for key in sorted(group, key=lambda key: (new[key].stamp, key))[:-most]
        }
        for key in in_excess:
            del new[key]
        if not others:
            self._check_weight(patched, event, new)
        patched.registers, patched.shown = new, None

    def _check_weight(self, patched: Patched, event: Event, new: dict[str, Register]) -> None:
        """Section 2, Limits. Removes the keys of pages that make room. Raises Rejected."""
        weigh = self._visitor_weight if isinstance(patched, Visitor) else self._contact_weight
        most = self.limits.visitor_bytes if isinstance(patched, Visitor) else self.limits.contact_bytes
        before = 0 if isinstance(patched, Contact) and patched not in self.contacts else weigh(patched)
        after = copy.deepcopy(patched, {id(each): each for each in self.contacts if each is not patched})
        after.registers, after.shown = new, None
        ids = None
        if isinstance(after, Visitor):
            after.context = Register(NEVER, {})
            before = self._visitor_weight(copy_without_context(patched))
        elif isinstance(after, Contact) and self.identifies is not None:
            ids = self._as_identified(after)
        if self.is_correction and isinstance(after, Contact):
            self._as_corrected(after, event)
        else:
            after.take_profile(event, self.stamp)
        if self.identifies is not None or self.stamp[0]:
            self._remove(after, lambda: weigh(after, ids) > most, lambda register: not register.stamp[0])
        if (size := weigh(after, ids)) > most and size > before:
            raise Rejected("too-large")

    def _as_identified(self, after: Contact) -> list[str]:
        """Give a copy of a contact what an identification brings; returns its visitors with the event's."""
        assert self.identifies is not None
        names, takes, visitor, joins = self.identifies
        after.external_id = after.external_id or names.external_id
        if names.email is not None and takes:
            after.email.put((1, self.at), names.email)
        ids = self._members().get(after.id, [])[: self.limits.listed]
        ids = self._shown(ids)
        if visitor is not None:
            if joins:
                after.join_profile(visitor)
            if visitor.id not in ids:
                ids = [*ids, visitor.id]
        return ids

    def _as_corrected(self, after: Contact, event: Event) -> None:
        """Give a copy of a contact what a correction sets, as if none of its identifiers came too late."""
        if "externalId" in event:
            after.external_id = event["externalId"] and checked_id(event["externalId"])
        if "email" in event:
            after.email.value = event["email"] and checked_email(event["email"])
        for name, register in (("name", after.name), ("image", after.image)):
            if name in event:
                register.put(self.stamp, event[name])

    def _lighten(self, contact: Contact) -> None:
        """Section 4: where metadata comes together, keys go until the contact weighs no more than it may."""
        self._remove(contact, lambda: self._contact_weight(contact) > self.limits.contact_bytes, lambda _: True)

    @staticmethod
    def _remove(patched: Patched, too_heavy: Callable[[], bool], may_go: Callable[[Register], bool]) -> None:
        """Forget keys, those with the least stamps first, for as long as it is too heavy."""
        there = [key for key, register in patched.registers.items() if register.value is not ABSENT and may_go(register)]
        for key in sorted(there, key=lambda key: (patched.registers[key].stamp, key)):
            if not too_heavy():
                return
            del patched.registers[key]
            patched.shown = None

    def _contact_weight(self, contact: Patched, ids: Sequence[str] | None = None) -> int:
        assert isinstance(contact, Contact)
        members = self._shown(self._members().get(contact.id, [])[: self.limits.listed]) if ids is None else ids
        return weight_of({**self._view(contact, ()), "visitorIds": members})

    @staticmethod
    def _visitor_weight(visitor: Patched, _ids: Sequence[str] | None = None) -> int:
        assert isinstance(visitor, Visitor)
        shown: Values = {each: value for each, value in visitor.profile().items() if value is not None}
        if visitor.metadata()[0]:
            shown["metadata"] = visitor.metadata()[0]
        if visitor.context.value:
            shown["context"] = visitor.context.value
        if visitor.context.stamp != NEVER:
            shown["contextMs"] = visitor.context.stamp[1]
        return size_of({"firstSeenAt": "x" * 24, "lastSeenAt": "x" * 24, **shown})

    def _take(self, contact: Contact, email: str, stamp: Stamp) -> None:
        """Set the contact's address if the effective time is not older. The previous address becomes free."""
        if stamp < contact.email.stamp:
            return
        before: str | None = contact.email.value
        contact.email.put(stamp, email)
        if before is None or email_key(before) != email_key(email):
            if before is not None:
                del self.by_email[email_key(before)]
            self.by_email[email_key(email)] = contact
            contact.told = None

    def _merge(self, merged: Contact, contact: Contact, email: str) -> None:
        """Merge everything except metadata, which is merged already."""
        merged.into = contact
        self.merged = merged
        contact.merges += merged.merges + 1
        contact.join_profile(merged)
        del self.by_email[email_key(merged.email.value)]  # free, unless it is the newer of the two:
        if (1, self.at) >= merged.email.stamp:  # the event confirms it
            self._take(contact, email, (1, self.at))
        elif merged.email.stamp > contact.email.stamp:
            self._take(contact, merged.email.value, merged.email.stamp)
        contact.seen(merged.first)
        contact.seen(merged.last)
        contact.created = min(contact.created, merged.created)
        contact.presence = max(contact.presence, merged.presence)

    def _identify(self, visitor: Visitor, contact: Contact, event: Event) -> None:
        self.visitors[visitor.id] = visitor
        visitor.seen(self.seen_at)
        if not is_trusted(event) and event.get("visitorProven") is not True and holder(visitor, self.at) not in (None, contact):
            self.dropped += 1  # section 5, Linking: a page does not move a visitor without a token for it
            return
        before = holder(visitor)
        if not visitor.said:  # its anonymous past now belongs to the contact
            contact.seen(visitor.first)
            contact.seen(visitor.last)
        self._link(visitor, contact)
        if holder(visitor) is not before:
            self.moved = visitor, before

    def _link(self, visitor: Visitor, contact: Contact | None) -> None:
        """Link the visitor to the contact from `at` on, after other events of the same time."""
        said = visitor.said
        place = bisect.bisect_right(said, self.at, key=lambda each: each.at)
        before = said[place - 1] if place else None
        after = said[place] if place < len(said) else None
        goes_on = before is not None and linked_to(before) is contact
        if goes_on and before is not None and before.at == self.at:
            return
        if not goes_on and after is not None:
            after.start = linked_to(after) is not contact
        said.insert(place, Said(self.at, contact, not goes_on))
        self._thin_out(said, place)
        self._forget_links(said)

    def _forget_links(self, said: list[Said]) -> None:
        """Limit the number of links: the second one goes, and then the third may be of the contact of the first."""
        while len(starts := [number for number, each in enumerate(said) if each.start]) > self.limits.links:
            del said[starts[1] : starts[2]]
            if linked_to(said[starts[1]]) is linked_to(said[0]):
                said[starts[1]].start = False
                self._thin_out(said, 0)
        if len(starts) > self.limits.timed:
            oldest = starts[-self.limits.timed]
            said[:oldest] = [each for each in said[:oldest] if each.start]

    def _thin_out(self, said: list[Said], place: int) -> None:
        """Limit how many confirmations of one link are kept (section 5)."""
        first = max(number for number in range(place + 1) if said[number].start)
        end = next((number for number in range(place + 1, len(said)) if said[number].start), len(said))
        run = said[first:end]
        if len(run) <= self.limits.kept:
            return
        for number in range(len(run) - 2, 0, -1):
            if run[number + 1].at - run[number - 1].at <= MINUTE_MS:
                del run[number]
        while len(run) > self.limits.kept:
            del run[self.limits.kept // 2]
        said[first:end] = run

    # --- views

    def _members(self) -> dict[str, list[str]]:
        """The visitors of each contact: the latest link first, at equal times the greatest id."""
        members: dict[str, list[tuple[int, str]]] = {}
        for visitor in self.visitors.values():
            if visitor.said:
                contact, since = history(visitor)[-1]
                if contact is not None:
                    members.setdefault(contact.id, []).append((since, visitor.id))
        return {each: [visitor_id for _, visitor_id in sorted(linked, reverse=True)] for each, linked in members.items()}

    def _shown(self, visitor_ids: Sequence[str]) -> list[str]:
        """As many ids as fit into the list of a contact."""
        shown = list(visitor_ids)
        while size_of(shown) > self.limits.listed_bytes:
            shown.pop()
        return shown

    def _view(self, contact: Contact, visitor_ids: Sequence[str]) -> Values:
        metadata, digest = contact.metadata()
        return {
            "id": contact.id,
            "externalId": contact.external_id,
            "email": contact.email.value,
            "name": contact.name.value,
            "image": contact.image.value,
            "metadata": metadata,
            "metadataHash": digest,
            "visitorCount": len(visitor_ids),
            "visitorIds": self._shown(visitor_ids[: self.limits.listed]),
            "firstSeenAt": contact.first,
            "lastSeenAt": contact.last,
            "createdAt": contact.created,
            "updatedAt": contact.updated,
            "version": contact.version,
        }

    def _tell(self) -> None:
        """Append the changes between the previous state and this one to the feed (section 6)."""
        before, members = self._views, self._members()
        alive = [contact for contact in self.contacts if contact.into is None and not contact.is_erased]
        now = {contact.id: self._view(contact, members.get(contact.id, [])) for contact in alive}
        first = [self.about, *self.losers]  # the contact that the event is about comes first
        alive.sort(key=lambda contact: first.index(contact) if contact in first else len(first))
        told = [Change("ContactCreated", contact, {}) for contact in alive if contact.id not in before]
        told += [
            Change("ContactUpdated", contact, {"changed": changed})
            for contact in alive
            if contact.id in before and (changed := self._changed(contact, before[contact.id], now[contact.id]))
        ]
        told += self._told_of_identity()
        if self.dismissed is not None:
            contact, email, held_by = self.dismissed
            told.append(Change("ConflictDismissed", contact, {"email": email, "heldBy": held_by.id}))
        if self.present is not None and self._is_news_of(self.present):
            self.present.presence = max(self.present.presence, self.at)
            told.append(Change("ContactSeen", self.present, {}))
        versions = [self._next_version(change) for change in told]
        for change in told:
            if change.contact in (self.about, self.present) and not self.is_correction:
                change.contact.seen(self.seen_at)
            now[change.contact.id] = self._view(change.contact, members.get(change.contact.id, []))
        for change, version in zip(told, versions, strict=True):
            each = {"type": change.type, "contactId": change.contact.id, "version": version, "at": self.at, "cause": self.entry}
            more = {"correction": self.correction, **change.more} if self.is_correction else change.more
            self.feed.append({**each, "contact": {**now[change.contact.id], "version": version}, **more})
        self._views = now

    def _is_news_of(self, contact: Contact) -> bool:
        """Whether a page view now makes a ContactSeen."""
        return self.at >= contact.presence + MINUTE_MS or (contact.first is not None and self.at <= contact.first - MINUTE_MS)

    def _next_version(self, change: Change) -> int:
        if change.type != "ContactSeen":
            change.contact.version += 1
            change.contact.updated = max(change.contact.updated, self.at)
        return change.contact.version

    def _changed(self, contact: Contact, old: Values, new: Values) -> list[str]:
        changed = [name for name in ("externalId", "email", "name", "image") if old[name] != new[name]]
        if old["metadataHash"] != new["metadataHash"]:
            a, b = old["metadata"], new["metadata"]
            keys = sorted(a.keys() | b.keys())
            changed += [f"metadata.{key}" for key in keys if (key in a) != (key in b) or canonical(a[key]) != canonical(b[key])]
        shown_by_another = (self.merged is not None and contact is self.about) or (
            self.moved is not None and contact in (self.moved[1], holder(self.moved[0]))
        )
        if old["visitorIds"] != new["visitorIds"] and not shown_by_another:
            changed.append("visitorIds")
        return changed

    def _told_of_identity(self) -> Iterable[Change]:
        if self.moved is not None:
            visitor, was = self.moved
            was, new = was and living(was), holder(visitor)
            was = None if was is None or was.is_erased else was
            if new is not None and not new.is_erased:
                more = {} if was is None else {"previousContactId": was.id}
                yield Change("VisitorLinked", new, {"visitorId": visitor.id, **more})
            if was is not None:
                more = {} if new is None else {"nextContactId": new.id}
                yield Change("VisitorUnlinked", was, {"visitorId": visitor.id, **more})
        if self.merged is not None:
            yield Change("ContactsMerged", living(self.merged), {"mergedContactId": self.merged.id})
        if self.conflict is not None and self.about is not None:
            email, held_by, reason = self.conflict
            is_dismissed = (email_key(email), held_by.id) in self.about.dismissed
            if self.about.told != (email_key(email), held_by, reason) and not is_dismissed:
                self.about.told = email_key(email), held_by, reason
                more = {} if reason is None else {"reason": reason}
                yield Change("IdentityConflict", self.about, {"email": email, "heldBy": held_by.id, **more})

    def whole(self) -> Values:
        """The data that section 1 calls public, with times in milliseconds and links resolved to living contacts."""
        return {
            "contacts": {
                contact.id: {"id": contact.id, "mergedInto": living(contact).id}
                if contact.into or contact.is_erased
                else self._views[contact.id]
                for contact in self.contacts
            },
            "visitors": {
                visitor.id: {
                    "contactId": getattr(holder(visitor), "id", None),
                    "links": [(contact and contact.id, since) for contact, since in history(visitor)],
                    "name": visitor.name.value,
                    "image": visitor.image.value,
                    "metadata": visitor.metadata()[1],
                    "context": hash_of(visitor.context.value),
                    "firstSeenAt": visitor.first,
                    "lastSeenAt": visitor.last,
                }
                for visitor in self.visitors.values()
            },
            "externalIds": {each: living(contact).id for each, contact in self.by_external_id.items()},
            "emails": {each: living(contact).id for each, contact in self.by_email.items()},
            "feed": self.feed,
            "rejects": self.rejected,
            "blocked": self.blocked,
            "duplicates": self.duplicates,
            "ids_reused": self.ids_reused,
            "untrusted": self.untrusted,
        }
