"""An invalid event is rejected at the call, with the message that the fold would have."""

import decimal
import threading
import traceback
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

import kinfold
from kinfold.calls.encoding import encode_drafts
from kinfold.producer.stamps import Stamps
from kinfold_projections.entries import Entry, read_entry
from kinfold_schemas.canonical import Primitive
from tests.clients.drafting import DRAFTING
from tests.support.logs import Log

VISITORS: Any = kinfold.Producer("redis://127.0.0.1:1/0", exit_timeout_s=0, buffer_events=1)

TEXT = st.text(max_size=300) | st.sampled_from(["null", " v-1 ", "a@b", "\ud800", "a\0b", "x" * 256, "é" * 3000, "\x1b" * 2000])
VALUES: st.SearchStrategy[Primitive] = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
METADATA = st.dictionaries(TEXT, VALUES, max_size=5)


@given(st.sampled_from(["seen", "identify", "set_metadata"]), TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | METADATA)
def test_fold_accepts_what_a_call_accepts(
    call: str, visitor_id: str, external_id: str | None, email: str | None, metadata: dict[str, Primitive] | None
):
    """For any arguments, either the call raises EventError or the event is valid. It raises nothing else."""
    try:
        if call == "seen":
            draft = DRAFTING.seen(visitor_id, context=metadata)
        elif call == "identify":
            draft = DRAFTING.identify(visitor_id, external_id=external_id, email=email, metadata=metadata)
        else:
            draft = DRAFTING.set_metadata(visitor_id, metadata, external_id=external_id)
    except kinfold.EventError:
        return
    (data,) = Stamps().stamp(encode_drafts([draft]))
    entry = read_entry(b"1800000000000-0", {b"event": data})
    assert isinstance(entry, Entry), (entry, data)
    assert len(data) <= draft[2] * 1.5, "text of control characters takes more than the estimate, but at most this much more"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VISITORS.seen(""), "blocked-identifier: visitorId: expected an identifier of one device, got ''"),
        (lambda: VISITORS.seen("null"), "blocked-identifier: visitorId: expected an identifier of one device, got 'null'"),
        (lambda: VISITORS.seen(5), "visitorId: expected a string, got 5 (a number)"),
        (lambda: VISITORS.seen([]), "visitorId: expected a string, got [] (an array)"),
        (lambda: VISITORS.seen(None), "visitorId: expected a string of 1 to 255 characters, got null"),
        (lambda: VISITORS.seen("v" * 256), "expected 1 to 255 characters"),
        (lambda: VISITORS.seen("v-1", context=[1]), "context: expected a mapping of strings to primitives, got [1] (an array)"),
        (lambda: VISITORS.identify("v-1"), "externalId, email: expected at least one of them, got neither"),
        (lambda: VISITORS.identify(email="nobody"), "zero-width characters, got 'nobody' (6 characters)"),
        (
            lambda: VISITORS.identify(external_id="u", metadata={"a": {}}),
            "a boolean or None, got {} (an object)",
        ),
        (lambda: VISITORS.set_metadata("v-1", {"a": float("nan")}), "metadata.a: expected a finite number, got nan"),
        (lambda: VISITORS.set_metadata("v-1", {"a": decimal.Decimal(1)}), "a boolean or None, got Decimal('1')"),
        (
            lambda: VISITORS.set_metadata("v-1", {"a": 2**53}),
            "expected an integer within ±(2^53-1), got 9007199254740992",
        ),
        (lambda: VISITORS.set_metadata("v-1", {1: 2}), "metadata: expected keys that are strings, got 1 (a number)"),
        (lambda: VISITORS.set_metadata("v-1", {"a": "x" * 8193}), "metadata.a: expected at most 8192 bytes, got 8193 bytes"),
        (lambda: VISITORS.set_metadata("v-1", {str(n): 1 for n in range(257)}), "expected at most 256 keys, got 257 keys"),
        (
            lambda: VISITORS.set_metadata("v-1", {str(n): "x" * 8000 for n in range(9)}),
            "too-large: event: expected at most 65536",
        ),
        (lambda: VISITORS.set_metadata("v-1", {"a": 1}, external_id="u-1"), "expected exactly one target, got 2 targets"),
        (lambda: VISITORS.set_metadata(metadata={"a": 1}), "expected exactly one target, got none"),
        (lambda: VISITORS.set_metadata("v-1", unset="plan"), "unset: expected an array of metadata keys, got 'plan'"),
        (lambda: VISITORS.seen("v-1", url="a\0b"), "context.url: expected text without NUL characters, got one"),
        (lambda: VISITORS.seen("v-1", url="\ud800"), "expected text that Unicode can encode, got a lone UTF-16 surrogate"),
        (lambda: VISITORS.seen("v-1", at=datetime(2026, 1, 1)), "datetime.now(UTC), got datetime.datetime(2026, 1, 1, 0, 0)"),  # noqa: DTZ001
        (lambda: VISITORS.seen("v-1", at="now"), "such as datetime.now(UTC), got 'now'"),
    ],
)
def test_message_names_the_field_and_the_expected_and_given_values(call: Any, message: str):
    with pytest.raises(kinfold.EventError) as raised:
        call()
    assert message in str(raised.value)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert "<lambda>" in frames, "the caller's line is in the traceback"


class SafeText(str):
    """A string like Django's SafeString."""

    __slots__ = ()


def test_subclass_of_str_becomes_plain_text():
    """An instance of a framework's string class equals a plain string, which may be in the cache of valid identifiers."""
    for visitor_id in ("v-safe", SafeText("v-safe")):
        draft = DRAFTING.seen(visitor_id, url=SafeText("/"))
        event = msgspec.json.decode(encode_drafts([draft])[0])
        assert event["visitorId"] == "v-safe"
        assert event["context"] == {"url": "/"}


class Standing:
    """Imitates werkzeug's LocalProxy: it looks like a string in its own thread, and raises in others."""

    def __init__(self) -> None:
        self.home = threading.get_ident()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return str

    def __hash__(self) -> int:
        return hash("v-standing")

    def __eq__(self, other: object) -> bool:
        return other == "v-standing"

    def __str__(self) -> str:
        if threading.get_ident() != self.home:
            raise RuntimeError("outside of the request")
        return "v-standing"


def test_proxy_object_as_identifier_loses_only_its_own_event(folding_url: str, client: Redis, workspace: str):
    """A call cannot detect this bug of the caller cheaply. The rest of the batch is sent."""
    standing: Any = Standing()
    with kinfold.Producer(folding_url, workspace=workspace, batch_age_s=600) as visitors:
        visitors.seen("v-standing")
        visitors.seen(standing)
        visitors.set_metadata("v-2", {"a": 1})
        visitors.set_metadata(standing, {"a": 1})
    assert Log(client, workspace).visitors == Counter(["v-standing", "v-2"])
    assert (visitors.counters.sent, visitors.counters.lost) == (2, 2)


def test_proxy_object_as_a_value_becomes_text_at_the_call():
    """Like Django's SimpleLazyObject: only the caller's thread can evaluate it."""
    standing: Any = Standing()
    draft = DRAFTING.seen("v-1", url=standing)
    assert msgspec.json.decode(encode_drafts([draft])[0])["context"] == {"url": "v-standing"}
    context: dict[str, Any] = draft[4]  # pyright: ignore[reportAssignmentType]
    assert type(context["url"]) is str
