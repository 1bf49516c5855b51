"""Records of JSONL, CSV, Parquet and plain text, read one at a time, and what the model is asked about each."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ._exceptions import ServerError

Asked: TypeAlias = str | npt.NDArray[np.float32]
"""A text, or an embedding [dim]."""

STANDARD_STREAM = Path("-")
ROWS_PER_BATCH = 4096
_READ_BYTES = 2**20
_MISSING = object()
# A file of which this many records lack the field was given with the wrong --column.
_MISSING_AT_FIRST = 1000


class UnreadableTexts(ServerError):
    """A file that no texts can be read from."""


class Format(str, Enum):
    """How records are kept in a file."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    txt = "txt"

    @classmethod
    def of(cls, path: Path, otherwise: Format | None) -> Format:
        """The format that the name's ending says, `.gz` aside.

        Raises
        ------
        UnreadableTexts
            The ending says nothing, and there is no other word on it.
        """
        packed = path.suffix == ".gz"
        ending = (path.with_suffix("") if packed else path).suffix.lower().lstrip(".")
        form = cls(ending) if ending in cls.__members__ else otherwise
        if form is None:
            known = ", ".join(f".{member.value}" for member in cls)
            raise UnreadableTexts(
                f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {known}. Rename it (`predict` takes "
                "--format instead)."
            )
        if packed and form is cls.parquet:
            raise UnreadableTexts(f"{path} is Parquet, which is compressed in itself: leave out .gz.")
        return form


class Record(NamedTuple):
    """One record.

    `line` is where a person finds it in a text file, counted from 1. Either there is something to ask
    the model, or `problem` says why not. `own` is the record as its table holds it.
    """

    line: int | None
    asked: Asked | None
    problem: str
    own: Any


@dataclass(frozen=True)
class Source:
    """A file of records, and where in a record the model's input is.

    `added` are the names that the answers will have beside the record's own fields.
    """

    path: Path
    format: Format
    column: str = "text"
    embeddings: bool = False
    added: tuple[str, ...] = ()

    @property
    def replayable(self) -> bool:
        """Whether it can be read again from the front, unlike a pipe."""
        return self.path.is_file()

    @property
    def name(self) -> str:
        return "Standard input" if self.path == STANDARD_STREAM else str(self.path)

    def open(self, *, whole: bool = True) -> Table:
        """Its records; of Parquet, unless `whole`, only the column that the model is asked about.

        Raises
        ------
        UnreadableTexts
            There is no such file or column, or it is not of that format.
        """
        if self.path != STANDARD_STREAM and not self.path.exists():
            raise UnreadableTexts(f"{self.path} does not exist. Give a .txt, .jsonl, .csv or .parquet file.")
        if self.embeddings and self.format in (Format.csv, Format.txt):
            raise UnreadableTexts(f"{self.name} is {self.format.value}: embeddings are read from .parquet and .jsonl.")
        if self.format is Format.parquet:
            return ParquetTable(self, whole)
        if self.format is Format.csv:
            return CsvTable(self)
        return JsonLinesTable(self) if self.format is Format.jsonl else TextTable(self)

    def ask(self, value: object) -> tuple[Asked | None, str]:
        """What the model is asked, given the value of the column; or why it cannot be."""
        if value is _MISSING:
            return None, f"There is no field {self.column!r}."
        asked = _embedding(value) if self.embeddings else value if isinstance(value, str) else None
        if asked is None:
            expected = "a list of numbers" if self.embeddings else "a string"
            return None, f"Field {self.column!r} is {_kind(value)}, expected {expected}."
        return (None, problem) if isinstance(asked, str) and (problem := _not_utf8(asked)) else (asked, "")

    def refuse_taken(self, names: Any, where: str) -> None:
        for name in self.added:
            if name in names:
                raise UnreadableTexts(
                    f"{where} has a field {name!r} already, which the answers would replace. "
                    f"Name theirs differently: --prefix model_ makes it 'model_{name}'."
                )


class Table(ABC):
    """The records of one opened file, from the front to the end, once; closes with its `with` block."""

    names: list[str] | None = None
    """Of all fields, where records share them."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def __iter__(self) -> Iterator[Record]: ...

    @abstractmethod
    def fields(self, record: Record) -> dict[str, Any]:
        """A record's fields by name."""

    @abstractmethod
    def part_read(self) -> float | None:
        """Which part of the whole was read, 0 to 1; None where the end is not known."""

    @abstractmethod
    def close(self) -> None: ...


class _LinesTable(Table):
    """Text in lines; bytes that are not UTF-8 survive as surrogates, so that they can be written as they were."""

    newline = "\n"

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._raw: BinaryIO = sys.stdin.buffer if source.path == STANDARD_STREAM else source.path.open("rb")
        self._size = source.path.stat().st_size if source.replayable else 0
        unpacked: Any = gzip.GzipFile(fileobj=self._raw) if source.path.suffix == ".gz" else self._raw
        self._lines = TextIOWrapper(unpacked, "utf-8-sig", "surrogateescape", self.newline)

    def __iter__(self) -> Iterator[Record]:
        try:
            yield from self._records()
        except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as error:
            raise UnreadableTexts(f"{self.source.name} is damaged: {error}.") from error

    @abstractmethod
    def _records(self) -> Iterator[Record]: ...

    def part_read(self) -> float | None:
        return self._raw.tell() / self._size if self._size else None

    def close(self) -> None:
        self._lines.close()
        self._raw.close()


class TextTable(_LinesTable):
    """One text a line."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.names = [source.column]

    def _records(self) -> Iterator[Record]:
        for number, line in enumerate(self._lines, start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            yield Record(number, *self.source.ask(text), text)

    def fields(self, record: Record) -> dict[str, Any]:
        return {self.source.column: record.own}


class JsonLinesTable(_LinesTable):
    """One JSON object a line; a record's own are its fields and the object as it stands there."""

    def _records(self) -> Iterator[Record]:
        column, lacking, found = self.source.column, 0, False
        for number, line in enumerate(self._lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Record(number, None, f"The line is not JSON: {error}.", ({}, "{}"))
                continue
            if isinstance(value, dict):
                fields, text = value, line.strip()
            else:
                fields, text = {column: value}, f"{{{json.dumps(column)}: {line.strip()}}}"
            self.source.refuse_taken(fields, f"{self.source.name}, line {number}")
            found = found or column in fields
            lacking += not found
            if lacking >= _MISSING_AT_FIRST:
                break
            yield Record(number, *self.source.ask(fields.get(column, _MISSING)), (fields, text))
        if lacking and not found:
            raise UnreadableTexts(
                f"{self.source.name} has no field {column!r} in its first {lacking:,} records; the last of them "
                f"has {', '.join(map(repr, fields)) or 'none'}. Name another one with --column or --embeddings."
            )

    def fields(self, record: Record) -> dict[str, Any]:
        fields: dict[str, Any] = record.own[0]
        return fields


class CsvTable(_LinesTable):
    """Comma-separated values below a line of names; a record's own are its cells."""

    newline = ""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        csv.field_size_limit(2**31 - 1)
        self._rows = csv.reader(self._lines)
        self.names = next(self._rows, [])
        if source.column not in self.names:
            raise UnreadableTexts(
                f"{source.name} has the columns {', '.join(self.names) or 'none'}; expected {source.column!r}. "
                "Name another one with --column."
            )
        source.refuse_taken(self.names, source.name)

    def _records(self) -> Iterator[Record]:
        assert self.names is not None
        n_cells, place, line = len(self.names), self.names.index(self.source.column), self._rows.line_num
        for row in self._rows:
            first, line = line + 1, self._rows.line_num
            if len(row) == n_cells:
                yield Record(first, *self.source.ask(row[place]), row)
            elif row:
                problem = f"The record has {len(row)} fields, expected the header's {n_cells}."
                yield Record(first, None, problem, [*row, *[""] * n_cells][:n_cells])

    def fields(self, record: Record) -> dict[str, Any]:
        assert self.names is not None
        return dict(zip(self.names, record.own, strict=True))


class ParquetTable(Table):
    """Parquet; a record's own are the Arrow batch that it is in, and its place there."""

    def __init__(self, source: Source, whole: bool) -> None:
        super().__init__(source)
        if not source.replayable:
            raise UnreadableTexts(f"{source.name} is a stream: Parquet begins at its end. Give --file a file.")
        self._arrow = arrow()
        try:
            # Buffered: otherwise a row group's column is read as a whole.
            self._file = self._arrow.parquet.ParquetFile(source.path, buffer_size=_READ_BYTES)
        except self._arrow.ArrowException as error:
            raise UnreadableTexts(f"{source.path} is not Parquet: {error}.") from error
        self.schema = self._file.schema_arrow
        self.names = self.schema.names
        self._columns = None if whole else [source.column]
        self._n_read = 0
        self._listed: tuple[Any, list[dict[str, Any]]] = (None, [])
        self._check_column()
        source.refuse_taken(self.names, source.name)

    def _check_column(self) -> None:
        source, types = self.source, self._arrow.types
        if source.column not in self.schema.names:
            raise UnreadableTexts(
                f"{source.path} has the columns {', '.join(self.schema.names) or 'none'}; expected {source.column!r}. "
                "Name another one with --column or --embeddings."
            )
        given = self.schema.field(source.column).type
        if source.embeddings:
            listed = types.is_list(given) or types.is_large_list(given) or types.is_fixed_size_list(given)
            fits, expected = listed and types.is_floating(given.value_type), "lists of floating-point numbers"
        else:
            plain = given.value_type if types.is_dictionary(given) else given
            fits, expected = types.is_string(plain) or types.is_large_string(plain), "strings"
        if not fits:
            raise UnreadableTexts(f"{source.path} has {given} in its column {source.column!r}, expected {expected}.")

    def __iter__(self) -> Iterator[Record]:
        try:
            for batch in self._file.iter_batches(ROWS_PER_BATCH, columns=self._columns):
                column = batch.column(self.source.column)
                values = _embeddings(column) if self.source.embeddings else column.to_pylist()
                for i, value in enumerate(values):
                    self._n_read += 1
                    yield Record(None, *self.source.ask(value), (batch, i))
        except (self._arrow.ArrowException, OSError) as error:
            raise UnreadableTexts(f"{self.source.path} is damaged: {error}.") from error

    def fields(self, record: Record) -> dict[str, Any]:
        batch, i = record.own
        if self._listed[0] is not batch:
            self._listed = batch, batch.to_pylist()
        fields: dict[str, Any] = self._listed[1][i]
        return fields

    def part_read(self) -> float | None:
        n_rows: int = self._file.metadata.num_rows
        return self._n_read / max(1, n_rows)

    def close(self) -> None:
        self._file.close()


def arrow() -> Any:
    """The module pyarrow, `pyarrow.parquet` loaded.

    Raises
    ------
    UnreadableTexts
        It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnreadableTexts(
            f"Parquet needs the package pyarrow ({error}). Install it with `pip install 'bertopic-inference[parquet]'`."
        ) from error
    return pyarrow


def _embeddings(column: Any) -> Iterator[npt.NDArray[Any] | None]:
    for row in column:
        yield row.values.to_numpy(zero_copy_only=False) if row.is_valid else None


def _embedding(value: object) -> npt.NDArray[np.float32] | None:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        return None
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        return None
    # What float32 cannot hold becomes Inf, which the server refuses by row.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list of something else" if value else "an empty list"
    return "null" if value is None else f"of type {type(value).__name__}"


def _not_utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"The text is not UTF-8: byte {code - 0xDC00:#x} at position {error.start}."
        return f"The text has {text[error.start]!r}, half of a surrogate pair, at position {error.start}."
    return ""
