"""The scripts for pages: made from `clients/browser` by `make web`, and kept here so that no clone needs Node."""

import base64
import hashlib
from importlib.resources import files
from typing import Final

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A script for pages."""

    path: str
    content: bytes
    version: str
    """`?v=` of its URL."""
    integrity: str
    """The `integrity` attribute of its element (W3C Subresource Integrity)."""


def _read(name: str) -> Script:
    content = files(__name__).joinpath(name).read_bytes()
    integrity = "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()
    return Script(f"/{name}", content, hashlib.sha256(content).hexdigest()[:12], integrity)


KINFOLD: Final = _read("kinfold.js")
LIVE: Final = _read("kinfold-live.js")
"""The same with the visitor's live contact, which the other one leaves out to be small."""

SCRIPTS: Final = {each.path: each for each in (KINFOLD, LIVE)}


def script_element(origin: str, key: str) -> str:
    """The HTML element that loads exactly this version of the script from the gateway at `origin`."""
    return (
        f'<script async src="{origin}{KINFOLD.path}?v={KINFOLD.version}" data-key="{key}" data-pages\n'
        f'  integrity="{KINFOLD.integrity}" crossorigin="anonymous"></script>'
    )
