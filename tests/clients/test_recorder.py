"""The test kit shows what a producer would send, and the result."""

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

import kinfold
from kinfold.testing import AsyncRecorder, Recorder
from tests.support.logs import Log


def test_recorder_has_the_resulting_contact():
    recorder = Recorder()
    recorder.seen("v-1", url="/pricing")
    recorder.set_metadata("v-1", {"source": "news"})
    recorder.identify("v-1", external_id="u-1", email="Ada@example.org", metadata={"plan": "pro"})
    contact = recorder.contact(external_id="u-1")
    assert contact.metadata == {"plan": "pro", "source": "news"}
    assert contact == recorder.contact(email="ada@example.org") == recorder.contact(visitor_id="v-1")
    assert contact == recorder.contact(contact_id=contact.id) == recorder.contacts[0]
    assert recorder.visitor("v-1").context == {"url": "/pricing"}
    assert [type(change).__name__ for change in recorder.changes] == ["ContactCreated", "VisitorLinked"]


def test_recorder_records_the_same_events_as_a_producer_sends(folding_url: str, client: Redis, workspace: str):
    """The same calls give the same events except for ids and times, including suppression."""
    recorder = Recorder(workspace)
    with kinfold.Producer(folding_url, workspace=workspace) as producer:
        for each in (recorder, producer):
            each.seen("v-1", url="/", user_agent="x")
            for _ in range(2):
                each.identify("v-1", external_id="u-1", metadata={"n": 1.5})
                each.set_metadata(external_id="u-1", metadata={"plan": "pro"}, unset=["trial"])
            each.seen("v-1", at=datetime.now(UTC) - timedelta(days=1))
    own = ("id", "at", "sentAt")
    sent = [{name: value for name, value in event.items() if name not in own} for event in Log(client, workspace).events]
    assert sent == [{name: value for name, value in event.items() if name not in own} for event in recorder.events]
    assert (recorder.counters.sent, recorder.counters.suppressed) == (4, 2)


def test_recorder_rejects_a_repeated_invalid_event_again():
    recorder = Recorder()
    for _ in range(2):
        with pytest.raises(kinfold.EventError, match="unknown-contact"):
            recorder.set_metadata(contact_id="ct_unknown", metadata={"plan": "pro"})
    assert recorder.counters.accepted == 0


def test_recorder_rejects_what_a_producer_or_the_fold_rejects():
    recorder = Recorder()
    with pytest.raises(kinfold.EventError, match="got neither"):
        recorder.identify("v-1")
    with pytest.raises(kinfold.EventError, match="unknown-contact"):
        recorder.set_metadata(contact_id="ct_unknown", metadata={"a": 1})
    with pytest.raises(TypeError, match="expected one of external_id, email, visitor_id, contact_id, got nothing"):
        recorder.contact()
    with pytest.raises(LookupError, match="visitor_id: expected the visitor id of a contact, got 'v-1'"):
        recorder.contact(visitor_id="v-1")


async def test_async_recorder_records_the_same():
    async with AsyncRecorder() as visitors:
        await visitors.seen("v-1")
        await visitors.identify("v-1", email="ada@example.org")
        await visitors.set_metadata(email="ada@example.org", metadata={"plan": "pro"})
    assert visitors.recorder.contact(visitor_id="v-1").metadata == {"plan": "pro"}
