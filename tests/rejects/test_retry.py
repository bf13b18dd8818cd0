"""`kinfold rejects` lists the entries that could not be folded, and appends those that are acceptable now again, once."""

import asyncio
import base64
import json
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_schemas.rejections import Rejection
from kinfold_schemas.times import to_text
from kinfold_services.connections import connect
from kinfold_services.rejects.retry import DamagedReject, RejectedEntry, Rejects, renew
from tests.support.command_line import Said
from tests.support.event_log import LOG_START_MS, append, entry_id
from tests.support.projecting import fold_log
from tests.support.running import kinfold

SEEN = {"type": "VisitorSeen", "visitorId": "v-1"}
KIOSK = {"type": "VisitorIdentified", "externalId": "kiosk", "visitorId": "v-1", "name": "Kim", "id": "e-1"}


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    """Give a client like that of the command line; the database is empty."""
    assert await redis.dbsize() == 0
    client = connect(redis_url)
    yield client
    await client.aclose()


class TestListing:
    async def test_each_reject_has_its_reason_and_its_fields(self, redis: Redis, redis_url: str) -> None:
        """One JSON object per line. Fields are pairs, and bytes that are not UTF-8 are base64."""
        await append(redis, "default", [SEEN, b"\xff{", {b"\xfe": b"1", b"entry": b"mine"}, {"type": "Nope"}])
        await fold_log(redis, redis_url, "default")

        said = await kinfold(redis_url, "rejects")

        assert said.status == 0, said
        first, second, third = said.lines
        assert (first["entry"], first["reason"]) == (entry_id(1), "not-json")
        assert first["fields"] == [["event", {"base64": base64.b64encode(b"\xff{").decode()}]]
        assert (second["entry"], second["reason"]) == (entry_id(2), "no-event-field")
        assert second["fields"] == [[{"base64": base64.b64encode(b"\xfe").decode()}, "1"], ["entry", "mine"]]
        assert (third["reason"], third["fields"]) == ("unknown-type", [["event", '{"type": "Nope"}']])
        assert "expected one of VisitorSeen" in third["detail"]

    async def test_entry_with_thousands_of_fields_is_one_reject(self, redis: Redis, redis_url: str) -> None:
        """It is stored in parts, but its event is found, and it is counted once."""
        many = {f"f{number}".encode(): b"x" for number in range(4500)}
        await append(redis, "default", [{b"event": b"{", **many}, b"["])
        await fold_log(redis, redis_url, "default")

        first, second = (await kinfold(redis_url, "rejects")).lines

        assert [each["entry"] for each in (first, second)] == [entry_id(0), entry_id(1)]
        assert first["fields"] == [["event", "{"], *([f"f{number}", "x"] for number in range(4500))]
        assert (await kinfold(redis_url, "rejects", "--count")).lines == [{"not-json": 2}]

    async def test_rejects_are_counted_by_reason(self, redis: Redis, redis_url: str) -> None:
        """`--count`: one JSON object."""
        await append(redis, "default", [b"{", b"[", {"type": "Nope"}, SEEN])
        await fold_log(redis, redis_url, "default")

        said = await kinfold(redis_url, "rejects", "--count")

        assert said.lines == [{"not-json": 2, "unknown-type": 1}]

    async def test_no_rejects_are_not_an_error(self, redis: Redis, redis_url: str) -> None:
        """Standard output is empty, standard error says why, and the exit status is 0."""
        await append(redis, "default", [SEEN])

        expected = Said(0, b"", "no rejects in workspace default that are not settled\n")
        assert await kinfold(redis_url, "rejects") == expected
        assert (await kinfold(redis_url, "rejects", "--count")).lines == [{}]

    async def test_foreign_entry_is_named(self, redis: Redis, client: Redis) -> None:
        """It is not shown as a reject."""
        await redis.xadd(key("default", "rejects"), {"event": "{}"}, id="1-0")

        with pytest.raises(
            DamagedReject, match=r"entry 1-0: expected the last fields to be entry .*, reason and detail, got event$"
        ):
            await rejected(client)


class TestRetrying:
    async def test_event_that_is_acceptable_now_is_folded(self, redis: Redis, redis_url: str) -> None:
        """The workspace blocked an identifier by mistake, and no longer does."""
        await block(redis, "kiosk")
        await append(redis, "default", [KIOSK, b"{"])
        await fold_log(redis, redis_url, "default")
        await redis.srem(key("default", "blocked-identifiers"), "kiosk")

        said = await kinfold(redis_url, "rejects", "--retry")
        await fold_log(redis, redis_url, "default")

        assert said.status == 1, "one reject is left, which is still not JSON"
        assert [each["entry"] for each in said.lines] == [entry_id(0)]
        assert f"{entry_id(1)}: still not-json" in said.err
        assert "1 appended again, 1 left" in said.err
        (contact,) = (await kinfold(redis_url, "contacts")).lines
        assert (contact["externalId"], contact["name"]) == ("kiosk", "Kim")

    async def test_settled_reject_is_not_listed_and_not_retried(self, redis: Redis, redis_url: str) -> None:
        """`--all` lists it, too, with the entry that replaced it. Its bytes are unchanged."""
        await block(redis, "kiosk")
        await append(redis, "default", [KIOSK])
        await fold_log(redis, redis_url, "default")
        (before,) = (await kinfold(redis_url, "rejects")).lines
        await redis.delete(key("default", "blocked-identifiers"))
        (retried,) = (await kinfold(redis_url, "rejects", "--retry")).lines

        again = await kinfold(redis_url, "rejects", "--retry")

        assert (again.status, again.out) == (0, b"")
        assert (await kinfold(redis_url, "rejects")).lines == []
        assert (await kinfold(redis_url, "rejects", "--count")).lines == [{}]
        assert (await kinfold(redis_url, "rejects", "--all")).lines == [{**before, "settled": retried["position"]}]
        assert await redis.xlen(key("default", "events")) == 2

    async def test_event_that_the_state_rejected_is_not_a_duplicate(self, redis: Redis, redis_url: str) -> None:
        """Its id has occurred, so it gets another one. The contact that it named exists now."""
        await append(redis, "default", [{"type": "VisitorIdentified", "externalId": "u-1"}])
        await fold_log(redis, redis_url, "default")
        (contact,) = (await kinfold(redis_url, "contacts")).lines
        setting = {"type": "MetadataSet", "id": "e-7", "contactId": contact["id"], "metadata": {"plan": "pro"}}
        await redis.flushdb()
        await append(redis, "default", [setting], start=-1)
        await append(redis, "default", [{"type": "VisitorIdentified", "externalId": "u-1"}])
        await fold_log(redis, redis_url, "default")

        said = await kinfold(redis_url, "rejects", "--retry")
        await fold_log(redis, redis_url, "default")

        assert said.status == 0, said
        (contact,) = (await kinfold(redis_url, "contacts")).lines
        assert contact["metadata"] == {"plan": "pro"}
        assert (await kinfold(redis_url, "rejects")).out == b""

    async def test_event_that_the_state_would_reject_again_is_not_appended(self, redis: Redis, redis_url: str) -> None:
        """An unknown contact is still unknown, and a full contact is still full."""
        full = {"type": "MetadataSet", "externalId": "u-1", "metadata": {f"k{number}": 1 for number in range(256)}}
        more = {"type": "MetadataSet", "externalId": "u-1", "metadata": {"one-more": 1}}
        stranger = {"type": "MetadataSet", "contactId": "ct_nobody", "metadata": {"a": 1}}
        await append(redis, "default", [full, more, stranger])
        await fold_log(redis, redis_url, "default")

        said = await kinfold(redis_url, "rejects", "--retry")

        assert said.status == 1
        assert f"{entry_id(1)}: still invalid: metadata: expected at most 256 keys in a contact, got 257 keys" in said.err
        assert f"{entry_id(2)}: still unknown-contact" in said.err
        assert await redis.xlen(key("default", "events")) == 3

    async def test_retried_event_does_not_overwrite_newer_values(self, redis: Redis, redis_url: str) -> None:
        """It folds at the effective time of the rejected entry, not at that of the retry."""
        identified = {"type": "VisitorIdentified", "externalId": "u-1"}
        await block(redis, "kiosk")
        await append(redis, "default", [{**identified, "visitorId": "kiosk", "name": "Older"}, {**identified, "name": "Newer"}])
        await fold_log(redis, redis_url, "default")
        await redis.delete(key("default", "blocked-identifiers"))

        await kinfold(redis_url, "rejects", "--retry")
        await fold_log(redis, redis_url, "default")

        (contact,) = (await kinfold(redis_url, "contacts")).lines
        assert (contact["name"], contact["visitorIds"]) == ("Newer", ["kiosk"])
        assert contact["firstSeenAt"] == to_text(LOG_START_MS)

    async def test_two_concurrent_retries_append_one_event(self, redis: Redis, redis_url: str, client: Redis) -> None:
        """Appending and marking are one step, and the second retry gets the entry of the first."""
        await block(redis, "kiosk")
        await append(redis, "default", [KIOSK])
        await fold_log(redis, redis_url, "default")
        await redis.delete(key("default", "blocked-identifiers"))
        (reject,) = await rejected(client)

        positions = await asyncio.gather(*(retried(redis_url, reject) for _ in range(8)))

        assert len(set(positions)) == 1
        assert await redis.xlen(key("default", "events")) == 2

    async def test_retry_that_is_rejected_becomes_a_new_reject(self, redis: Redis, redis_url: str) -> None:
        """The rules change between the retry and its fold: nothing is lost, and it is listed again, once."""
        await block(redis, "kiosk")
        await append(redis, "default", [KIOSK])
        await fold_log(redis, redis_url, "default")
        await redis.delete(key("default", "blocked-identifiers"))
        (said,) = (await kinfold(redis_url, "rejects", "--retry")).lines
        await block(redis, "kiosk")
        await fold_log(redis, redis_url, "default")

        (listed,) = (await kinfold(redis_url, "rejects")).lines

        assert (listed["entry"], listed["reason"]) == (said["position"], "blocked-identifier")

    async def test_settled_reject_stays_settled_after_export_and_import(
        self, redis: Redis, redis_url: str, tmp_path: Path
    ) -> None:
        """The fold elsewhere rejects the same entry again, and knows the entry that replaced it."""
        await block(redis, "kiosk")
        await append(redis, "default", [KIOSK])
        await fold_log(redis, redis_url, "default")
        await redis.delete(key("default", "blocked-identifiers"))
        await kinfold(redis_url, "rejects", "--retry")
        await kinfold(redis_url, "export", tmp_path / "log.ndjson")
        await redis.flushdb()
        await kinfold(redis_url, "import", tmp_path / "log.ndjson")
        await block(redis, "kiosk")
        await fold_log(redis, redis_url, "default")

        listed = (await kinfold(redis_url, "rejects", "--all")).lines

        assert listed[0]["entry"] == entry_id(0)
        assert "settled" in listed[0]


class TestEditing:
    async def test_corrected_event_is_appended(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """The editor shows it in readable form, with the reason above it."""
        await append(redis, "default", [{"type": "VisitorSeen", "visitorID": "v-1", "n": 1.0}])
        await fold_log(redis, redis_url, "default")
        editor = write_editor(tmp_path, "text = text.replace('visitorID', 'visitorId')")

        said = await kinfold(redis_url, "rejects", "--edit", EDITOR=editor)

        assert said.status == 0, said
        seen = (tmp_path / "seen").read_text()
        detail = "visitorId: expected a string of 1 to 255 characters, got nothing"
        assert f"# Entry {entry_id(0)} of the log was rejected. invalid: {detail}" in seen
        assert '\n{\n  "type": "VisitorSeen",\n  "visitorID": "v-1",\n  "n": 1.0\n}\n' in seen
        assert await newest_event(redis) == (
            b'{"type":"VisitorSeen","visitorId":"v-1","n":1.0,"id":"retry-%b","at":"%b"}'
            % (entry_id(0).encode(), to_text(LOG_START_MS).encode())
        )

    async def test_entry_without_an_event_can_get_one(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """Its fields are shown, and its bytes stay in the rejects."""
        await append(redis, "default", [{b"payload": b"\xffv-1"}])
        await fold_log(redis, redis_url, "default")
        editor = write_editor(tmp_path, f"text = {json.dumps(SEEN)!r}")

        said = await kinfold(redis_url, "rejects", "--edit", EDITOR=editor)

        assert said.status == 0, said
        assert "# field 'payload': '\\xffv-1'" in (tmp_path / "seen").read_text()
        (listed,) = (await kinfold(redis_url, "rejects", "--all")).lines
        assert listed["fields"] == [["payload", {"base64": base64.b64encode(b"\xffv-1").decode()}]]

    async def test_event_that_is_not_saved_is_left(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """Nothing is appended, and it is listed as before."""
        await append(redis, "default", [b"{"])
        await fold_log(redis, redis_url, "default")
        before = (await kinfold(redis_url, "rejects")).out

        unsaved = await kinfold(redis_url, "rejects", "--edit", EDITOR="true")
        emptied = await kinfold(redis_url, "rejects", "--edit", EDITOR=write_editor(tmp_path, "text = ''"))

        assert (unsaved.status, emptied.status) == (1, 1)
        assert (await kinfold(redis_url, "rejects")).out == before
        assert await redis.xlen(key("default", "events")) == 1

    async def test_event_that_is_still_invalid_is_reported(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """Nothing is appended."""
        await append(redis, "default", [b"{"])
        await fold_log(redis, redis_url, "default")
        editor = write_editor(tmp_path, """text = '{"type":"Nope"}'""")

        said = await kinfold(redis_url, "rejects", "--edit", EDITOR=editor)

        assert said.status == 1
        assert f"{entry_id(0)}: still unknown-type: type: expected one of VisitorSeen" in said.err
        assert "got 'Nope'" in said.err
        assert await redis.xlen(key("default", "events")) == 1

    async def test_editor_that_fails_changes_nothing(self, redis: Redis, redis_url: str) -> None:
        """The exit status is 2."""
        await append(redis, "default", [b"{"])
        await fold_log(redis, redis_url, "default")

        for editor, sentence in (("false", "expected exit status 0 of 'false', got 1"), ("no-such-editor", "No such file")):
            said = await kinfold(redis_url, "rejects", "--edit", EDITOR=editor)

            assert said.status == 2
            assert said.err.startswith("kinfold: EDITOR: ")
            assert sentence in said.err
            assert "Traceback" not in said.err
        assert await redis.xlen(key("default", "events")) == 1

    async def test_count_and_retry_exclude_each_other(self, redis_url: str) -> None:
        """The command reports it."""
        said = await kinfold(redis_url, "rejects", "--count", "--retry")

        assert said.status == 2


class TestRenewing:
    @pytest.mark.parametrize(
        ("times", "at"),
        [
            ({}, "2027-01-15T08:00:00.000Z"),
            ({"at": "2026-12-31T10:00:00.5+01:00"}, "2026-12-31T09:00:00.500Z"),
            ({"at": "2099-01-01T00:00:00Z"}, "2027-01-15T08:00:00.000Z"),
            ({"at": "2026-01-01T00:00:00Z", "sentAt": "2026-01-01T00:01:00Z"}, "2026-01-01T00:00:00.000Z"),
            ({"at": "2027-01-15T06:59:00Z", "sentAt": "2027-01-15T07:00:00Z"}, "2027-01-15T07:59:00.000Z"),
        ],
    )
    def test_renewed_event_keeps_its_effective_time(self, times: Mapping[str, str], at: str) -> None:
        """That of contract section 3 for the rejected entry, for each form of the event's times."""
        renewed = renewed_object({**SEEN, **times})

        assert renewed == {**SEEN, "id": f"retry-{entry_id(0)}", "at": at}

    def test_unknown_fields_and_numbers_stay_unchanged(self) -> None:
        """To the digit."""
        event = b'{"type":"VisitorSeen","visitorId":"v-1","id":"old","more":[1.0,1e400,{"a":12345678901234567890123}]}'

        renewed = renew("5-0", event)

        assert isinstance(renewed, bytes)
        assert b'"more":[1.0,1e400,{"a":12345678901234567890123}]' in renewed
        assert b'"id":"retry-5-0"' in renewed

    def test_invalid_event_is_not_renewed(self) -> None:
        """With the reason that the fold would give."""
        refused = renew("5-0", b"[]")

        assert isinstance(refused, Rejection)
        assert refused.reason == "invalid"


def renewed_object(event: Mapping[str, Any]) -> Any:
    renewed = renew(entry_id(0), json.dumps(event).encode())
    assert isinstance(renewed, bytes)
    return json.loads(renewed)


def write_editor(directory: Path, edit: str) -> str:
    """An $EDITOR: a script that stores the text that it gets in the file `seen`, and replaces it."""
    script = directory / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        f"path = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
        f"pathlib.Path({str(directory / 'seen')!r}).write_text(text)\n{edit}\n"
        "path.write_text(text)\n"
    )
    return shlex.join([sys.executable, str(script)])


async def block(redis: Redis, identifier: str) -> None:
    await redis.sadd(key("default", "blocked-identifiers"), identifier)


async def newest_event(redis: Redis) -> bytes:
    newest = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrevrange(key("default", "events"), count=1))
    return newest[0][1][b"event"]


async def rejected(client: Redis) -> list[RejectedEntry]:
    return [reject async for reject in Rejects(client, "default").each()]


async def retried(url: str, reject: RejectedEntry) -> str | Rejection:
    client = connect(url)
    try:
        assert reject.event is not None
        return await Rejects(client, "default").retry(reject, reject.event)
    finally:
        await client.aclose()


@pytest.mark.parametrize("event_type", ["Erased", "SubjectErased"])
async def test_reject_cannot_be_edited_into_an_erasure(redis: Redis, redis_url: str, client: Redis, event_type: str) -> None:
    """Only an erasure writes these (contract section 10): they would take a contact away without a receipt."""
    await append(redis, "default", [KIOSK, {"type": "Nope"}])
    await fold_log(redis, redis_url, "default")
    contact = cast("bytes", await redis.hget(key("default", "external-ids"), "kiosk")).decode()
    rejects = Rejects(client, "default")
    (reject,) = [each async for each in rejects.each()]
    erased: dict[str, Any] = {"type": "Erased", "id": "0" * 16, "salt": "0" * 16, "content": "0" * 16, "contactId": contact}
    subject: dict[str, Any] = {
        "type": "SubjectErased",
        "erasure": "er_1",
        "contacts": [contact],
        "entries": [],
        "identifiers": [],
    }

    outcome = await rejects.retry(reject, json.dumps(erased if event_type == "Erased" else subject).encode(), "Grace")

    assert isinstance(outcome, Rejection)
    assert outcome.reason == "unknown-type"
    assert await redis.xlen(key("default", "events")) == 2
