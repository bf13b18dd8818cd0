"""`kinfold` as a next version would be whose directory has other tables: `python -m tests.support.next_shape directory …`."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAME = "kinfold_services.directory.tables"
SHAPE = "SHAPE: Final = 2\n"
NEXT = 3


def main() -> None:
    """Run `kinfold` with the next shape of the tables."""
    spec = find_spec(NAME)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    assert source.count(SHAPE) == 1
    module = sys.modules[NAME] = ModuleType(NAME)
    module.__spec__, module.__file__ = spec, spec.origin
    exec(compile(source.replace(SHAPE, f"SHAPE: Final = {NEXT}\n"), spec.origin, "exec"), module.__dict__)  # noqa: S102  our own module
    from kinfold_services.cli import main as kinfold  # noqa: PLC0415  after the tables

    kinfold()


if __name__ == "__main__":
    main()
