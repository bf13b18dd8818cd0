"""Logs of events for Hypothesis. Few people on few devices, so that they interact often.

A log is a list of entries as Redis returns them: an id, and a field `event` with bytes.
"""

import copy
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

from hypothesis import strategies as st

from kinfold_projections.contact_ids import make_contact_id
from kinfold_projections.entries import BadEntry, Entry, read_entry
from kinfold_schemas.times import to_text
from tests.support.folding import LOG_START_MS, STORY_START_MS

LoggedEvent = tuple[bytes, dict[bytes, bytes]]
Log = list[LoggedEvent]

VISITORS: Final = [f"v-{number}" for number in range(5)]
EXTERNAL_IDS: Final = ["u-1", "u-2", "u-3"]
SPELLINGS: Final = [
    "jos\u00e9@b\u00fccher.example",
    "JOSE\u0301@XN--Bcher-kva.example.",
    "\ufeffJos\u00e9@BU\u0308CHER.example",
]
"""Spellings of one address."""
EMAILS: Final = ["ada@example.org", "Ada@Example.org", "ben@example.org", "BEN@example.org", "cy@example.org", *SPELLINGS]
KEYS: Final = ["plan", "city", "é", "𝄞"]
VALUES: Final = ["pro", "1", 1, 1.0, -0.0, 2.5, True, False, None, ""]
NAMES: Final = ["Ada", "Ben"]
NOISE: Final = ["null", " ", "UNDEFINED", "0", "x" * 256, "a@b@c"]
MAX_GAP_MS: Final = 45_000
"""The longest gap between two entries. `ContactSeen` appears at most once a minute."""

metadata = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
unset = st.lists(st.sampled_from(KEYS), max_size=2)
_known = st.integers(0, 200).map(lambda second: to_text(STORY_START_MS + second * 1000))
moments = st.one_of(_known, _known, _known, _known, st.just("2000-01-01T00:00:00Z"))
"""Few enough that several events happen at the same time; for some the time is unknown."""

_common: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    "id": st.sampled_from([f"e-{number}" for number in range(12)]),
    "at": moments,
    "sentAt": moments,
}


def _fields(
    required: Mapping[str, st.SearchStrategy[Any]], optional: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict(required), optional={**_common, **optional})


def _one_of_each(pool: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(pool * 4 + NOISE)  # noise is rare


def _union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return one | other


_visitor_seen = _fields(
    {"type": st.just("VisitorSeen"), "visitorId": _one_of_each(VISITORS)},
    {"context": st.dictionaries(st.sampled_from(["url", "locale"]), st.sampled_from(["/a", "/b", "en"]), max_size=2)},
)
_visitor_identified = _fields(
    {"type": st.just("VisitorIdentified")},
    {
        "externalId": _one_of_each(EXTERNAL_IDS),
        "email": _one_of_each(EMAILS),
        "visitorId": st.sampled_from(VISITORS),
        "name": st.sampled_from(NAMES),
        "image": st.sampled_from(["/a.png", "/b.png"]),
        "metadata": metadata,
        "unset": unset,
    },
)
_target = st.one_of(
    st.fixed_dictionaries({"visitorId": _one_of_each(VISITORS)}),
    st.fixed_dictionaries({"externalId": _one_of_each(EXTERNAL_IDS)}),
    st.fixed_dictionaries({"email": _one_of_each(EMAILS)}),
)
_metadata_set = st.builds(
    _union,
    _target,
    _fields(
        {"type": st.just("MetadataSet")},
        {
            "name": st.sampled_from(NAMES),
            "image": st.sampled_from(["/a.png", "/b.png"]),
            "metadata": metadata,
            "unset": unset,
            "hash": st.just("0" * 64),
        },
    ),
)
_contact = st.integers(0, 5).map(lambda entry: f"#{entry}")
"""The contact that an entry of the log creates, if it does (`_numbered`)."""
_corrected = st.builds(
    _union,
    st.one_of(
        st.fixed_dictionaries({"mergeContactId": _contact}),
        st.fixed_dictionaries({"unlinkVisitorId": st.sampled_from(VISITORS)}),
        st.fixed_dictionaries({"unlinkVisitorId": st.sampled_from(VISITORS)}),
        st.fixed_dictionaries({"dismissConflict": st.sampled_from(EMAILS)}),
        st.fixed_dictionaries(
            {"name": st.sampled_from([*NAMES, None])},
            optional={
                "externalId": st.sampled_from([*EXTERNAL_IDS, None]),
                "email": st.sampled_from([*EMAILS, None]),
                "take": st.booleans(),
                "metadata": metadata,
                "unset": unset,
            },
        ),
    ),
    _fields(
        {"type": st.just("IdentityCorrected"), "by": st.just("Grace"), "contactId": _contact}, {"reason": st.just("a test")}
    ),
)
_excluded = st.just({"type": "EventsExcluded", "entries": ["1-0"], "reason": "a test"})

good_events: Final[st.SearchStrategy[dict[str, Any]]] = st.one_of(
    _visitor_identified, _visitor_identified, _metadata_set, _visitor_seen
)
malformed: Final[st.SearchStrategy[bytes]] = st.sampled_from(
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"type":"Nope"}',
        b'{"type":"VisitorSeen"}',
        b'{"type":"VisitorSeen","visitorId":"\\u0000"}',
        b'{"type":"MetadataSet","visitorId":"v-1","metadata":{"a":{}}}',
        b'{"type":"MetadataSet","contactId":"ct_nobody"}',
    ]
)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 25, *, own_ids: bool = False) -> Log:
    """A log of good events with a few malformed ones. With `own_ids`, each event has a unique id."""
    kinds = good_events, good_events, good_events, _corrected, _excluded, malformed
    events = draw(st.lists(st.one_of(kinds), max_size=max_size))
    if own_ids:
        events = [{**event, "id": f"own-{number}"} if isinstance(event, dict) else event for number, event in enumerate(events)]
    gaps = draw(st.lists(st.integers(0, MAX_GAP_MS), min_size=len(events), max_size=len(events)))
    return _numbered(events, gaps)


def _numbered(events: list[Any], gaps_ms: list[int]) -> Log:
    """As `log_of`; the names of contacts in corrections become the ids that the entries give them."""
    ids = [entry_id.decode() for entry_id, _ in log_of([b""] * len(events), gaps_ms)]
    for event in events:
        for field in ("contactId", "mergeContactId"):
            name: str = cast("dict[str, Any]", event).get(field, "") if isinstance(event, dict) else ""
            if name.startswith("#") and int(name[1:]) < len(ids):
                event[field] = make_contact_id("default", ids[int(name[1:])])
    return log_of([event if isinstance(event, bytes) else json.dumps(event).encode() for event in events], gaps_ms)


_sign_in = st.fixed_dictionaries(
    {
        "type": st.just("VisitorIdentified"),
        "visitorId": st.sampled_from([f"v-{number}" for number in range(8)]),
        "at": st.integers(0, 20).map(lambda second: to_text(STORY_START_MS + second * 1000)),
    }
)
_unlinked_or_merged = st.builds(
    _union,
    st.fixed_dictionaries({"type": st.just("IdentityCorrected"), "by": st.just("Grace"), "contactId": _contact}),
    st.one_of(
        st.fixed_dictionaries({"mergeContactId": _contact}),
        st.fixed_dictionaries(
            {"unlinkVisitorId": st.sampled_from([f"v-{number}" for number in range(8)])},
            optional={"at": st.integers(0, 20).map(lambda second: to_text(STORY_START_MS + second * 1000))},
        ),
    ),
)
_who = st.sampled_from(
    [{"externalId": "u-1"}, {"externalId": "u-2"}, {"email": "a@b"}, {"email": "c@d"}, {"externalId": "u-1", "email": "c@d"}]
)


@st.composite
def crowded_logs(draw: st.DrawFn, max_size: int = 40) -> Log:
    """Mostly sign-ins, of few people on many devices: late ones, repeated ones, and merges. A few are corrections.

    This covers long lists of visitors, which a general random log hardly ever reaches.
    """
    sign_ins = st.builds(_union, _sign_in, _who)
    events = draw(st.lists(st.one_of([sign_ins] * 8 + [_unlinked_or_merged]), min_size=10, max_size=max_size))
    return _numbered(events, [1000] * len(events))


_MARKED_VISITORS: Final = [f"<visitor-{number}>" for number in range(4)]
_MARKED_IDS: Final = [f"<external-{number}>" for number in range(3)]
_MARKED_EMAILS: Final = [f"<{spelling}-{number}>@example.org" for number in range(4) for spelling in ("mail", "Mail")]
_FREE_TEXTS: Final = st.fixed_dictionaries(
    {"name": st.just("$name"), "image": st.just("$image"), "metadata": st.just({"title": "$title"})}
)
_FULL: Final = {f"key-{number}": "x" for number in range(257)}
"""More keys than a contact may have: the event is rejected because of the state."""


def _marked(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ids = st.sampled_from(["e-1", "e-2", "e-3"])
    return st.fixed_dictionaries(required, optional={"at": _known, "id": ids, **optional})


def _nested(who: dict[str, str]) -> dict[str, Any]:
    return {"type": "identify", "user": [who]}


def _broken(who: dict[str, str]) -> bytes:
    return b"broken " + "".join(who.values()).encode()


_marked_target = st.one_of(
    st.fixed_dictionaries({"visitorId": st.sampled_from(_MARKED_VISITORS)}),
    st.fixed_dictionaries({"externalId": st.sampled_from(_MARKED_IDS)}),
    st.fixed_dictionaries({"email": st.sampled_from(_MARKED_EMAILS)}),
    st.fixed_dictionaries({"contactId": _contact}),
)
_marked_events: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    "identified": _marked(
        {"type": st.just("VisitorIdentified")},
        externalId=st.sampled_from(_MARKED_IDS),
        email=st.sampled_from(_MARKED_EMAILS),
        visitorId=st.sampled_from(_MARKED_VISITORS),
        name=st.just("$name"),
        metadata=st.sampled_from([{"title": "$title"}, {"title": "$title"}, {"title": "$title", **_FULL}]),
        source=st.just("browser"),
    ),
    "set": st.builds(
        _union,
        _marked_target,
        st.builds(_union, _FREE_TEXTS, _marked({"type": st.just("MetadataSet")}, hash=st.just("0" * 64))),
    ),
    "seen": _marked(
        {
            "type": st.just("VisitorSeen"),
            "visitorId": st.sampled_from(_MARKED_VISITORS),
            "context": st.just({"url": "/$url", "ip": "$ip", "userAgent": "$agent"}),
        }
    ),
    "corrected": st.builds(
        _union,
        st.one_of(
            st.fixed_dictionaries({"mergeContactId": _contact}),
            st.fixed_dictionaries({"unlinkVisitorId": st.sampled_from(_MARKED_VISITORS)}),
            st.fixed_dictionaries({"dismissConflict": st.sampled_from(_MARKED_EMAILS)}),
            st.fixed_dictionaries(
                {"name": st.just("$name")},
                optional={
                    "externalId": st.sampled_from([*_MARKED_IDS, None]),
                    "email": st.sampled_from([*_MARKED_EMAILS, None]),
                    "take": st.booleans(),
                },
            ),
        ),
        _marked({"type": st.just("IdentityCorrected"), "by": st.just("Grace"), "contactId": _contact}),
    ),
    "bad": st.builds(
        _union,
        _marked_target,
        st.sampled_from(
            [{"type": "VisitorIdentified", "name": 7}, {"type": "track"}, {"type": "MetadataSet", "metadata": {"a": {}}}]
        ),
    ),
    "nested": st.builds(_nested, _marked_target),
    "broken": st.builds(_broken, _marked_target),
}


@st.composite
def marked_logs(draw: st.DrawFn, max_size: int = 22) -> Log:
    """Logs of few people, with corrections and rejected events, in which every text can be told from all others.

    Identifiers stand in angle brackets. Each event has its own name, metadata and context, unless it is the same event.
    """
    often = [*("identified",) * 6, *("set", "seen", "corrected") * 2, "corrected", "bad", "nested", "broken"]
    kinds = draw(st.lists(st.sampled_from(often), min_size=3, max_size=max_size))
    events: list[Any] = [copy.deepcopy(draw(_marked_events[kind])) for kind in kinds]
    for place in draw(st.lists(st.integers(1, len(events) - 1), max_size=2)):  # resends
        events[place] = events[place - 1]
    log = _numbered(events, draw(st.lists(st.integers(0, MAX_GAP_MS), min_size=len(events), max_size=len(events))))
    return [(entry_id, {b"event": _with_own_texts(fields[b"event"])}) for entry_id, fields in log]


def _with_own_texts(event: bytes) -> bytes:
    return event.replace(b"$", b"$%d-" % zlib.crc32(event))


def log_of(events: list[bytes], gaps_ms: list[int]) -> Log:
    """Make entries with gaps in ms between them. Entries in the same millisecond differ in their sequence number."""
    log: Log = []
    ms, seq = LOG_START_MS, 0
    for event, gap_ms in zip(events, gaps_ms, strict=True):
        ms, seq = (ms + gap_ms, 0) if gap_ms else (ms, seq + 1)
        log.append((f"{ms}-{seq}".encode(), {b"event": event}))
    return log


def read(log: Log) -> list[Entry | BadEntry]:
    """The entries of a log as the fold takes them."""
    return [read_entry(entry_id, fields) for entry_id, fields in log]


@st.composite
def one_to_one_histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of people who each have one external id, one address and private devices; no two events at the same time.

    One event per person names both the external id and the address. Otherwise the address would be another contact.
    """
    events: list[dict[str, Any]] = []
    for person in range(draw(st.integers(1, 2))):
        tie = {"type": "VisitorIdentified", "externalId": f"u-{person}", "email": f"P{person}@example.org"}
        events += [tie, *draw(st.lists(_of_person(person), max_size=6))]
    times = draw(st.permutations(range(len(events))))
    return [{**event, "at": to_text(STORY_START_MS + time * 1000)} for event, time in zip(events, times, strict=True)]


def _of_person(person: int) -> st.SearchStrategy[dict[str, Any]]:
    visitors = st.sampled_from([f"v-{person}-1", f"v-{person}-2"])
    external_id = st.just(f"u-{person}")
    emails = st.sampled_from([f"p{person}@example.org", f"P{person}@Example.ORG"])
    facts = {"metadata": metadata, "unset": unset, "name": st.sampled_from(NAMES)}
    identity = {**facts, "visitorId": visitors}
    identification = {"type": st.just("VisitorIdentified")}
    setting = {"type": st.just("MetadataSet")}
    return st.one_of(
        st.fixed_dictionaries({**identification, "externalId": external_id}, optional=identity),
        st.fixed_dictionaries({**identification, "email": emails}, optional=identity),
        st.fixed_dictionaries({**identification, "externalId": external_id, "email": emails}, optional=identity),
        st.fixed_dictionaries({**setting, "visitorId": visitors}, optional=facts),
        st.fixed_dictionaries({**setting, "externalId": external_id}, optional=facts),
        st.fixed_dictionaries({**setting, "email": emails}, optional=facts),
        st.fixed_dictionaries({"type": st.just("VisitorSeen"), "visitorId": visitors}),
    )
