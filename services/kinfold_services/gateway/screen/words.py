"""Times, numbers, values and devices, in plain words. The filters of the templates."""

import json
import time
import zlib
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
import ua_parser

from kinfold_schemas.canonical import Primitive
from kinfold_schemas.contacts import Contact
from kinfold_schemas.filters import Field, WrongFilter, field, field_text
from kinfold_schemas.positions import is_entry_id
from kinfold_schemas.times import to_ms

ONLINE_MS: Final = 5 * 60 * 1000
"""Somebody who was seen within this time is online."""

_HUES: Final = 12
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_MONTH: Final = 30 * _DAY
_YEAR: Final = 365 * _DAY
_SPANS: Final = ((_YEAR, "y"), (_MONTH, "mo"), (_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"))
_JUST_NOW_S: Final = 45
_MAX_AGENT_CHARS: Final = 512
_SHORT_ID: Final = 12


def ms_of(text: str) -> int:
    """The milliseconds since 1970 of a time as the contract writes it."""
    return to_ms(datetime.fromisoformat(text))


def is_online(seen_at: str, now_ms: int | None = None) -> bool:
    """Whether somebody whose devices were last seen then is online. Nobody is without a device: an empty time."""
    return bool(seen_at) and -ONLINE_MS < (_now_ms() if now_ms is None else now_ms) - ms_of(seen_at) < ONLINE_MS


def ago(text: str, now_ms: int | None = None) -> str:
    """How long ago a time was: `just now`, `4 min ago`, `3 d ago`. static/screen.js says the same later on."""
    seconds = ((_now_ms() if now_ms is None else now_ms) - ms_of(text)) / 1000
    if seconds < _JUST_NOW_S:
        return "just now"
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "1 min ago"


def moment(text: str) -> str:
    """A time for people: `5 Nov 2026, 14:03 UTC`."""
    at = datetime.fromisoformat(text).astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def day(text: str) -> str:
    """A date for people: `5 Nov 2026`."""
    at = datetime.fromisoformat(text).astimezone(UTC)
    return f"{at.day} {at:%b %Y}"


def local_time(timezone: object) -> str | None:
    """The time of day in a time zone, with the zone's city. None for a zone that does not exist."""
    if not isinstance(timezone, str):
        return None
    try:
        at = datetime.now(ZoneInfo(timezone))
    except (OSError, ValueError, KeyError):  # an unknown zone is a KeyError
        return None
    offset = at.utcoffset() or timedelta()
    hours = offset.total_seconds() / 3600
    return f"{at:%H:%M} ({timezone.rpartition('/')[2].replace('_', ' ')}, UTC{hours:+g})"


def number(value: float) -> str:
    """A number with commas."""
    return f"{value:,}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 device`, `2 devices`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def value(given: Any) -> str:
    """A value for people: strings as they are, the rest as JSON."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def title(contact: Contact) -> str:
    """What a person is called: the name, else the address, the external id or the id. A name has to be visible."""
    name = contact.name if contact.name and any(each.isprintable() and not each.isspace() for each in contact.name) else None
    return name or contact.email or contact.external_id or contact.id


def short(identifier: str) -> str:
    """The beginning of a long id."""
    return identifier if len(identifier) <= _SHORT_ID + 3 else f"{identifier[:_SHORT_ID]}…"


def field_name(key: str) -> str:
    """A metadata key as filters name it: with `metadata.` only where the plain name would mean something else."""
    named = Field(key, in_metadata=True)
    try:
        return key if field(key) == named else field_text(named)
    except WrongFilter:
        return field_text(named)


def web_link(text: object) -> str | None:
    """A URL that a link may have: http or https, and nothing else, since `javascript:` runs."""
    if not isinstance(text, str):
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    return text if parts.scheme.lower() in {"http", "https"} and parts.netloc else None


class Avatar(NamedTuple):
    """A picture of a person: their image, or initials on one of 12 colours."""

    image: str | None
    initials: str
    hue: int


def avatar(contact: Contact) -> Avatar:
    """The picture of a person. The policy of the pages allows images over https only."""
    image = contact.image if contact.image is not None and contact.image.lower().startswith("https://") else None
    named = title(contact)
    if not contact.name and named == contact.email:
        named = named.partition("@")[0].replace(".", " ").replace("_", " ").replace("-", " ")
    letters = [word[0] for word in named.replace(".", " ").split() if word[0].isalnum()]
    initials = "".join(letters[:1] if len(letters) < 2 else (letters[0], letters[-1] if contact.name else letters[1]))  # noqa: PLR2004
    return Avatar(image, initials.upper() or "?", zlib.crc32(contact.id.encode()) % _HUES)


class Device(NamedTuple):
    """A device as its user agent says it, and a word for its symbol."""

    name: str
    kind: str


@cache
def _user_agents() -> ua_parser.Parser:
    """A parser that remembers nothing: an agent may name a person's device, and the person may be erased."""
    return ua_parser.Parser(ua_parser.BestAvailableResolver(ua_parser.load_lazy_builtins()))


def device(agent: Primitive) -> Device:
    """The device of a user agent."""
    if not isinstance(agent, str) or not agent.strip():
        return Device("Unknown device", "unknown")
    found = _user_agents().parse(agent[:_MAX_AGENT_CHARS])
    browser, system, hardware = found.user_agent, found.os, found.device
    parts: list[str] = []
    if browser is not None:
        parts.append(f"{browser.family} {browser.major}" if browser.major else browser.family)
    if system is not None:
        # Browsers on macOS say version 10 for every version.
        named = "macOS" if system.family == "Mac OS X" else system.family
        parts.append(f"{named} {system.major}" if system.major and named != "macOS" else named)
    kind = "desktop"
    if hardware is not None:
        names = f"{hardware.family} {hardware.brand} {hardware.model}".lower()
        if "spider" in names:
            kind = "robot"
        elif "ipad" in names or "tablet" in names:
            kind = "tablet"
        elif "mac" not in names:
            kind = "phone"
        if kind != "desktop" and hardware.model and hardware.model not in parts:
            parts.append(
                hardware.model if hardware.brand in {None, "Generic", "Apple"} else f"{hardware.brand} {hardware.model}"
            )
    if not parts:
        return Device(agent[:60], "unknown")
    return Device(" on ".join(parts[:2]) + (f", {parts[2]}" if parts[2:] else ""), kind)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _is_online(seen_at: str) -> bool:
    return is_online(seen_at)


def to_json(given: Any) -> str:
    """JSON with indents."""
    return msgspec.json.format(msgspec.json.encode(given), indent=2).decode()


FILTERS: Final[dict[str, Any]] = {
    "ago": ago,
    "day": day,
    "device": device,
    "field_name": field_name,
    "is_entry_id": is_entry_id,
    "is_online": _is_online,
    "local_time": local_time,
    "moment": moment,
    "number": number,
    "plural": plural,
    "short": short,
    "title_of": title,
    "to_json": to_json,
    "value": value,
    "web_link": web_link,
}
