"""Reads Parquet row by row, with pyarrow (the extra `parquet`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.cells import PARQUET_KINDS
from kinfold_services.contact_files.tables import WrongFile

_PAGE_ROWS: Final = 10_000


class ParquetTable:
    """A Parquet file. Its columns have their own types.

    Raises NoPyarrow, OSError, and WrongFile where it is no Parquet.
    """

    has_types = True
    kinds = PARQUET_KINDS

    def __init__(self, path: Path) -> None:
        self._arrow: Final = load_arrow()
        try:
            self._file: Final[Any] = self._arrow.parquet.ParquetFile(path)
        except (self._arrow.lib.ArrowException, UnicodeDecodeError) as error:
            raise WrongFile(f"expected Parquet, got another file or a damaged one ({error})") from error
        schema = self._file.schema_arrow
        self.headings: Final[list[str]] = list(schema.names)
        self.total: Final[int] = self._file.metadata.num_rows
        self.unsupported: Final = {
            index: str(field.type) for index, field in enumerate(schema) if not self._is_supported(field.type)
        }

    def place(self, number: int) -> str:
        """`: row NUMBER`, from 1."""
        return f": row {number}"

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows, numbered from 1. A cell of an unsupported column is None."""
        number = 0
        try:
            for batch in self._file.iter_batches(_PAGE_ROWS):
                columns = [self._cells(index, column) for index, column in enumerate(batch.columns)]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
        except (self._arrow.lib.ArrowException, ValueError) as error:
            raise WrongFile(f"behind row {number}: expected Parquet, got damaged data ({error})") from error

    def _cells(self, index: int, column: Any) -> list[object]:
        if index in self.unsupported:
            return [None] * len(column)
        if self._arrow.types.is_timestamp(column.type):
            # Without a zone it is UTC, and needs no database of zones. Python's times have no nanoseconds.
            column = column.cast(self._arrow.timestamp("ms"), safe=False)
        cells: list[object] = column.to_pylist()
        return cells

    def _is_supported(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        return any(
            is_it(kind)
            for is_it in (
                *(types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating),
                *(types.is_decimal, types.is_timestamp, types.is_date, types.is_null),
            )
        )
