"""The script for pages, `kinfold.js`: made from `clients/browser` by `make web`, and kept here so that no clone needs Node."""

import base64
import hashlib
from importlib.resources import files
from typing import Final

PATH: Final = "/kinfold.js"
SCRIPT: Final = files(__name__).joinpath("kinfold.js").read_bytes()
VERSION: Final = hashlib.sha256(SCRIPT).hexdigest()[:12]
"""The version of the script: `?v=` of its URL."""
INTEGRITY: Final = "sha384-" + base64.b64encode(hashlib.sha384(SCRIPT).digest()).decode()
"""The script's `integrity` attribute (W3C Subresource Integrity)."""


def script_element(origin: str, key: str) -> str:
    """The HTML element that loads exactly this version of the script from the gateway at `origin`."""
    return (
        f'<script async src="{origin}{PATH}?v={VERSION}" data-key="{key}" data-pages\n'
        f'  integrity="{INTEGRITY}" crossorigin="anonymous"></script>'
    )
