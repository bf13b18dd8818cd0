"""Corrections by hand over HTTP: preview, append, take back; with a projector, and where it says so a directory."""

import asyncio
from typing import Any, Final

from kinfold_services.replay.verify import Verification
from kinfold_services.settings import Settings
from tests.support.gateways import Gateway
from tests.support.replaying import NO_RULES, kinfold, quietly, replay

ADA: Final = {"type": "VisitorIdentified", "externalId": "u-1", "email": "ada@x.io", "visitorId": "v-1", "name": "Ada"}
BEN: Final = {"type": "VisitorIdentified", "externalId": "u-2", "email": "ben@x.io", "visitorId": "v-2", "name": "Ben"}
BY: Final = {"by": "Grace", "reason": "a slip"}


async def people(gateway: Gateway, *more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ada and Ben, as the API shows them."""
    after = await gateway.put(ADA, BEN, *more)
    ada = await gateway.get("/v1/contacts", externalId="u-1", after=after)
    return ada, await gateway.get("/v1/contacts", externalId="u-2", after=after)


async def correct(gateway: Gateway, expected: int = 202, **fields: Any) -> Any:
    """Post a correction; returns the answer."""
    answer = await gateway.client.post("/v1/corrections", json={**BY, **fields})
    assert answer.status_code == expected, answer.text
    return answer.json()


async def preview(gateway: Gateway, **fields: Any) -> Any:
    """What a correction would change."""
    answer = await gateway.client.post("/v1/corrections", params={"preview": "true"}, json={**BY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["preview"]


async def must_be_verified(gateway: Gateway) -> None:
    """Assert that a fold of the log gives the stored state, and that a replay changes nothing."""
    differences = await Verification(gateway.redis, Settings(workspace=gateway.workspace), NO_RULES).differences(quietly)
    assert differences == []
    assert await replay(gateway.redis, gateway.workspace) == []


async def last_change(gateway: Gateway) -> Any:
    """The newest change on the feed."""
    return (await gateway.entries("changes"))[-1][1]


async def test_preview_tells_what_changes_and_appends_nothing(gateway: Gateway):
    """The contacts before and after, the version for `ifVersion`, and what to know."""
    ada, ben = await people(gateway)
    found = await preview(gateway, contactId=ada["id"], mergeContactId=ben["id"])
    assert (found["outcome"], found["contactId"], found["version"]) == ("folded", ada["id"], ada["version"])
    first, second = found["contacts"]
    assert first["before"] == ada
    assert (first["after"]["externalId"], first["after"]["visitorCount"]) == ("u-1", 2)
    assert (second["contactId"], second["before"], second["after"], second["mergedInto"]) == (ben["id"], ben, None, ada["id"])
    (lost,) = {ada["email"], ben["email"]} - {first["after"]["email"]}
    assert found["notes"] == [
        "It keeps the external id u-1. Events that name u-2 are about it from now on.",
        f"{lost} is free from now on: the next event that names it makes a contact, or gives it to one without any.",
    ]
    assert len(await gateway.entries("events")) == 2


async def test_correction_does_what_its_preview_told(gateway: Gateway):
    """Merge, unlink, values and take; each is on the feed with who and why, and a replay gives the same."""
    ada, ben = await people(gateway)
    forms: list[dict[str, Any]] = [
        {"name": "Ada B", "metadata": {"plan": "pro"}, "image": None},
        {"email": "ben@x.io", "take": True},
        {"unlinkVisitorId": "v-1"},
        {"mergeContactId": ben["id"]},
    ]
    for form in forms:
        told = await preview(gateway, contactId=ada["id"], **form)
        done = await correct(gateway, contactId=ada["id"], ifVersion=told["version"], **form)
        assert done["preview"]["contacts"][0]["after"] is not None
        now = await gateway.get(f"/v1/contacts/{ada['id']}", after=done["position"])
        expected = told["contacts"][0]["after"]
        assert {**now, "updatedAt": None} == {**expected, "updatedAt": None}, form
        assert (await last_change(gateway))["correction"] == BY
    visitor = await gateway.get("/v1/visitors/v-1")
    assert (visitor["contactId"], visitor["contact"], visitor["links"][-1]["contactId"]) == (None, None, None)
    assert (await gateway.get("/v1/contacts", externalId="u-2"))["id"] == ada["id"]
    await must_be_verified(gateway)


async def test_second_operator_is_told_that_the_contact_has_changed(gateway: Gateway):
    """Of two corrections after one preview, exactly one is appended, however close they come."""
    ada, _ = await people(gateway)
    bodies = [{**BY, "contactId": ada["id"], "name": name, "ifVersion": ada["version"]} for name in ("Eve", "Eva")]
    answers = await asyncio.gather(*(gateway.client.post("/v1/corrections", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["error"] == "conflict"
    assert "has changed since the preview" in refused["detail"]
    assert len(await gateway.entries("events")) == 3


async def test_correction_that_changes_nothing_is_not_appended(gateway: Gateway):
    ada, _ = await people(gateway)
    done = await correct(gateway, contactId=ada["id"], name="Ada")
    assert (done["position"], done["preview"]["outcome"], done["preview"]["contacts"]) == (None, "no-op", [])
    assert len(await gateway.entries("events")) == 2


async def test_correction_that_contradicts_a_later_event_says_so(gateway: Gateway):
    """Order decides: what happened later stays, and the preview names its time."""
    ada, _ = await people(gateway)
    found = await preview(gateway, contactId=ada["id"], name="Eve", at="2026-01-01T00:00:00Z")
    assert (found["outcome"], found["contacts"]) == ("stale", [])
    assert found["notes"][0].startswith("name: an event of 20")
    assert found["notes"][0].endswith("says otherwise and is newer: this correction does not change it.")
    assert (await correct(gateway, contactId=ada["id"], name="Eve", at="2026-01-01T00:00:00Z"))["position"] is None


async def test_late_unlink_says_that_a_newer_link_stays(gateway: Gateway):
    again = {**ADA, "at": "2026-03-01T00:00:00Z"}
    ada, _ = await people(gateway, {**ADA, "at": "2026-01-01T00:00:00Z"}, again)
    found = await preview(gateway, contactId=ada["id"], unlinkVisitorId="v-1", at="2026-02-01T00:00:00Z")
    assert found["outcome"] == "folded"
    assert any(f"and is newer: it stays {ada['id']}'s from then on" in note for note in found["notes"])


NOTES: Final[list[tuple[dict[str, Any], str]]] = [
    ({"email": "BEN@x.io", "take": True}, "The next event that names BEN and BEN@x.io is a conflict."),
    ({"email": "BEN@x.io", "take": True, "externalId": None}, "names BEN and BEN@x.io merges"),
    ({"email": None}, "The next event that names ADA and ADA@x.io sets the e-mail again."),
    ({"externalId": None}, "ADA is free from now on"),
    ({"unlinkVisitorId": "v-ADA"}, "The next event that identifies v-ADA links it again."),
]


async def test_preview_says_what_the_next_event_would_do(gateway: Gateway):
    """And the next event does it."""
    for number, (fields, note) in enumerate(NOTES):
        ada_id, ben_id = f"u-{number}-1", f"u-{number}-2"
        mine, theirs = (
            {**each, "externalId": name, "email": f"{name}@x.io", "visitorId": f"v-{name}"}
            for each, name in ((ADA, ada_id), (BEN, ben_id))
        )
        ada = await gateway.get("/v1/contacts", externalId=ada_id, after=await gateway.put(mine, theirs))
        names = {"ADA": ada_id, "BEN": ben_id}
        named = {each: _filled(value, names) for each, value in fields.items()}
        found = await preview(gateway, contactId=ada["id"], **named)
        assert any(_filled(note, names) in each for each in found["notes"]), (note, found["notes"])
        await correct(gateway, contactId=ada["id"], **named)
        after = await gateway.put({**(theirs if "BEN" in note else mine), "id": f"again-{number}"})
        await gateway.get(f"/v1/contacts/{ada['id']}", after=after)
        changes = [change["type"] for _, change in await gateway.entries("changes") if change["cause"] == after]
        assert changes != [], note
        assert ("ContactsMerged" in changes) == ("merges" in note), note
        assert ("IdentityConflict" in changes) == ("conflict" in note), note


def _filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for placeholder, name in names.items():
            value = value.replace(placeholder, name)
    return value


WRONG: Final[list[tuple[dict[str, Any], int, str]]] = [
    ({"contactId": "ct_x", "name": "Eve"}, 404, "contactId: expected the id of a contact"),
    ({"mergeContactId": "ct_x"}, 404, "mergeContactId: expected the id of a contact"),
    ({"email": "BEN@x.io"}, 409, "email: expected one that no other contact has, or take: true, got"),
    ({"externalId": "u-2"}, 409, "externalId: expected one that no other contact has, or take: true, got"),
    ({"email": "no address"}, 422, "email: expected"),
    ({"externalId": "null"}, 422, "externalId: expected"),
    ({}, 422, "expected exactly one of mergeContactId, unlinkVisitorId"),
    ({"name": "Eve", "by": None}, 422, "by: expected a string of 1 to 255 characters"),
    ({"name": "Eve", "ifVersion": "7"}, 400, "ifVersion: expected an integer or null, got '7'"),
    ({"name": "Eve", "ifVersion": 99}, 409, "expected version 99, got 2"),
    ({"name": "Ada", "ifVersion": 99}, 409, "expected version 99, got 2"),
]


async def test_wrong_correction_is_refused(gateway: Gateway):
    """Nothing is appended, and the sentence says why."""
    ada, _ = await people(gateway)
    for fields, status, detail in WRONG:
        refused = await correct(gateway, status, **{"contactId": ada["id"], **fields})
        assert detail in refused["detail"], fields
    assert len(await gateway.entries("events")) == 2


async def test_body_that_is_not_a_json_object_is_refused(gateway: Gateway):
    expected = "body: expected a correction as a JSON object, got"
    for body, got in (
        (b"", "nothing"),
        (b"[]", "[] (an array)"),
        (b"null", "null"),
        (b"{", "text that is not JSON (Input data was truncated)"),
        (b"\xff", "text that is not JSON (invalid character (byte 0))"),
    ):
        answer = await gateway.client.post("/v1/corrections", content=body)
        assert (answer.status_code, answer.json()["detail"]) == (400, f"{expected} {got}")


async def test_source_in_a_correction_means_nothing(gateway: Gateway):
    """The caller has a secret key, so it is trusted."""
    ada, _ = await people(gateway)
    done = await correct(gateway, contactId=ada["id"], name="Eve", source="browser", type="VisitorSeen")
    assert (await gateway.get(f"/v1/contacts/{ada['id']}", after=done["position"]))["name"] == "Eve"


async def test_undo_takes_a_correction_back_and_can_be_undone(gateway: Gateway):
    """With a preview each time. What happened since stays; every later replay gives the same."""
    ada, ben = await people(gateway)
    merged = await correct(gateway, contactId=ada["id"], mergeContactId=ben["id"])
    after = await gateway.put({"type": "MetadataSet", "externalId": "u-2", "metadata": {"since": True}})
    await gateway.get("/v1/contacts", after=after)
    path = f"/v1/corrections/{merged['position']}/undo"

    told = (await gateway.client.post(path, params={"preview": "true"}, json=BY)).json()
    assert {each["contactId"]: each["after"]["name"] for each in told["contacts"]} == {ada["id"]: "Ada", ben["id"]: "Ben"}
    assert told["excludedBy"] is None
    assert (await gateway.get("/v1/contacts", externalId="u-2"))["id"] == ada["id"]

    done = (await gateway.client.post(path, json=BY)).json()
    assert done["contacts"] == told["contacts"]
    assert (await gateway.get(f"/v1/contacts/{ben['id']}"))["metadata"] == {"since": True}
    assert (await gateway.get(f"/v1/contacts/{ada['id']}"))["email"] == "ada@x.io"
    (_, excluded), *_ = reversed(await gateway.entries("events"))
    assert excluded == {"type": "EventsExcluded", "entries": [merged["position"]], **BY}
    await must_be_verified(gateway)

    again = (await gateway.client.post(path, json=BY)).json()
    assert (again["excludedBy"], again["contacts"]) == (None, [])
    redone = (await gateway.client.post(f"/v1/corrections/{done['excludedBy']}/undo", json=BY)).json()
    assert {each["contactId"]: each["mergedInto"] for each in redone["contacts"]} == {ada["id"]: None, ben["id"]: ada["id"]}
    await must_be_verified(gateway)


async def test_unmerge_leaves_out_every_event_that_merges(gateway: Gateway):
    """Pages name both at every view, so one event more is enough to merge them again."""
    both = {"type": "VisitorIdentified", "externalId": "u-1", "email": "cy@x.io", "visitorId": "v-3"}
    after = await gateway.put({"type": "VisitorIdentified", "email": "cy@x.io", "name": "Cy"}, ADA)
    cy = await gateway.get("/v1/contacts", email="cy@x.io", after=after)
    await gateway.get("/v1/contacts", after=await gateway.put(both, {**both, "visitorId": "v-4"}, {**both, "name": "C"}))
    told = await gateway.client.post(f"/v1/contacts/{cy['id']}/unmerge", params={"preview": "true"}, json=BY)
    assert len(told.json()["entries"]) == 3
    done = await gateway.client.post(f"/v1/contacts/{cy['id']}/unmerge", json=BY)
    assert done.json()["contacts"] == told.json()["contacts"]
    assert (await gateway.get("/v1/contacts", email="cy@x.io"))["name"] == "Cy"
    assert (await gateway.get("/v1/contacts", externalId="u-1"))["email"] == "ada@x.io"
    await must_be_verified(gateway)


async def test_undo_of_what_does_not_exist_is_not_found(gateway: Gateway):
    ada, _ = await people(gateway)
    for path in ("corrections/1-0/undo", "corrections/x/undo", "contacts/ct_x/unmerge", f"contacts/{ada['id']}/unmerge"):
        assert (await gateway.client.post(f"/v1/{path}", json=BY)).status_code == 404, path
    assert len(await gateway.entries("events")) == 2


async def test_one_undo_at_a_time(gateway: Gateway):
    """It folds the whole log, in a process of its own. The second caller is told to come again."""
    ada, _ = await people(gateway)
    done = await correct(gateway, contactId=ada["id"], name="Eve")
    path = f"/v1/corrections/{done['position']}/undo"
    answers = await asyncio.gather(*(gateway.client.post(path, json=BY) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 503]
    assert sum(event["type"] == "EventsExcluded" for _, event in await gateway.entries("events")) == 1


async def test_undo_needs_who_does_it(gateway: Gateway):
    await people(gateway)
    (entry, _), *_ = await gateway.entries("events")
    name, reason = "by: expected a string of 1 to 255 characters without NUL, got", "reason: expected a string of at most 8192"
    for body, detail in (
        ({}, f"{name} nothing"),
        ({"by": None}, f"{name} null"),
        ({"by": ""}, f"{name} ''"),
        ({"by": "a\0b"}, f"{name} 'a\\x00b'"),
        ({"by": "Grace", "reason": "a\0b"}, reason),
    ):
        answer = await gateway.client.post(f"/v1/corrections/{entry}/undo", json=body)
        assert answer.status_code == 400, body
        assert answer.json()["detail"].startswith(detail)


async def test_correction_in_explain_names_who_and_why(gateway: Gateway, redis_url: str):
    ada, ben = await people(gateway)
    await correct(gateway, contactId=ada["id"], unlinkVisitorId="v-1")
    await correct(gateway, contactId=ada["id"], externalId=None, email=None)
    done = await correct(gateway, contactId=ada["id"], mergeContactId=ben["id"])
    await gateway.get("/v1/contacts", after=done["position"])
    answer = await kinfold(redis_url, "default", "explain", ada["id"])
    deeds = [(deed["what"], deed["rule"]) for step in answer.out[-3:] for deed in step["did"]]
    assert {rule for _, rule in deeds} == {"corrected by Grace: a slip"}
    assert {what for what, _ in deeds} >= {
        "unlinked v-1",
        "lost external id u-1",
        "freed ada@x.io",
        "took external id u-2",
        f"merged {ben['id']}",
    }


async def test_directory_shows_who_corrected_and_settles_what_was_dismissed(searched: Gateway):
    """The timeline's rule, the links of visitors, and the conflicts."""
    conflict = {"type": "VisitorIdentified", "externalId": "u-1", "email": "ben@x.io"}
    ada, ben = await people(searched, conflict)
    done = await correct(searched, contactId=ada["id"], unlinkVisitorId="v-1")
    found = await searched.get("/v1/conflicts", after=done["position"])
    assert [(each["contactId"], each["heldBy"]) for each in found["conflicts"]] == [(ada["id"], ben["id"])]
    done = await correct(searched, contactId=ada["id"], dismissConflict="ben@x.io")
    assert (await searched.get("/v1/conflicts", after=done["position"]))["conflicts"] == []
    timeline = (await searched.get(f"/v1/contacts/{ada['id']}/timeline", after=done["position"]))["timeline"]
    told = [(each["type"], each["rule"]) for each in timeline[:2]]
    rule = "corrected by Grace: a slip"
    assert told == [("ConflictDismissed", rule), ("VisitorUnlinked", rule)]
    assert timeline[0]["details"] == {"email": "ben@x.io", "heldBy": ben["id"]}
