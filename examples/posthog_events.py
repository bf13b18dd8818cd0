"""Translates events that PostHog exported as JSON lines to kinfold's events. docs/how-to/migrate.md has the mapping.

Run `python posthog_events.py events.jsonl | kinfold publish -`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

left_out: Counter[str] = Counter()
"""How often each property of `$set` was an object or an array, which metadata cannot hold."""

PAGE = {"$current_url": "url", "$referrer": "referrer", "title": "title"}


def events_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events for one exported row: none, or one with the row's id and time."""
    properties: dict[str, Any] = row["properties"]
    common = {"id": row["uuid"], "at": row["timestamp"]}
    if row["event"] in {"$identify", "$create_alias"}:
        visitor_id = properties.get("$anon_distinct_id") or properties.get("alias")
        yield {**common, "type": "VisitorIdentified", "visitorId": visitor_id, **person_of(row)}
    elif properties.get("$is_identified") is False:
        context = {name: properties[field] for field, name in PAGE.items() if isinstance(properties.get(field), str)}
        yield {**common, "type": "VisitorSeen", "visitorId": row["distinct_id"], "context": context}
    elif properties.get("$set") or properties.get("$unset"):
        yield {**common, "type": "VisitorIdentified", **person_of(row)}


def row_of(line: str) -> dict[str, Any]:
    """An exported row. In some exports, the properties are text in JSON."""
    row: dict[str, Any] = json.loads(line)
    properties = row.get("properties")
    row["properties"] = json.loads(properties) if isinstance(properties, str) else properties or {}
    return row


def person_of(row: dict[str, Any]) -> dict[str, Any]:
    """The identified person. Properties that are objects or arrays, or that PostHog sets itself (`$browser`), are left out."""
    given: dict[str, Any] = row["properties"].get("$set") or {}
    own = {name: value for name, value in given.items() if not name.startswith("$")}
    for name in [name for name, value in own.items() if isinstance(value, (dict, list))]:
        left_out[name] += 1
        del own[name]
    email, name = own.pop("email", None), own.pop("name", None)
    removed: list[str] = row["properties"].get("$unset") or []
    unset = [key for key in removed if not key.startswith("$")]
    return {"externalId": row["distinct_id"], "email": email, "name": name, "metadata": own, "unset": unset}


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        for line in file:
            for event in events_of(row_of(line)):
                print(json.dumps(event))
    if left_out:
        names = ", ".join(f"{name}: {count}" for name, count in left_out.most_common())
        print(f"left out {left_out.total()} values of $set that are objects or arrays ({names})", file=sys.stderr)
