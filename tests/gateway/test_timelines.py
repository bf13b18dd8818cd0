"""Timelines and conflicts over HTTP, answered by a directory."""

from typing import Any

from tests.support.gateways import Gateway


def identified(**fields: Any) -> dict[str, Any]:
    return {"type": "VisitorIdentified", **fields}


async def pages(gateway: Gateway, path: str, field: str, **params: Any) -> list[Any]:
    """All items of a list, two on a page."""
    items: list[Any] = []
    while True:
        page = await gateway.get(path, limit=2, **params)
        items += page[field]
        assert len(page[field]) <= 2
        if page["nextCursor"] is None:
            return items
        params["cursor"] = page["nextCursor"]


async def test_timeline_tells_what_changed_newest_first(searched: Gateway):
    """With the values before and after, the log entry, and the rule."""
    first = await searched.put(identified(externalId="u-1", visitorId="v-1", name="Ada", metadata={"plan": "free"}))
    second = await searched.put(identified(externalId="u-1", metadata={"plan": "pro"}))
    contact = await searched.get("/v1/contacts", externalId="u-1", after=second)

    timeline = await searched.get(f"/v1/contacts/{contact['id']}/timeline", after=second)

    assert (timeline["contactId"], timeline["nextCursor"], timeline["completeSince"]) == (contact["id"], None, None)
    newest, linked, created = timeline["timeline"]
    assert (newest["type"], newest["cause"], newest["position"]) == ("ContactUpdated", second, timeline["position"])
    assert newest["details"]["changed"] == [{"field": "metadata.plan", "before": "free", "after": "pro"}]
    assert "last write wins" in newest["rule"]
    assert (linked["type"], linked["details"]["visitorId"]) == ("VisitorLinked", "v-1")
    assert (created["type"], created["cause"], created["contactId"]) == ("ContactCreated", first, contact["id"])


async def test_timeline_has_the_changes_of_merged_contacts(searched: Gateway):
    """In one order, on every page, and also by the id of a merged contact."""
    await searched.put(identified(email="ada@example.org", metadata={"a": 1}), identified(externalId="u-1", metadata={"b": 1}))
    await searched.put(identified(email="ada@example.org", metadata={"a": 2}), identified(externalId="u-1", metadata={"b": 2}))
    last = await searched.put(identified(externalId="u-1", email="ada@example.org"), identified(externalId="u-1", name="Ada"))
    contact = await searched.get("/v1/contacts", externalId="u-1", after=last)
    path = f"/v1/contacts/{contact['id']}/timeline"

    whole = (await searched.get(path, after=last))["timeline"]
    (merged,) = {entry["contactId"] for entry in whole} - {contact["id"]}

    assert [entry["type"] for entry in whole].count("ContactCreated") == 2
    assert [entry["details"]["mergedContactId"] for entry in whole if entry["type"] == "ContactsMerged"] == [merged]
    orders = [(entry["at"], *map(int, entry["position"].split("-"))) for entry in whole]
    assert orders == sorted(orders, reverse=True)
    assert await pages(searched, path, "timeline") == whole
    by_merged = await searched.get(f"/v1/contacts/{merged}/timeline")
    assert (by_merged["contactId"], by_merged["timeline"]) == (contact["id"], whole)


async def test_timeline_of_an_unknown_contact_is_not_found(searched: Gateway):
    position = await searched.put(identified(externalId="u-1"))

    for contact_id in ("ct_unknown", "' OR 1=1 --", "\0", "\ufffd"):
        answer = await searched.client.get(f"/v1/contacts/{quoted(contact_id)}/timeline", params={"after": position})
        assert (answer.status_code, answer.json()["error"]) == (404, "not-found"), answer.text


def quoted(text: str) -> str:
    """Text as one segment of a path."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


async def test_conflicts_are_listed_until_they_are_settled(searched: Gateway):
    """A conflict is settled when its holder takes another address. `status=all` lists it after that, too."""
    last = await searched.put(
        identified(externalId="u-1", email="one@example.org"),
        identified(externalId="u-2", email="two@example.org"),
        identified(externalId="u-3", email="one@example.org"),
        identified(externalId="u-3", email="two@example.org"),
    )
    holder, claimant = [
        (await searched.get("/v1/contacts", externalId=external_id, after=last))["id"] for external_id in ("u-1", "u-3")
    ]

    second, first = (await searched.get("/v1/conflicts", after=last))["conflicts"]

    assert (second["email"], first["email"]) == ("two@example.org", "one@example.org")
    assert (first["contactId"], first["heldBy"], first["reason"], first["settledAt"]) == (claimant, holder, None, None)
    last = await searched.put(identified(externalId="u-1", email="new@example.org"))
    assert (await searched.get("/v1/conflicts", after=last))["conflicts"] == [second]
    every = (await searched.get("/v1/conflicts", status="all"))["conflicts"]
    assert [conflict["position"] for conflict in every] == [second["position"], first["position"]]
    assert every[1]["settledAt"] is not None
    assert await pages(searched, "/v1/conflicts", "conflicts", status="all") == every
