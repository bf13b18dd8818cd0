"""A workspace with a person to erase, who shares a browser and an address with another one."""

import json
from typing import Any, Final

from redis.asyncio import Redis

from kinfold_schemas.keys import key
from kinfold_services.state.queries import Identifier

ADA: Final = Identifier(external_id="ada-1815")
ADAS_TEXTS: Final = (
    *("ada-1815", "ada@example.org", "ADA@example.org", "adas-laptop"),
    *("Ada Lovelace", "first programmer", "10.0.0.7"),
)
"""Her identifiers, and values that only her events contain."""


def adas_events() -> list[dict[str, Any]]:
    """Her events, and those of Ben, who uses the kiosk as well and once gave her address."""
    return [
        {"type": "VisitorSeen", "visitorId": "adas-laptop", "context": {"ip": "10.0.0.7"}},
        {
            "type": "VisitorIdentified",
            "externalId": "ada-1815",
            "email": "ada@example.org",
            "visitorId": "adas-laptop",
            "name": "Ada Lovelace",
            "metadata": {"title": "first programmer"},
        },
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "kiosk", "name": "Ben", "metadata": {"plan": "pro"}},
        {"type": "VisitorIdentified", "externalId": "ada-1815", "visitorId": "kiosk"},
        {"type": "VisitorSeen", "visitorId": "kiosk", "context": {"url": "/ada@example.org"}},
        {"type": "VisitorIdentified", "externalId": "ben", "visitorId": "kiosk", "email": "ADA@example.org"},
        {"type": "MetadataSet", "email": "ada@example.org", "metadata": {"bad": {}}},
        {"type": "VisitorSeen", "visitorId": "kiosk", "context": {"url": "/ben"}},
    ]


async def publish(client: Redis, workspace: str, *events: dict[str, Any]) -> None:
    """Append events."""
    for event in events:
        await client.xadd(key(workspace, "events"), {"event": json.dumps(event)})
