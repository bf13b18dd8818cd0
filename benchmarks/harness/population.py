"""A made-up population of contacts with metadata of realistic kinds, as contacts and as the events that make them.

The same seed gives the same people. `contacts` returns exactly the contacts that a projector makes of `entries`, including
ids, times, versions and hashes. Memory use does not grow with the size.

Each contact has up to eight metadata keys; each is missing now and then:

    plan        a string, five values, skewed: two in three have "free"
    mrr         a number: 0 for most, otherwise an integer or a fraction in cents
    country     a string, forty values, skewed
    company     a string, thousands of values, skewed, some with accents
    signupDate  a string, an RFC 3339 time
    seats       a number; null if it is unknown; "unlimited" for some of the largest
    trial       a boolean
    note        a string, a long tail: hardly any two are equal, and one in a hundred has more than 200 characters
"""

import random
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from kinfold_projections.contact_ids import make_contact_id
from kinfold_schemas.canonical import Primitive, metadata_hash
from kinfold_schemas.contacts import Contact
from kinfold_schemas.times import to_text

SEED: Final = 14
DAY_MS: Final = 86_400_000
NOW_MS: Final = 1_768_435_200_000
"""2026-01-15T00:00:00Z, the end of the history: all times are before it."""
SPAN_MS: Final = 1000 * DAY_MS
"""The first contact was created this long before the end, and the others at even intervals since."""

_encode: Final = msgspec.json.Encoder().encode

_BLOCK: Final = 1000
"""People who share a random generator, so that any part of a population is made without the parts before it."""

_SYLLABLES: Final = (
    *(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeio"),
    *("bar", "den", "fin", "gor", "hal", "kim", "lan", "mor", "nel", "per", "ros", "sten", "tal", "ven", "zor"),
    *("né", "ño", "sü", "bø", "łu", "çe"),
)
_ASCII: Final = str.maketrans("éñüøłç", "enuolc")
_PAIRS: Final = [one + other for one in _SYLLABLES for other in _SYLLABLES]
_SHUFFLED: Final = random.Random(0).sample(_PAIRS, len(_PAIRS))  # noqa: S311  otherwise all frequent names would begin alike
_FIRST_NAMES: Final = [name.capitalize() for name in _SHUFFLED]
_LAST_NAMES: Final = [(name + end).capitalize() for end in ("", "n", "ski", "ez", "sen", "li") for name in _SHUFFLED]
_FIRST_ASCII: Final = [name.lower().translate(_ASCII) for name in _FIRST_NAMES]
_LAST_ASCII: Final = [name.lower().translate(_ASCII) for name in _LAST_NAMES]
_COMPANIES: Final = [
    f"{name.capitalize()} {form}" for form in ("GmbH", "Ltd", "Inc.", "& Co.", "SA", "Oy") for name in _SHUFFLED[:1500]
]
_DOMAINS: Final = ("example.com", "example.org", "example.net", "mail.example.com", "team.example.org", "büro.example.net")
_COUNTRIES: Final = [
    *("US", "DE", "FR", "GB", "BR", "IN", "ES", "IT", "NL", "JP", "CA", "AU", "PL", "SE", "MX", "AR", "CH", "BE", "AT", "PT"),
    *("DK", "NO", "FI", "IE", "CZ", "KR", "SG", "ZA", "TR", "UA", "GR", "HU", "RO", "NZ", "CL", "CO", "IL", "TH", "ID", "VN"),
]
_STOCK_NOTES: Final = ("prefers e-mail", "call back in spring", "needs an invoice", "met at the fair", "VIP")

_PLANS: Final = ["free"] * 66 + ["starter"] * 18 + ["pro"] * 11 + ["team"] * 4 + ["enterprise"]
_PRICES: Final = {"free": 0, "starter": 9, "pro": 99, "team": 49, "enterprise": 39}
_SEATS: Final = {"free": 1, "starter": 3, "pro": 8, "team": 40, "enterprise": 500}
_DEVICES: Final = [0] * 5 + [1] * 10 + [2] * 4 + [3]


_Roll = Callable[[], float]
"""Draws a number from 0 to below 1."""


class Person(msgspec.Struct, frozen=True, gc=False):
    """One person. At least one of `external_id` and `email` is set."""

    number: int
    external_id: str | None
    email: str | None
    name: str | None
    image: str | None
    metadata: dict[str, Primitive]
    created_ms: int
    visitors: list[tuple[str, int]]
    """Each visitor's id and when it was linked, the first one at `created_ms`. Imported people have none."""
    seen_ms: int | None
    """When the person last came back, if ever."""


class Population:
    """A number of people, drawn with a seed."""

    def __init__(self, contacts: int, seed: int = SEED) -> None:
        self.size: Final = contacts
        self._seed: Final = seed

    def people(self, first: int = 0, upto: int | None = None) -> Iterator[Person]:
        """The people `first` to `upto`, by default all of them, in the order in which they became known."""
        last = self.size if upto is None else upto
        for block in range(first // _BLOCK, -(-last // _BLOCK)):
            dice = random.Random(f"{self._seed}:{block}")  # noqa: S311  the same people in every run
            for number in range(block * _BLOCK, min((block + 1) * _BLOCK, last)):
                person = self._person(number, dice.random)
                if number >= first:
                    yield person

    def contacts(self, workspace: str = "default") -> Iterator[Contact]:
        """The contacts that a projector makes of `entries` in this workspace, in the order of their ids."""
        for person in self.people():
            yield _contact(person, workspace)

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """The log: the id and the event of each entry.

        First come the events that create the contacts, each in an entry of its own time. The events of those who came back
        follow in entries at `NOW_MS`, as after an import of history.
        """
        for person in self.people():
            yield _creating_entry(person), _identified(person, person.created_ms, person.visitors[:1], is_new=True)
        later = 0
        for person in self.people():
            for event in _later(person):
                yield f"{NOW_MS}-{later}", event
                later += 1

    def events(self) -> Iterator[bytes]:
        """The events of `entries`. In a log that gives its own ids they make the same contacts with other ids."""
        for _, event in self.entries():
            yield event

    def _person(self, number: int, roll: _Roll) -> Person:
        first, last = int(roll() ** 2 * len(_FIRST_NAMES)), int(roll() ** 2 * len(_LAST_NAMES))
        # One in ten has only an address, one in twenty only an external id, and the rest both.
        known = roll()
        external_id = f"u-{number:07d}" if known >= 0.1 else None
        email = None
        if known < 0.95:
            domain = _DOMAINS[int(roll() ** 2 * len(_DOMAINS))]
            email = f"{_FIRST_ASCII[first]}.{_LAST_ASCII[last]}-{number:x}@{domain}"
        created_ms = NOW_MS - SPAN_MS + int((number + roll()) * SPAN_MS / self.size)
        devices = _DEVICES[int(roll() * len(_DEVICES))]
        seen_ms = None
        if devices > 1 or (devices == 1 and roll() < 0.8):
            seen_ms = NOW_MS - int((NOW_MS - created_ms) * roll() ** 2)
        until_ms = created_ms if seen_ms is None else seen_ms
        return Person(
            number=number,
            external_id=external_id,
            email=email,
            name=f"{_FIRST_NAMES[first]} {_LAST_NAMES[last]}" if roll() < 0.92 else None,
            image=f"https://images.example.org/{number:x}.png" if roll() < 0.3 else None,
            metadata=_metadata(roll, created_ms),
            created_ms=created_ms,
            visitors=[(f"v-{number:07d}-{each}", created_ms + (until_ms - created_ms) * each // 3) for each in range(devices)],
            seen_ms=seen_ms,
        )


def _metadata(roll: _Roll, created_ms: int) -> dict[str, Primitive]:
    plan = _PLANS[int(roll() * 100)]
    seats = 1 + int(roll() ** 3 * _SEATS[plan])
    metadata: dict[str, Primitive] = {}
    if roll() < 0.97:
        metadata["plan"] = plan
    if roll() < 0.95:
        cents = _PRICES[plan] * seats * (80 if roll() < 0.4 else 100)  # four in ten pay a year at once, for a fifth less
        metadata["mrr"] = cents // 100 if cents % 100 == 0 else cents / 100
    if roll() < 0.9:
        metadata["country"] = _COUNTRIES[int(roll() ** 3 * len(_COUNTRIES))]
    if roll() < 0.7:
        metadata["company"] = _COMPANIES[int(roll() ** 2 * len(_COMPANIES))]
    if roll() < 0.95:
        metadata["signupDate"] = to_text(created_ms - int(roll() ** 4 * 30 * DAY_MS))
    if (known := roll()) < 0.9:
        metadata["seats"] = None if known < 0.01 else "unlimited" if seats > 400 else seats
    if roll() < 0.85:
        metadata["trial"] = roll() < 0.12
    if roll() < 0.3:
        metadata["note"] = _note(roll)
    return metadata


def _note(roll: _Roll) -> str:
    kind = roll()
    if kind < 0.1:
        return _STOCK_NOTES[int(roll() * len(_STOCK_NOTES))]
    words = 60 if kind > 0.97 else 3 + int(roll() * 5)
    return " ".join([_PAIRS[int(roll() * len(_PAIRS))] for _ in range(words)])


# --- the events, and the state that they give ------------------------------------------------------------------------


def _creating_entry(person: Person) -> str:
    return f"{person.created_ms}-{person.number}"  # the number tells two of one millisecond apart


def _later(person: Person) -> Iterator[bytes]:
    """What happened after the contact was created: further devices, and the last page view."""
    for visitor_id, linked_ms in person.visitors[1:]:
        yield _identified(person, linked_ms, [(visitor_id, linked_ms)], is_new=False)
    if person.seen_ms is not None:
        url = {"url": "/account"}
        yield _encode(
            {"type": "VisitorSeen", "at": to_text(person.seen_ms), "visitorId": person.visitors[0][0], "context": url}
        )


def _identified(person: Person, at_ms: int, visitors: list[tuple[str, int]], *, is_new: bool) -> bytes:
    event: dict[str, object] = {"type": "VisitorIdentified", "at": to_text(at_ms)}
    names = {"externalId": person.external_id, "email": person.email}
    if not is_new and person.external_id is not None:
        del names["email"]
    if is_new:
        names |= {"name": person.name, "image": person.image}
    event |= {name: value for name, value in names.items() if value is not None}
    if visitors:
        event["visitorId"] = visitors[0][0]
    if is_new:
        event["metadata"] = person.metadata
    return _encode(event)


def _contact(person: Person, workspace: str) -> Contact:
    created_at = to_text(person.created_ms)
    return Contact(
        id=make_contact_id(workspace, _creating_entry(person)),
        external_id=person.external_id,
        email=person.email,
        name=person.name,
        image=person.image,
        metadata=person.metadata,
        metadata_hash=metadata_hash(person.metadata),
        visitor_count=len(person.visitors),
        visitor_ids=[visitor_id for visitor_id, _ in reversed(person.visitors)],
        first_seen_at=created_at,
        last_seen_at=created_at if person.seen_ms is None else to_text(person.seen_ms),
        created_at=created_at,
        updated_at=to_text(person.visitors[-1][1]) if person.visitors else created_at,
        version=1 + len(person.visitors),
    )
