"""A receipt as an HTML page to print. It has no personal data, and needs nothing but itself."""

from html import escape
from typing import Any, Final

import msgspec

from kinfold_services.privacy.records import Receipt, Removed

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.3rem;text-align:left;"
    "vertical-align:top}code{overflow-wrap:anywhere}"
)
_REMOVED: Final = {
    "contacts": "contact ids, each of which answers 410 from now on",
    "visitors": "visitors",
    "externalIds": "external ids",
    "emails": "e-mail addresses",
    "entries": "log entries",
    "redactedEntries": "log entries of other people that named them, and name them no more",
    "feedEntries": "entries of the change feed that lost their body",
    "sharedVisitors": "visitors that other people share, and that stay with those",
    "sharedEmails": "former addresses that other people hold now, and that stay with those",
}


def receipt_page(receipt: Receipt) -> str:
    """The page."""
    checks = [(check.place, check.note or f"{check.found} found") for check in receipt.checks]
    return "".join(
        [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Erasure {escape(receipt.erasure)}</title>",
            f"<style>{_STYLE}</style><h1>Receipt of an erasure</h1><p><code>{escape(receipt.erasure)}</code></p>",
            _table(facts_of(receipt).items()),
            "<h2>What was removed</h2>",
            _table(removed_of(receipt.removed)),
            "<h2>Where we looked again</h2>",
            _table(checks),
            "<h2>Contacts that no longer exist</h2><p><code>",
            escape(", ".join(receipt.contact_ids)),
            "</code></p><h2>What this program cannot reach</h2>",
            _table((each["place"], each["what"]) for each in receipt.elsewhere),
            "</html>\n",
        ]
    )


def facts_of(receipt: Receipt) -> dict[str, Any]:
    """What happened when, by whom and why, with labels. None where it is not known."""
    return {
        "Workspace": receipt.workspace,
        "State": receipt.state,
        "Requested": receipt.requested_at,
        "Erased": receipt.erased_at,
        "Finished": receipt.finished_at,
        "By": receipt.by,
        "Reason": receipt.reason,
        "People": receipt.people if receipt.erased_at is not None else None,
    }


def removed_of(removed: Removed | None) -> list[tuple[str, int]]:
    """What was removed, in words, and how much of it. What is not counted yet is left out."""
    counts: dict[str, int | None] = {} if removed is None else msgspec.to_builtins(removed)
    return [(_REMOVED.get(name, name), count) for name, count in counts.items() if count is not None]


def _table(rows: Any) -> str:
    cells = (f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in rows if value is not None)
    return f"<table>{''.join(cells)}</table>"
