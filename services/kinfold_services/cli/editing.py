"""Opens a text in the user's editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_EDITOR: Final = "vi"  # POSIX requires it


class EditorFailed(RuntimeError):
    """The editor cannot be run, or ended with an error (as vi does after `:cq`)."""


def edit(text: str, suffix: str) -> str | None:
    """Open `text` in $EDITOR and return the edited text, or None if it is unchanged.

    Only the user can read the file that is edited. `suffix` tells the editor the type, as in `.json`. Raises EditorFailed.
    """
    command = os.environ.get("EDITOR") or _EDITOR
    with tempfile.TemporaryDirectory(prefix="kinfold-") as directory:
        path = Path(directory) / f"edit{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            status = subprocess.run([*shlex.split(command), path], check=False).returncode  # noqa: S603  the user chose it
        except (OSError, ValueError) as error:
            raise EditorFailed(f"EDITOR: expected the command of an editor, got {command!r} ({error})") from error
        if status:
            raise EditorFailed(f"EDITOR: expected exit status 0 of {command!r}, got {status}")
        edited = path.read_text(encoding="utf-8", errors="surrogateescape")
    return None if edited == text else edited
