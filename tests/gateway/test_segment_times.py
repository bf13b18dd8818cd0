"""Times of Segment's calls (`services.gateway.events.segment_times`)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from kinfold_services.gateway.events.segment_times import read_time
from tests.support.gateways import Gateway

Json = dict[str, Any]
MOMENT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (1500000000000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1500000000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1500000000.25, datetime(2017, 7, 14, 2, 40, 0, 250_000, tzinfo=UTC)),
        (1500000000000000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        ("1590000000", datetime(2020, 5, 20, 18, 40, tzinfo=UTC)),
        ("1590000000123", datetime(2020, 5, 20, 18, 40, 0, 123_000, tzinfo=UTC)),
        ("2026-01-01T12:30:00Z", MOMENT),
        ("2026-01-01t12:30:00z", MOMENT),
        (" 2026-01-01T12:30:00 ", MOMENT),
        ("2026-01-01T13:30:00+01:00", MOMENT),
        ("2026-01-01T12:30:00.000000000Z", MOMENT),
        ("2026-01-01 12:30:00", MOMENT),
        ("2026-01-01 12:30:00 UTC", MOMENT),
        ("2026-01-01 13:30:00 +0100", MOMENT),
        ("2026-01-01 12:30:00 +0000 UTC", MOMENT),
        ("2026/01/01 12:30:00", MOMENT),
        ("20260101T123000Z", MOMENT),
        ("20260101123000", MOMENT),
        ("2026-01-01", MOMENT.replace(hour=0, minute=0)),
        ("20260101", MOMENT.replace(hour=0, minute=0)),
        ("Thu, 01 Jan 2026 12:30:00 GMT", MOMENT),
        ("Thu, 01 Jan 2026 07:30:00 EST", MOMENT),
        ("Thu, 01 Jan 2026 13:30:00 +0100", MOMENT),
        ("Thursday, 01-Jan-26 12:30:00 GMT", MOMENT),
        ("Thu Jan  1 12:30:00 2026", MOMENT),
        ("Thu Jan 01 2026 13:30:00 GMT+0100 (Central European Standard Time)", MOMENT),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+01:00", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_time_is_read_in_every_form(written: object, read: datetime):
    assert read_time(written) == read


@pytest.mark.parametrize(
    "written",
    [
        *("", "yesterday", "01/02/2026", "31/12/2025", "2026-02-30T00:00:00Z", "Tue, 31 Feb 2026 00:00:00 GMT", "9" * 99),
        *("Thu, 01 Jan 2026 01:00:00 PM", "Thu, 01 Jan 2026 12:30:00 CEST", "2026-01-01T00:00:00Z" + " " * 100),
        *(True, [], {}, float("nan"), float("inf"), 1e300, -(2**70)),
    ],
)
def test_time_is_not_guessed(written: object):
    """The order of month and day, and the names of time zones, are ambiguous."""
    assert read_time(written) is None


@pytest.mark.parametrize(
    "times",
    [
        {"timestamp": 1767270600000},
        {"timestamp": "1767270600"},
        {"timestamp": "Thu, 01 Jan 2026 12:30:00 GMT"},
        {"originalTimestamp": "2026-01-01T12:30:00.000Z"},
        {"timestamp": None, "originalTimestamp": "2026-01-01T12:30:00"},
        {"timestamp": "2026-01-01T12:30:00Z", "originalTimestamp": "2025-01-01T12:30:00Z"},
        {"timestamp": "soon", "originalTimestamp": "2026-01-01T12:30:00Z"},
    ],
    ids=str,
)
async def test_call_counts_at_its_timestamp_or_original_timestamp(unfolded: Gateway, times: Json):
    """`timestamp`, or else RudderStack's `originalTimestamp`."""
    call = {"type": "identify", "userId": "u", **times, "sentAt": 1767270601}
    answer = await unfolded.client.post("/v1/batch", json={"batch": [call]})

    assert answer.json()["success"]
    ((_, event),) = await unfolded.entries("events")
    assert datetime.fromisoformat(event["at"]) == MOMENT
    assert datetime.fromisoformat(event["sentAt"]) == MOMENT + timedelta(seconds=1)


@pytest.mark.parametrize("unset", ["0001-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z", "1999-12-31T23:59:59Z"])
async def test_time_of_an_unset_clock_counts_as_absent(unfolded: Gateway, unset: object):
    """Go's zero time, and the times of devices before they set their clock."""
    call = {"type": "identify", "userId": "u", "timestamp": unset, "sentAt": unset}
    answer = await unfolded.client.post("/v1/batch", json={"batch": [call]})

    ((_, event),) = await unfolded.entries("events")
    assert event.keys() == {"type", "externalId", "id"}
    assert [(each["field"], each["reason"]) for each in answer.json()["ignored"]] == [("timestamp", "time"), ("sentAt", "time")]


async def test_call_with_an_unknown_time_fills_gaps_only(gateway: Gateway):
    """With the current time it would overwrite everything. The response, the metrics and the log mention it."""
    known: Json = {"email": "ada@x.org", "name": "Ada", "plan": "pro"}
    late: Json = {"email": "late@x.org", "name": "Late", "avatar": "https://x.org/a.png", "plan": "free", "seats": 5}
    page = {"page": {"url": "now"}}
    times: Json = {"timestamp": "soon", "sentAt": datetime.now(UTC).isoformat()}
    calls: list[Json] = [
        {"type": "identify", "userId": "u-0", "anonymousId": "v-0"},
        {"type": "identify", "userId": "u-1", "anonymousId": "v-1", "traits": known},
        {"type": "page", "anonymousId": "v-1", "context": page},
        {"type": "identify", "userId": "u-1", "anonymousId": "v-0", "traits": late, **times},
        {"type": "page", "anonymousId": "v-1", "context": {"page": {"url": "then"}}, **times},
    ]
    with capture_logs() as logs:
        answer = await gateway.client.post("/v1/batch", json={"batch": calls})

    position = answer.json()["position"]
    contact = await gateway.get("/v1/contacts", externalId="u-1", after=position)
    assert (contact["email"], contact["name"], contact["image"]) == ("ada@x.org", "Ada", "https://x.org/a.png")
    assert contact["metadata"] == {"plan": "pro", "seats": 5}
    assert (await gateway.get("/v1/visitors/v-1"))["context"] == {"url": "now"}
    assert (await gateway.get("/v1/visitors/v-0"))["contact"]["externalId"] == "u-0"
    assert contact["firstSeenAt"] > "2026"
    assert [(each["index"], each["field"], each["reason"]) for each in answer.json()["ignored"]] == [
        (3, "timestamp", "time"),
        (4, "timestamp", "time"),
    ]
    (warning,) = [each for each in logs if each["event"] == "times of calls ignored"]
    assert (warning["log_level"], warning["workspace"], warning["count"]) == ("warning", "default", 2)
    assert warning["first"].endswith("got 'soon'; the call counts as the oldest known")
    metrics = (await gateway.client.get("/metrics")).text
    assert 'kinfold_gateway_segment_ignored_total{what="time",workspace="default"} 2.0' in metrics
