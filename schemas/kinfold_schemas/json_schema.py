"""JSON Schemas of the wire format, for producers and readers in other languages (`kinfold schema`)."""

from typing import Any

import msgspec

from kinfold_schemas.changes import Change
from kinfold_schemas.contacts import Contact, MergedContact, Visitor
from kinfold_schemas.events import Event


def schemas() -> dict[str, Any]:
    """Return one JSON Schema (2020-12) whose `$defs` include `Event`, `Change`, `Contact`, `MergedContact` and `Visitor`."""
    types = (Event, Change, Contact, MergedContact, Visitor)
    roots, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    event, change, *_ = roots
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"Event": event, "Change": change, **components},
    }
