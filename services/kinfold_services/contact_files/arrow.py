"""pyarrow, which reads and writes Parquet. It is the extra `parquet`, because it takes 150 MB."""

from importlib import import_module
from typing import Any, cast


class NoPyarrow(RuntimeError):
    """pyarrow is not installed."""


def load_arrow() -> Any:
    """The module `pyarrow`, with `pyarrow.parquet`. Loaded only when it is needed: that takes 0.3 s. Raises NoPyarrow."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise NoPyarrow(f"Parquet needs pyarrow: pip install 'kinfold[parquet]' ({error})") from error
    return cast("Any", import_module("pyarrow"))
