"""Reads Parquet row by row, with pyarrow (the extra `parquet`).

A Parquet file is always compressed, so it has the bounds of a compressed file (`transfer/files.py`): before it is read, by the
sizes that it states, and while it is read, by what its rows hold. pyarrow decompresses a page as a whole, and believes its
header: a file that lies about its sizes can still take 2 GiB for a page.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.cells import PARQUET_KINDS
from kinfold_services.contact_files.reading_csv import MAX_ROW_CHARS
from kinfold_services.contact_files.tables import WrongFile
from kinfold_services.transfer.files import decompressed_at_most, larger_than

MAX_GROUP_BYTES: Final = 1 << 30
"""The most that a row group may state as its size. pyarrow writes groups of 1,000,000 rows, others of 128 MB."""
_PAGE_ROWS: Final = 10_000
_PAGE_BYTES: Final = 16 << 20
"""About how many bytes of rows are decompressed at once."""


class ParquetTable:
    """A Parquet file. Its columns have their own types.

    Raises NoPyarrow, OSError, WrongFile if it is not Parquet, and DecompressedTooLarge.
    """

    has_types = True
    kinds = PARQUET_KINDS

    def __init__(self, path: Path) -> None:
        self._arrow: Final = load_arrow()
        self._most: Final = decompressed_at_most(path)
        try:
            schema = self._arrow.parquet.read_schema(path)
            # Each value of a column is kept once, as it is in the file, and not once for each row.
            texts = [field.name for field in schema if self._is_text(field.type)]
            self._file: Final[Any] = self._arrow.parquet.ParquetFile(path, read_dictionary=texts)
        except (self._arrow.lib.ArrowException, UnicodeDecodeError) as error:
            raise WrongFile(f"expected Parquet, got another file or a damaged one ({error})") from error
        self._check_groups()
        self.headings: Final[list[str]] = list(schema.names)
        self.total: Final[int] = self._file.metadata.num_rows
        self.unsupported: Final = {
            index: str(field.type) for index, field in enumerate(schema) if not self._is_supported(field.type)
        }

    def place(self, number: int) -> str:
        """`: row NUMBER`, from 1."""
        return f": row {number}"

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows, numbered from 1. A cell of an unsupported column is None.

        Raises WrongFile, OSError and DecompressedTooLarge.
        """
        room = self._most
        for number, row in self._decompressed():
            chars = sum([len(cell) if type(cell) is str else 1 for cell in row])
            if chars > MAX_ROW_CHARS:
                raise WrongFile(f"row {number}: expected a row of at most {MAX_ROW_CHARS} characters, got more")
            room -= chars
            if room < 0:
                raise larger_than(self._most)
            yield number, row

    def _decompressed(self) -> Iterator[tuple[int, Sequence[Any]]]:
        number = 0
        try:
            for batch in self._batches():
                columns = [self._cells(index, column) for index, column in enumerate(batch.columns)]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
        except (self._arrow.lib.ArrowException, ValueError) as error:
            raise WrongFile(f"after row {number}: expected Parquet, got damaged data ({error})") from error

    def _check_groups(self) -> None:
        about = self._file.metadata
        sizes = [about.row_group(number).total_byte_size for number in range(about.num_row_groups)]
        if sum(sizes) > self._most:
            raise larger_than(self._most)
        if sizes and max(sizes) > MAX_GROUP_BYTES:
            raise WrongFile(f"expected row groups of at most {MAX_GROUP_BYTES} bytes, got one of {max(sizes)}")

    def _batches(self) -> Iterator[Any]:
        about = self._file.metadata
        for number in range(about.num_row_groups):
            group = about.row_group(number)
            row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
            yield from self._file.iter_batches(max(1, min(_PAGE_ROWS, _PAGE_BYTES // row_bytes)), row_groups=[number])

    def _cells(self, index: int, column: Any) -> list[object]:
        if index in self.unsupported:
            return [None] * len(column)
        if self._arrow.types.is_timestamp(column.type):
            # Without a zone it is UTC, and needs no database of zones. Python's times have no nanoseconds.
            column = column.cast(self._arrow.timestamp("ms"), safe=False)
        if self._arrow.types.is_dictionary(column.type):
            used = column.indices.unique()  # the dictionary may have the values of all batches
            values = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
            return [values[index] for index in column.indices.to_pylist()]
        cells: list[object] = column.to_pylist()
        return cells

    def _is_text(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_string(kind) or types.is_large_string(kind))

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
