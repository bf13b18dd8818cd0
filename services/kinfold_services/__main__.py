"""The program `kinfold`, which every installation has, and which needs what `kinfold[service]` brings."""

import sys
from typing import Final

_WRONG_USAGE: Final = 2  # as in `cli.output`, which may be what cannot be imported


def main() -> None:
    """Runs the command line, or says in a sentence what to install."""
    try:
        from kinfold_services import cli  # noqa: PLC0415  the base install has not what it imports
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kinfold"):
            raise
        sys.stderr.write(
            f"kinfold: {error.name} is not installed; install the extra `service`: in a clone, pip install '.[service]'\n"
        )
        sys.exit(_WRONG_USAGE)
    cli.main()


if __name__ == "__main__":
    main()
