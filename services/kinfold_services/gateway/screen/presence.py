"""When a device of a person was last seen, which is what the online dot shows.

A contact's `lastSeenAt` is the time of its last event, and a backend or an import sends events without a device. So the devices
of people who may be online are looked up.
"""

from collections.abc import Iterable
from typing import Final

from kinfold_schemas.contacts import Contact
from kinfold_services.gateway.screen.words import is_online
from kinfold_services.gateway.workspaces import GatewayWorkspace

MAX_DEVICES: Final = 20
"""How many devices of each person are looked at, those linked most recently."""


async def devices_seen(workspace: GatewayWorkspace, contacts: Iterable[Contact]) -> dict[str, str]:
    """When a device of each contact was last seen, by the contact's id; empty for a contact without devices.

    It takes one round trip, and none if nobody may be online. Others keep `lastSeenAt`, which is too old to matter.
    """
    seen: dict[str, str] = {}
    wanted: list[str] = []
    candidates: list[Contact] = []
    for contact in contacts:
        seen[contact.id] = contact.last_seen_at if contact.visitor_ids else ""
        if is_online(seen[contact.id]):
            candidates.append(contact)
            wanted += contact.visitor_ids[:MAX_DEVICES]
    times = {visitor.id: visitor.last_seen_at for visitor in await workspace.queries.visitors(wanted)}
    for contact in candidates:
        seen[contact.id] = max((times.get(each, "") for each in contact.visitor_ids[:MAX_DEVICES]), default="")
    return seen
