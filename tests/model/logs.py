"""Random logs for the model and the fold: few names, close times, and everything that the contract has a rule for.

A log is a list of entries, each an id and an event, and the limits with which it is folded.
"""
# ruff: noqa: S311  the dice make tests

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple

from tests.model.contract import Limits, contact_id, hash_of, ms
from tests.model.erasing import erase_some, resend_some

Event = dict[str, Any]
LoggedEvent = tuple[str, Event]


class Log(NamedTuple):
    """Entries, and the limits with which they are folded."""

    entries: list[LoggedEvent]
    limits: Limits
    originals: Mapping[str, Event | None] = {}
    """By entry id: the event that an erasure has replaced; None if it never occurred."""


BASE_S: Final = 1_700_000_000
LATER_MS: Final = 1_760_000_000_000
WORKSPACE: Final = "w"

BLOCKED: Final = [
    *("null", " ", "0", "undefined", "GUEST", '"undefined"', "'true'", "0000", "-1", "[object Object]", "NaN", "-0-", "'NaN'"),
    *('""', "`null`", "Distinct_ID", "none"),
]
JUNK: Final = [
    *("nan", "NULL", "<nil>", "(null)", "\\N", "n/a", "#N/A", "user_undefined", "undefined@undefined", "${userId}", "{{ id }}"),
    *("<%= id %>", "%s", "\u200b", "a:null", "null@x.io", "\u2060null\ufeff"),
]
SPELLINGS: Final = [
    *("jos\u00e9@x.io", "jose\u0301@x.io", "JOS\u00c9@X.io", "a@b\u00fccher.example", "A@xn--bcher-kva.example."),
    *("\u212aate@x.io", "kate@x.io", "\ufeffkate@x.io.", "KATE@x.io"),
]
NEVER_SET: Final = ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1999-12-31T23:59:59.999Z", "2000-01-01T00:30:00+01:00"]
UNKNOWN: Final = ["2000-01-01T00:00:00Z", "2000-01-01T00:00:00.000999Z", "2000-01-01T05:30:00+05:30"]
"""The `at` of an event whose time is unknown."""
VALUES: Final = ["a", "b", 1, 1.0, 2, True, False, None, 1.5, "1", 0, -0.0, 1e21, 1e-7, "Café", -3, 123456.75]
SENT_AFTER_ENTRY_S: Final = [0, 30, -30, 60, -60, 60.001, -60.001, 61, 3600, -3600, -86_400, -86_400.001, -90_000, 10**7]
"""The differences between `sentAt` and the entry's time."""


def moment(seconds: float, offset_hours: int = 0) -> str:
    """Format as RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(seconds, timezone(timedelta(hours=offset_hours))).isoformat(timespec="milliseconds")


def entry_ids(dice: random.Random, count: int) -> list[str]:
    """Entry ids near the events' times, long after them, or many within a millisecond."""
    mode = dice.choice(["near", "later", "burst"])
    at_ms, seq, ids = (BASE_S * 1000 if mode == "near" else LATER_MS), 0, list[str]()
    for _ in range(count):
        step = dice.choice([0, 0, 0, 1, 2] if mode == "burst" else [1000, 1000, 1000, 6000])
        at_ms, seq = (at_ms + step, 0) if step else (at_ms, seq + 1)
        ids.append(f"{at_ms}-{seq}")
    return ids


class Writer:
    """Writes the events of one log."""

    def __init__(self, dice: random.Random, count: int, keys: Sequence[str] | None = None) -> None:
        self.dice = dice
        self.ids = entry_ids(dice, count)
        self.visitors = [f"v{number}" for number in range(dice.choice([1, 2, 4, 12]))]
        self.external_ids = [f"u{number}" for number in range(dice.choice([1, 2, 3, 8]))]
        self.emails = [f"m{number}@x.io" for number in range(dice.choice([1, 2, 3, 8]))]
        few = ["kl", "klmnopq", [*(f"k{number}" for number in range(12)), "é", "😀", "~", "toString"]]
        self.keys: Sequence[str] = keys or dice.choice(few)
        self.patch_keys, self.unset_keys = ([0, 1, 1, 2, 5], [0, 1, 1, 3]) if keys is None else ([1, 20, 90, 200], [1, 30, 120])
        self.grid_s = dice.choice([4, 12, 60, 400, 4000])
        self.fine = dice.random() < 0.5
        self.minutes = 0
        """If not 0, events are a minute apart, give or take a millisecond, and this is the number of minutes."""
        self.unknown = dice.choice([0.02, 0.02, 0.3])
        """The share of events whose time is unknown."""
        self.browser = dice.choice([0, 0, 0.1, 0.5])
        """The share of events that come from pages."""
        self.step_s = 0
        """How much later than the previous one an event is, unless it is late."""
        self.odd: list[str] = []
        """Invalid identifiers and other spellings, besides the blocked ones."""
        self.weights = (0.2, 0.65, 0.98)
        """Cumulative shares of VisitorSeen, VisitorIdentified and MetadataSet; the rest are EventsExcluded."""
        self.corrections = dice.choice([0, 0.05, 0.05, 0.3])
        """The share of corrections."""
        self.people = 0
        """If not 0, this many entries at the beginning of the log create contacts, and corrections are mostly of these."""

    def log(self) -> list[LoggedEvent]:
        """All entries."""
        entries: list[LoggedEvent] = []
        for number, entry in enumerate(self.ids):
            if entries and self.dice.random() < 0.06:
                entries.append((entry, self._again(self.dice.choice(entries)[1], entry)))
            else:
                entries.append((entry, self.event(entry, number)))
        return entries

    def event(self, entry: str, number: int) -> Event:
        """A new event."""
        dice = self.dice
        event: Event = {}
        if dice.random() < 0.8:
            event["id"] = f"e{number}" if dice.random() < 0.95 else f"e{dice.randrange(number + 1)}"
        self._time(event, entry, number)
        if dice.random() < 0.02:
            event["newer"] = {"deep": [1]}
        if dice.random() < self.browser:
            event["source"] = dice.choice(["browser"] * 20 + ["shop", None, ["browser"]])
        die = dice.random()
        if dice.random() < self.corrections:
            self._corrected(event, number)
        elif die < self.weights[0]:
            self._seen(event)
        elif die < self.weights[1]:
            self._identified(event)
        elif die < self.weights[2]:
            self._metadata_set(event, number)
        else:
            event |= {"type": "EventsExcluded", "entries": [dice.choice(self.ids[: max(1, number)])], "reason": "test"}
        if dice.random() < 0.01:
            spoil(dice, event)
        return event

    def _again(self, event: Event, entry: str) -> Event:
        """The same event, a retry with a new `sentAt`, or another event with the same id."""
        dice, again = self.dice, dict(event)
        die = dice.random()
        if die < 0.3:
            again["sentAt"] = self._sent_at(entry)
        elif die < 0.4:
            again["at"] = moment(BASE_S + dice.randrange(4000))
        elif die < 0.5 and again.get("metadata"):
            again["metadata"] = dict(reversed(again["metadata"].items()))
        return again

    def _time(self, event: Event, entry: str, number: int) -> None:
        dice = self.dice
        if dice.random() < 0.9:
            seconds = BASE_S + dice.randrange(self.grid_s) + (dice.random() if self.fine else 0)
            if self.step_s and dice.random() < 0.9:
                seconds = BASE_S + number * self.step_s + (dice.random() if self.fine else 0)
            if self.minutes:
                seconds = BASE_S + 60 * dice.randrange(self.minutes) + dice.choice([0, 0, 0, 0.001, -0.001])
            event["at"] = moment(seconds, 0 if dice.random() < 0.9 else 2)
            die = dice.random()
            if die < 0.1:
                event["sentAt"] = moment(ms(event["at"]) / 1000 + dice.choice([0, -5, 1, 3600]))
            elif die < 0.25:
                event["sentAt"] = self._sent_at(entry)
        if dice.random() < 0.02:
            event[dice.choice(["at", "sentAt"])] = dice.choice(NEVER_SET)
        if dice.random() < self.unknown:
            event["at"] = dice.choice(UNKNOWN)

    def _sent_at(self, entry: str) -> str:
        return moment(int(entry.partition("-")[0]) / 1000 + self.dice.choice(SENT_AFTER_ENTRY_S))

    def _name(self, names: Sequence[str], good: float, bad: Sequence[str]) -> str:
        dice = self.dice
        if dice.random() >= good:
            return dice.choice([*bad, *self.odd])
        name = dice.choice(names)
        return f" {name}\t" if dice.random() < 0.05 else name

    def _visitor(self) -> str:
        return self._name(self.visitors, 0.99, BLOCKED)

    def _external_id(self) -> str:
        return self._name(self.external_ids, 0.95, [*BLOCKED, "x" * 256])

    def _email(self) -> str:
        email = self._name(self.emails, 0.95, [*BLOCKED, "no-at", "a@b@c"])
        return email.upper() if self.dice.random() < 0.2 and email.strip() in self.emails and email.isascii() else email

    def _metadata(self) -> Event:
        return {self.dice.choice(self.keys): self.dice.choice(VALUES) for _ in range(self.dice.choice(self.patch_keys))}

    def _unset(self) -> list[str]:
        return [self.dice.choice(self.keys) for _ in range(self.dice.choice(self.unset_keys))]

    def _seen(self, event: Event) -> None:
        event |= {"type": "VisitorSeen", "visitorId": self._visitor()}
        if self.dice.random() < 0.4:
            event["context"] = {"url": self.dice.choice("abc"), "n": self.dice.choice(VALUES)}

    def _identified(self, event: Event) -> None:
        dice = self.dice
        event["type"] = "VisitorIdentified"
        who = dice.random()
        self._profile(event)
        for name, chance, value in (
            ("visitorId", dice.random() < 0.9, self._visitor),
            ("externalId", who < 0.7, self._external_id),
            ("email", 0.4 < who < 0.99, self._email),
            ("metadata", dice.random() < (0.3 if len(self.keys) < 100 else 0.8), self._metadata),
            ("unset", dice.random() < 0.1, self._unset),
        ):
            if chance:
                event[name] = value()
        if dice.random() < self.browser * 0.6:
            event["visitorProven"] = dice.choice([True] * 9 + ["yes"])

    def _profile(self, event: Event) -> None:
        dice = self.dice
        if dice.random() < 0.2:
            event["name"] = dice.choice(["Ada", "Bob", None])
        if dice.random() < 0.2:
            event["image"] = dice.choice(["/a", "/b"])

    def _corrected(self, event: Event, number: int) -> None:
        dice = self.dice
        event |= {"type": "IdentityCorrected", "by": dice.choice(["Grace", "Grace", "Ben"]), "contactId": self._contact(number)}
        if event.get("source") == "browser" and dice.random() < 0.8:
            del event["source"]
        if dice.random() < 0.3:
            event["reason"] = "a test"
        match dice.randrange(8):
            case 0 | 1:
                event["mergeContactId"] = self._contact(number)
            case 2 | 3:
                event["unlinkVisitorId"] = self._visitor()
            case 4:
                event["dismissConflict"] = self._email()
            case _:
                self._set(event)
        if dice.random() < 0.01:
            event["name"] = "two corrections"

    def _set(self, event: Event) -> None:
        dice = self.dice
        if dice.random() < 0.4:
            event["externalId"] = dice.choice([self._external_id(), self._external_id(), None])
        if dice.random() < 0.6:
            event["email"] = dice.choice([self._email(), self._email(), None])
        if dice.random() < 0.7:
            event["take"] = dice.random() < 0.8
        if dice.random() < 0.3:
            event["name"] = dice.choice(["Ada", "Bob", None])
        if dice.random() < 0.2:
            event["image"] = dice.choice(["/a", "/b", None])
        if dice.random() < 0.2:
            event["metadata"] = self._metadata()
        if dice.random() < 0.1:
            event["unset"] = self._unset()

    def _contact(self, number: int) -> str:
        if self.people and self.dice.random() < 0.95:
            number = self.people
        return contact_id(WORKSPACE, self.dice.choice(self.ids[: max(1, number)]))

    def _metadata_set(self, event: Event, number: int) -> None:
        dice = self.dice
        event["type"] = "MetadataSet"
        target = dice.random()
        if target < 0.45:
            event["visitorId"] = self._visitor()
        elif target < 0.65:
            event["externalId"] = self._external_id()
        elif target < 0.8:
            event["email"] = self._email()
        else:
            event["contactId"] = self._contact(number)
        if dice.random() < 0.01:
            event["email"] = self._email()
        self._profile(event)
        if dice.random() < 0.9:
            event["metadata"] = self._metadata()
        if dice.random() < 0.25:
            event["unset"] = self._unset()
        if dice.random() < 0.15:
            event["hash"] = hash_of(event.get("metadata") or {}) if dice.random() < 0.8 else "0" * 64


def spoil(dice: random.Random, event: Event) -> None:
    """One mistake."""
    event.pop("hash", None)
    has_metadata = event["type"] in {"VisitorIdentified", "MetadataSet"}
    match dice.randrange(8):
        case 0:
            event["type"] = "VisitorLeft"
        case 1 if has_metadata:
            event["metadata"] = {"k": dice.choice([{"deep": 1}, 2**53, -(2**53), [1], "x" * 8193, "é" * 4097])}
        case 2 if has_metadata:
            event["unset"] = [dice.choice(["", "k" * 129])]
        case 3:
            event["id"] = "nul\0"
        case 4:
            event.pop("visitorId", None)
        case 5:
            event.pop("type")
        case 6:
            event["externalId"] = "x" * 255
        case _:
            event["visitorId"] = "v" * 256


# --- profiles


def _limits(dice: random.Random, keys: int | None = None) -> Limits:
    return Limits(
        window=dice.choice([65_536, 65_536, 5, 16]),
        listed=dice.choice([100, 100, 1, 3]),
        keys=keys or dice.choice([256, 256, 2, 6]),
        merges=dice.choice([25, 25, 0, 1, 2]),
        kept=dice.choice([64, 64, 4, 6]),
        links=dice.choice([1000, 1000, 2, 3, 5]),
        timed=dice.choice([64, 64, 1, 2]),
        listed_bytes=dice.choice([16_384, 16_384, 12, 20]),
        contact_bytes=dice.choice([65_536, 520, 560, 620]),
        visitor_bytes=dice.choice([16_384, 100, 140, 180]),
    )


def wide(dice: random.Random) -> Log:
    """Events with every field."""
    return Log(Writer(dice, dice.choice([12, 40, 90, 160])).log(), _limits(dice))


def many_keys(dice: random.Random) -> Log:
    """At the real limit of 256 keys."""
    keys = [f"k{number:03}" for number in range(dice.choice([257, 300, 600]))]
    return Log(Writer(dice, dice.choice([12, 30, 60]), keys).log(), _limits(dice, 256))


def links(dice: random.Random) -> Log:
    """Mostly identifications."""
    writer = Writer(dice, dice.choice([12, 30, 60]))
    writer.weights = (0.1, 0.9, 0.98)
    return Log(writer.log(), _limits(dice))


def runs(dice: random.Random) -> Log:
    """One or two visitors. Events confirm the same contact at short and long intervals, and sometimes name another one."""
    writer = Writer(dice, dice.choice([100, 200, 300]))
    writer.visitors = ["v0", "v1"][: dice.choice([1, 1, 2])]
    writer.external_ids = ["u0"] * dice.choice([4, 20, 60]) + ["u1", "u2"]
    writer.emails = ["m0@x.io"]
    writer.step_s = dice.choice([0, 1, 20, 30, 31, 61, 120])
    writer.grid_s = len(writer.ids) * max(1, writer.step_s)
    writer.weights = (0.05, 0.9, 0.99)
    return Log(
        writer.log(),
        Limits(
            kept=dice.choice([64, 64, 64, 4, 6]),
            listed=dice.choice([100, 1]),
            links=dice.choice([1000, 2, 3]),
            timed=dice.choice([64, 1, 2]),
        ),
    )


def collecting(dice: random.Random) -> Log:
    """One external id with the addresses of many people: beyond the real limit of 25 merges."""
    writer = Writer(dice, 250)
    writer.visitors = [f"v{number}" for number in range(30)]
    writer.external_ids = ["junk"] * 5 + ["u0"]
    writer.emails = [f"m{number}@x.io" for number in range(60)]
    writer.weights = (0.05, 0.97, 0.99)
    return Log(writer.log(), Limits())


def identifiers(dice: random.Random) -> Log:
    """Invalid identifiers, and one name in several spellings."""
    writer = Writer(dice, dice.choice([12, 40, 90]))
    writer.odd = JUNK
    writer.emails = dice.sample(SPELLINGS, dice.choice([2, 4, len(SPELLINGS)]))
    writer.external_ids += ["caf\u00e9", "cafe\u0301", "\ufeffu0", "U0", "u 0"]
    writer.visitors += ["\u200bv0", "V0"]
    return Log(writer.log(), _limits(dice))


def corrections(dice: random.Random) -> Log:
    """Few people, and an operator who often corrects them."""
    writer = Writer(dice, dice.choice([20, 40, 90]))
    writer.visitors, writer.emails = ["v0", "v1"], ["m0@x.io", "m1@x.io", "M1@x.io", "m2@x.io"]
    writer.external_ids = ["u0", "u1", "u2", "u3"]
    writer.corrections = dice.choice([0.3, 0.6])
    people: list[Event] = [
        {"externalId": "u0", "email": "m0@x.io", "visitorId": "v0", "metadata": {"k0": 1}},
        {"externalId": "u1", "name": "Bob", "visitorId": "v1"},
        {"email": "m1@x.io", "visitorId": "v2", "image": "/a"},
        {"externalId": "u2", "visitorId": "v0"},
    ]
    writer.people = len(people)
    at = dice.choice([{}, {"at": moment(BASE_S)}])
    first = [{"type": "VisitorIdentified", **at, **who} for who in people]
    entries = writer.log()
    entries[: len(first)] = zip(writer.ids, first, strict=False)
    return Log(entries, _limits(dice))


def presence(dice: random.Random) -> Log:
    """Page views of a few people, about a minute apart."""
    writer = Writer(dice, dice.choice([20, 60]))
    writer.minutes = dice.choice([2, 5, 20])
    writer.weights = (0.7, 0.9, 0.99)
    return Log(writer.log(), _limits(dice))


def first_identifications(dice: random.Random) -> Log:
    """Anonymous visitors that get metadata and are then identified, at few times, so that many are equal."""
    writer = Writer(dice, dice.choice([20, 60]))
    writer.visitors = [f"v{number}" for number in range(20)]
    writer.grid_s, writer.fine = 3, False
    writer.weights = (0.05, 0.5, 0.99)
    return Log(writer.log(), _limits(dice))


def erased(dice: random.Random) -> Log:
    """A log of another profile, from which people were erased, and to which some of its events were sent again."""
    log = dice.choice([wide, links, runs, identifiers, corrections, corrections, presence, first_identifications])(dice)
    entries, originals = erase_some(dice, WORKSPACE, log.entries, log.limits)
    resend_some(dice, entries, dict(log.entries))
    return Log(entries, log.limits, originals)


def crowd(dice: random.Random) -> Log:
    """More visitors than a contact lists, at the real limit of 100. Slow."""
    writer = Writer(dice, 700)
    writer.visitors = [f"v{number}" for number in range(dice.choice([120, 250]))]
    writer.external_ids, writer.emails = ["u0", "u0", "u1"], [f"m{number}@x.io" for number in range(4)]
    writer.grid_s = dice.choice([60, 5000])
    writer.weights = (0.02, 0.97, 0.99)
    return Log(writer.log(), Limits())


Profile = Callable[[random.Random], Log]
PROFILES: Final[Mapping[str, Profile]] = {
    "wide": wide,
    "keys": many_keys,
    "links": links,
    "runs": runs,
    "collecting": collecting,
    "identifiers": identifiers,
    "presence": presence,
    "corrections": corrections,
    "first-identifications": first_identifications,
    "erased": erased,
}
MORE: Final[Mapping[str, Profile]] = {"crowd": crowd}
"""Slow profiles, which run only when `--profile` names them."""


def log_of(profile: str, seed: str) -> Log:
    """The log of a profile and a seed."""
    return {**PROFILES, **MORE}[profile](random.Random(seed))
