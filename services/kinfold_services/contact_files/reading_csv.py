"""Reads CSV (RFC 4180, also with `;`, tabs or `|`) row by row, with the line on which each row begins."""

import csv
import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from kinfold_services.contact_files.cells import CSV_KINDS
from kinfold_services.contact_files.tables import WrongFile
from kinfold_services.transfer.files import open_compressed

_DELIMITERS: Final = ",;\t|"
_UTF_8: Final = "utf-8-sig"
_ARCHIVE: Final = b"PK\x03\x04"
_SEPARATOR: Final = "sep="
"""A first line `sep=;` tells Excel the delimiter."""
_FIRST_SURROGATE: Final = 0xDC00
MAX_ROW_CHARS: Final = 4 << 20
"""The most characters that a row may have, line breaks included."""


class CsvTable:
    """A CSV file whose first row has the headings. Skips rows without content.

    Raises WrongFile if it is not CSV, OSError, and `DECOMPRESSION_ERRORS`.
    """

    has_types = False
    kinds = CSV_KINDS
    total = None
    unsupported: Mapping[int, str] = {}

    def __init__(self, path: Path, *, delimiter: str | None, encoding: str | None) -> None:
        self._path: Final = path
        self._encoding: Final = encoding or self._sniffed_encoding()
        self._row_chars = 0
        """How many characters of the present row were read."""
        lines = self._lines()
        first = next(lines, "")
        named = first.strip("\r\n")[len(_SEPARATOR) :] if first.casefold().startswith(_SEPARATOR) else ""
        self._skipped: Final = 1 if len(named) == 1 else 0
        self._delimiter: Final = delimiter or (named if self._skipped else _sniffed_delimiter(first))
        lines.close()
        header = next(self._records(), None)
        if header is None:
            raise WrongFile("expected a row of headings, got no row")
        self.headings: Final[list[str]] = header[1]

    def place(self, number: int) -> str:
        """`:LINE`, the line on which the row begins."""
        return f":{number}"

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """The rows below the headings, each with the number of the line on which it begins."""
        records = self._records()
        next(records)
        yield from records

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines()
        for _ in range(self._skipped):
            next(lines)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)  # else a missing quotation mark swallows the rest
        begins = self._skipped + 1
        try:
            self._row_chars = 0
            for row in reader:
                self._row_chars = 0
                if any(row):
                    yield begins, row
                begins = self._skipped + reader.line_num + 1
        except csv.Error as error:
            raise WrongFile(
                f"line {begins}: expected CSV, got a malformed row ({error}); is a quotation mark missing?"
            ) from error

    def _lines(self) -> Generator[str]:
        """The lines. A byte that is not text became a surrogate, and is found here, where its line is known."""
        number = 0
        try:
            with io.TextIOWrapper(open_compressed(self._path), self._encoding, "surrogateescape", newline="") as file:
                while line := file.readline(MAX_ROW_CHARS + 1):
                    number += 1
                    self._row_chars += len(line)
                    if self._row_chars > MAX_ROW_CHARS:
                        raise WrongFile(f"line {number}: expected a row of at most {MAX_ROW_CHARS} characters, got more")
                    if not line.isascii():
                        line.encode()
                    yield line
        except UnicodeEncodeError as error:
            raise WrongFile(_why_not_text(number, self._encoding, ord(error.object[error.start]) - _FIRST_SURROGATE)) from error
        except UnicodeDecodeError as error:
            raise WrongFile(_why_not_text(number + 1, self._encoding, error.object[error.start])) from error

    def _sniffed_encoding(self) -> str:
        with open_compressed(self._path) as file:
            head = file.read(len(_ARCHIVE))
        if head == _ARCHIVE:
            raise WrongFile("expected CSV, got a workbook or another archive; save it as CSV (UTF-8)")
        return "utf-16" if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else _UTF_8


def _why_not_text(line: int, encoding: str, byte: int) -> str:
    hint = "; --encoding latin-1 or windows-1252 reads the files of older programs" if encoding == _UTF_8 else ""
    name = "UTF-8" if encoding == _UTF_8 else encoding
    return f"line {line}: expected text in {name}, got the byte 0x{byte:02X}{hint}"


def _sniffed_delimiter(header: str) -> str:
    """The delimiter that is most often in the headings, outside of quotation marks."""
    outside = "".join(header.split('"')[::2])
    counts = {each: outside.count(each) for each in _DELIMITERS}
    most = max(counts.values())
    found = [each for each, count in counts.items() if count == most]
    if most == 0:
        return ","
    if len(found) > 1:
        raise WrongFile(f"expected one delimiter, got {' and '.join(map(repr, found))} equally often; --delimiter tells which")
    return found[0]
