"""Events in the shape and length that kinfold's client sends, the same in every run.

Three in five visitors of a population are identified, two devices to a person, with an external id, an address and some
metadata. Events are drawn with a fixed seed, uniformly or by Zipf's law (exponent 1), where one visitor has every
eleventh event of the middle population.
"""

import gzip
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

HISTORY: Final = Path(__file__).parents[2] / "examples" / "swift-history.ndjson.gz"
SEED: Final = 6

SMALL: Final = 1_000
MIDDLE: Final = 50_000
LARGE: Final = 2_000_000

VISITORS_A_PERSON: Final = 2
_IDENTIFIED_OF_5: Final = 3
_EVENTS_A_MS: Final = 5
_DELAY_MS: Final = 5
"""The maximum network delay of an event. A log that is filled in a second would otherwise be full of late events."""
_DRAWN_AT_ONCE: Final = 5000
_FIRST_MS: Final = int(datetime(2026, 1, 15, tzinfo=UTC).timestamp() * 1000)
_PAGES: Final = [b"/", b"/pricing", b"/docs/start", b"/docs/reference/events", b"/blog/2026/identity", b"/account/team"]
_KEYS: Final = [b"seats", b"visits", b"score", b"projects", b"credits", b"lastOrder"]

Drawn = Callable[[random.Random, int], list[int]]
"""Draws a number of visitors."""


def uniform(visitors: int) -> Drawn:
    """Draw each visitor with the same probability."""
    return lambda dice, count: [int(dice.random() * visitors) for _ in range(count)]


def zipf(visitors: int) -> Drawn:
    """Draw visitor n with a probability proportional to 1/n."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, visitors + 1)))
    population = range(visitors)
    return lambda dice, count: dice.choices(population, cum_weights=weights, k=count)


def is_identified(visitor: int) -> bool:
    """Whether the visitor is identified."""
    return visitor % 5 < _IDENTIFIED_OF_5


class Producer:
    """Makes the events of a population, each with its own id and times."""

    def __init__(self, visitors: int, seed: int = SEED) -> None:
        self._people = max(1, visitors // VISITORS_A_PERSON)
        self._dice: Final = random.Random(seed)  # noqa: S311  the same events in every run
        self._count = seed << 32

    def population(self, first: int, upto: int) -> Iterator[bytes]:
        """The events that create visitors `first` to `upto`: each is seen, and some are identified."""
        self._people = max(self._people, upto // VISITORS_A_PERSON)
        for visitor in range(first, upto):
            yield self._seen(visitor)
            if is_identified(visitor):
                yield self._identified(visitor)

    def mix(self, drawn: Drawn, count: int) -> Iterator[bytes]:
        """60 % seen; 10 % identified, half of them on a new device; 30 % metadata, nearly always new."""
        kinds = (
            [self._seen] * 12 + [self._identified, self._identified_anew] + [self._metadata] * 4 + [self._metadata_of_user] * 2
        )
        return self._drawn(drawn, count, kinds)

    def no_ops(self, drawn: Drawn, count: int) -> Iterator[bytes]:
        """90 % repetitions, two thirds of them metadata; 10 % new metadata."""
        return self._drawn(drawn, count, [self._metadata_again] * 6 + [self._identified_again] * 3 + [self._metadata])

    def before_merges(self, first: int, upto: int) -> Iterator[bytes]:
        """Contacts for `merges`: one with an address and a visitor per merge, and one with an external id per twenty merges."""
        for each in range(first, upto):
            if each % 20 == 0:
                yield self._event(b"VisitorIdentified", b'"externalId":"m-%d","metadata":{"plan":"pro"}' % (each // 20))
            yield self._event(
                b"VisitorIdentified",
                b'"email":"m-%d@example.org","visitorId":"v-m-%d","metadata":{"source":"newsletter"}' % (each, each),
            )

    def merges(self, first: int, upto: int) -> Iterator[bytes]:
        """Each event names the address and the external id of two contacts from `before_merges`."""
        for each in range(first, upto):
            yield self._event(b"VisitorIdentified", b'"externalId":"m-%d","email":"m-%d@example.org"' % (each // 20, each))

    def _drawn(self, drawn: Drawn, count: int, kinds: Sequence[Callable[[int], bytes]]) -> Iterator[bytes]:
        for first in range(0, count, _DRAWN_AT_ONCE):
            some = min(_DRAWN_AT_ONCE, count - first)
            visitors = drawn(self._dice, some)
            for make, visitor in zip(self._dice.choices(kinds, k=some), visitors, strict=True):
                yield make(visitor)

    def _seen(self, visitor: int) -> bytes:
        page = _PAGES[self._count % len(_PAGES)]
        return self._event(b"VisitorSeen", b'"visitorId":"v-%07d","context":{"url":"%b"}' % (visitor, page))

    def _identified(self, visitor: int) -> bytes:
        person = visitor // VISITORS_A_PERSON
        fields = b'"externalId":"u-%d","email":"u-%d@example.org","visitorId":"v-%07d","metadata":{"plan":"pro","beta":%b}'
        return self._event(b"VisitorIdentified", fields % (person, person, visitor, _beta(person)))

    def _identified_anew(self, _visitor: int) -> bytes:
        person = self._count * 7919 % self._people  # spread evenly, so that nobody gets hundreds of devices
        fields = b'"externalId":"u-%d","visitorId":"w-%x"'
        return self._event(b"VisitorIdentified", fields % (person, self._count))

    def _identified_again(self, visitor: int) -> bytes:
        return self._identified(_known(visitor))

    def _metadata(self, visitor: int) -> bytes:
        name, value = _KEYS[self._count % len(_KEYS)], self._count % 9973
        return self._event(b"MetadataSet", b'"visitorId":"v-%07d","metadata":{"%b":%d}' % (visitor, name, value))

    def _metadata_of_user(self, visitor: int) -> bytes:
        name, value, person = _KEYS[self._count % len(_KEYS)], self._count % 9973, _known(visitor) // VISITORS_A_PERSON
        return self._event(b"MetadataSet", b'"externalId":"u-%d","metadata":{"%b":%d}' % (person, name, value))

    def _metadata_again(self, visitor: int) -> bytes:
        visitor = _known(visitor)
        fields = b'"visitorId":"v-%07d","metadata":{"plan":"pro","beta":%b}'
        return self._event(b"MetadataSet", fields % (visitor, _beta(visitor // VISITORS_A_PERSON)))

    def _event(self, event_type: bytes, fields: bytes) -> bytes:
        self._count = count = self._count + 1
        ms = _FIRST_MS + (count & 0xFFFFFFFF) // _EVENTS_A_MS
        sent_ms = ms + int(self._dice.random() * _DELAY_MS)
        form = b'{"type":"%b","id":"019bbf20-7c00-7000-8000-%012x","at":"%b%03dZ",%b,"sentAt":"%b%03dZ"}'
        return form % (event_type, count, _second(ms // 1000), ms % 1000, fields, _second(sent_ms // 1000), sent_ms % 1000)


def history(turns: range) -> Iterator[bytes]:
    """The example history once per turn, each time with other people and devices."""
    for turn in turns:
        for event in _history():
            names = {name: f"{turn}.{event[name]}" for name in ("id", "visitorId", "externalId", "email") if name in event}
            yield msgspec.json.encode(event | names)


HISTORY_EVENTS: Final = 34_473


@lru_cache
def _history() -> list[dict[str, object]]:
    with gzip.open(HISTORY) as file:
        return [msgspec.json.decode(line) for line in file]


@lru_cache(maxsize=4)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()


def _beta(person: int) -> bytes:
    return b"true" if person % 2 else b"false"


def _known(visitor: int) -> int:
    """The visitor, or an identified one near it."""
    return visitor if is_identified(visitor) else visitor - 2
