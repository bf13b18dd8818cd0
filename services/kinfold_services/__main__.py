"""The program `kinfold`. Every installation has it, but it needs the dependencies of `kinfold[service]`."""

import sys
from typing import Final

from kinfold_services.runtime.garbage import importing

_WRONG_USAGE: Final = 2  # these two as in `cli.output`, which cannot be imported without them
_INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line, or name what to install."""
    try:
        with importing():
            from kinfold_services import cli  # noqa: PLC0415  fails in a base install
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kinfold"):
            raise
        sys.stderr.write(
            f"kinfold: {error.name} is not installed; install the extra `service`: in a clone, pip install '.[service]'\n"
        )
        sys.exit(_WRONG_USAGE)
    except KeyboardInterrupt:  # importing takes a while on a busy machine
        sys.exit(_INTERRUPTED)
    cli.main()


if __name__ == "__main__":
    main()
