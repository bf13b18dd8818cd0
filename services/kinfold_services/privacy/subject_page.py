"""The page to read of a subject's file: plain HTML without a script, written piece by piece."""

import html
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from kinfold_schemas.positions import position_key
from kinfold_schemas.times import LAST_MS, to_text

PAGE_END: Final = b"</body></html>\n"
_LISTED: Final = {
    "emails": "All addresses",
    "externalIds": "All ids",
    "mergedContactIds": "Contacts merged into this one",
}
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_STYLE: Final = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
th{text-align:left;padding-right:1rem;vertical-align:top}h2{margin-top:2rem;border-top:1px solid #999}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:.5rem;margin:.2rem 0 1rem}time{font-weight:600}"""


def page_head(facts: Mapping[str, Any]) -> bytes:
    """The beginning of the page, with what there is one of (`Subject.facts`)."""
    contact = cast("dict[str, Any]", facts["contact"] or {})
    title = contact.get("name") or contact.get("email") or contact.get("externalId") or "One person"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>What is held about {html.escape(str(title))}</title><style>{_STYLE}</style></head><body>",
        f"<h1>What is held about {html.escape(str(title))}</h1>",
        f"<p>Workspace {html.escape(facts['workspace'])}, as of {html.escape(facts['madeAt'])}.",
        "The file <code>subject.json</code> has the same for machines.</p>",
    ]
    if (begins := facts["logBeginsAfter"]) is not None:
        lines.append(
            f"<p>Events up to {html.escape(time_of(begins['position']))} were removed, because their retention has ended. "
            "What they said about this person is in the contact and the visitors.</p>"
        )
    lines.append("<h2>The contact</h2>")
    lines.append(_table(contact) if contact else "<p>Nobody has identified this visitor.</p>")
    for name, label in _LISTED.items():
        if facts[name]:
            lines.append(f"<h2>{label}</h2><p>{html.escape(', '.join(facts[name]))}</p>")
    return ("\n".join(lines) + "\n").encode()


def _table(fields: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_text(value))}</td></tr>" for name, value in fields.items()
    )
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def page_row(item: Mapping[str, Any]) -> bytes:
    """One item of a list: its time, and all of it."""
    at = item.get("at") or item.get("firstSeenAt") or cast("dict[str, Any]", item.get("change", {})).get("at", "")
    pretty = msgspec.json.format(_encode(item), indent=2).decode()
    return f"<time>{html.escape(str(at))}</time><pre>{html.escape(pretty)}</pre>\n".encode()


def page_section(title: str) -> bytes:
    """The heading of a list."""
    return f"<h2>{html.escape(title)}</h2>\n".encode()


def time_of(entry_id: str) -> str:
    """The time in the id of an entry."""
    return to_text(min(position_key(entry_id)[0], LAST_MS))
