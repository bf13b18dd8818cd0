"""The program `kinfold`. Every installation has it, but it needs the dependencies of `kinfold[service]`."""

import sys
from typing import Final

_WRONG_USAGE: Final = 2  # as in `cli.output`, which cannot be imported without them


def main() -> None:
    """Runs the command line, or names what to install."""
    try:
        from kinfold_services import cli  # noqa: PLC0415  fails in a base install
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
