"""Records with their answers, as JSONL, CSV, Parquet or plain text."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from ._exceptions import ServerError
from ._tables import (
    ROWS_PER_BATCH,
    CsvTable,
    Format,
    JsonLinesTable,
    ParquetTable,
    Record,
    Source,
    Table,
    TextTable,
    arrow,
)

# Readers of Parquet like large row groups; memory does not.
_GROUP_ROWS = 2**17
_GROUP_BYTES = 2**26


class UnwritableRecords(ServerError):
    """Records that the format asked for cannot hold."""


class Answer(NamedTuple):
    """What is added to a record; all None if it has no answer."""

    topic: int | None
    label: str | None
    probability: float | None


NO_ANSWER = Answer(None, None, None)


class Writer(ABC):
    """Writes the records of a table, their fields as they were and their answers after these."""

    def __init__(self, table: Table, out: BinaryIO, layout: Any) -> None:
        self._table = table
        self._out = out
        self._added = table.source.added

    @abstractmethod
    def write(self, record: Record, answer: Answer) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is left; the file remains open."""


def open_writer(form: Format, table: Table, out: BinaryIO, layout: Any) -> Writer:
    """A writer onto an open file; `layout` is what `lay_out` said."""
    writers: dict[Format, type[Writer]] = {
        Format.jsonl: _JsonLinesWriter,
        Format.csv: _CsvWriter,
        Format.parquet: _ParquetWriter,
        Format.txt: _TextWriter,
    }
    return writers[form](table, out, layout)


def lay_out(source: Source, form: Format) -> Any:
    """What must be known of all records before the first is written: names for CSV, a schema for Parquet.

    None where the table itself says it. Reads the whole source only if the fields differ by record.

    Raises
    ------
    UnwritableRecords
        The format cannot hold these records.
    """
    if form is source.format or form is Format.jsonl:
        return None
    if form is Format.txt:
        raise UnwritableRecords(
            f"{source.name} has records with fields, and a .txt has room for texts only. Write .jsonl or .csv."
        )
    if source.format is not Format.jsonl:
        return None
    if not source.replayable:
        raise UnwritableRecords(
            f"{source.name} can be read only once, but {form.value} takes all fields of all records in advance. "
            "Write jsonl, or give --file a file."
        )
    with source.open() as table:
        return _all_names(table) if form is Format.csv else _common_schema(table)


def _all_names(table: Table) -> list[str]:
    names: dict[str, None] = {}
    for record in table:
        names.update(dict.fromkeys(table.fields(record)))
    return list(names)


def _common_schema(table: Table) -> Any:
    pa = arrow()
    schema, records, first = pa.schema([]), iter(table), 1
    while rows := [table.fields(record) for record in islice(records, ROWS_PER_BATCH)]:
        try:
            names = dict.fromkeys(name for row in rows for name in row)
            seen = pa.schema([(name, _column(pa, rows, name, None).type) for name in names])
            schema = pa.unify_schemas([schema, seen], promote_options="permissive")
        except (pa.ArrowException, OverflowError) as error:
            raise UnwritableRecords(
                f"{table.source.name} has fields of several types within rows {first} to {first + len(rows) - 1} "
                f"or before, and a column of Parquet has one: {error}. Write .jsonl."
            ) from error
        first += len(rows)
    return schema


class _LinesWriter(Writer):
    """Text in lines."""

    own_table: type[Table]

    def __init__(self, table: Table, out: BinaryIO, layout: Any) -> None:
        super().__init__(table, out, layout)
        # A field goes back into its own format byte for byte, UTF-8 or not.
        errors = "surrogateescape" if isinstance(table, self.own_table) else "backslashreplace"
        self._text = TextIOWrapper(out, "utf-8", errors, newline="")

    def finish(self) -> None:
        self._text.detach()


class _JsonLinesWriter(_LinesWriter):
    own_table = JsonLinesTable

    def write(self, record: Record, answer: Answer) -> None:
        added = dict(zip(self._added, answer, strict=True))
        if isinstance(self._table, JsonLinesTable):
            fields, text = record.own
            # The object stays as it was written, its numbers and spaces with it.
            start = text[:-1].rstrip() + (", " if fields else "")
            self._text.write(start + json.dumps(added, ensure_ascii=False)[1:] + "\n")
            return
        row = self._table.fields(record) | added
        self._text.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


class _CsvWriter(_LinesWriter):
    own_table = CsvTable

    def __init__(self, table: Table, out: BinaryIO, layout: Any) -> None:
        super().__init__(table, out, layout)
        self._names: list[str] = table.names or layout
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow([*self._names, *self._added])

    def write(self, record: Record, answer: Answer) -> None:
        if isinstance(self._table, CsvTable):
            cells = record.own
        else:
            fields = self._table.fields(record)
            cells = [_cell(fields.get(name)) for name in self._names]
        self._csv.writerow([*cells, *answer])


class _TextWriter(_LinesWriter):
    """The answers, then the text, which may itself hold tabs."""

    own_table = TextTable

    def write(self, record: Record, answer: Answer) -> None:
        cells = ("" if value is None else str(value).replace("\t", " ") for value in answer)
        self._text.write("\t".join([*cells, record.own]) + "\n")


class _ParquetWriter(Writer):
    def __init__(self, table: Table, out: BinaryIO, layout: Any) -> None:
        super().__init__(table, out, layout)
        pa = self._arrow = arrow()
        if isinstance(table, ParquetTable):
            layout = table.schema
        elif layout is None:
            layout = pa.schema([(name, pa.string()) for name in table.names or []])
        if doubled := {name for name in layout.names if layout.names.count(name) > 1}:
            raise UnwritableRecords(f"{table.source.name} has several columns {min(doubled)!r}: Parquet takes one.")
        self._types = [pa.int32(), pa.string(), pa.float32()]
        self._own = layout
        self._schema = layout
        for name, of_type in zip(self._added, self._types, strict=True):
            self._schema = self._schema.append(pa.field(name, of_type))
        with self._in_a_sentence():
            self._file = pa.parquet.ParquetWriter(out, self._schema)
        self._records: list[Record] = []
        self._answers: list[Answer] = []
        self._group: list[Any] = []

    def write(self, record: Record, answer: Answer) -> None:
        if self._records and not self._together(record):
            self._end_batch()
        self._records.append(record)
        self._answers.append(answer)

    def finish(self) -> None:
        if self._records:
            self._end_batch()
        if self._group:
            self._end_group()
        self._file.close()

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except self._arrow.ArrowException as error:
            raise UnwritableRecords(
                f"{self._table.source.name} does not fit into Parquet: {error}. Write .jsonl."
            ) from error

    def _together(self, record: Record) -> bool:
        if isinstance(self._table, ParquetTable):
            return record.own[0] is self._records[0].own[0]
        return len(self._records) < ROWS_PER_BATCH

    def _end_batch(self) -> None:
        pa = self._arrow
        if isinstance(self._table, ParquetTable):
            own = self._records[0].own[0].columns
        else:
            rows = [self._table.fields(record) for record in self._records]
            with self._in_a_sentence():
                own = [_column(pa, rows, field.name, field.type) for field in self._own]
        columns = zip(*self._answers, strict=True)
        added = [pa.array(values, of_type) for values, of_type in zip(columns, self._types, strict=True)]
        self._group.append(pa.RecordBatch.from_arrays([*own, *added], schema=self._schema))
        self._records, self._answers = [], []
        n_bytes = sum(batch.nbytes for batch in self._group)
        if n_bytes >= _GROUP_BYTES or sum(map(len, self._group)) >= _GROUP_ROWS:
            self._end_group()

    def _end_group(self) -> None:
        table = self._arrow.Table.from_batches(self._group, self._schema)
        with self._in_a_sentence():
            self._file.write_table(table, row_group_size=len(table))
        self._group = []


def _column(pa: Any, rows: list[dict[str, Any]], name: str, of_type: Any) -> Any:
    values = [row.get(name) for row in rows]
    try:
        return pa.array(values, of_type)
    except UnicodeEncodeError:
        return pa.array(_utf8(values), of_type)


def _utf8(value: Any) -> Any:
    """The same, with what UTF-8 cannot express spelled out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_utf8(item) for item in value]
    return {name: _utf8(item) for name, item in value.items()} if isinstance(value, dict) else value


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list, bool, int, float)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return "" if value is None else _plain(value)


def _plain(value: Any) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)
