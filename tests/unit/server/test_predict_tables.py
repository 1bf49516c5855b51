"""Records go out as they came in, with their answers after their own fields."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertopic_server._tables import Format, Record, Source, UnreadableTexts
from bertopic_server._writers import NO_ANSWER, Answer, UnwritableRecords, lay_out, open_writer

ADDED = Answer._fields
ANSWERS = [Answer(3, "3_sort_list", 0.5), Answer(-1, '-1_"a",b', 0.0), NO_ANSWER, Answer(7, "日本", 1.0)]


def through(path: Path, to: Format, answers: list[Answer] = ANSWERS, **options: Any) -> bytes:
    """What is written for the records of a file, given their answers."""
    source = Source(path, Format.of(path, None), added=ADDED, **options)
    out = io.BytesIO()
    with source.open() as table:
        writer = open_writer(to, table, out, lay_out(source, to))
        for record, answer in zip(table, answers, strict=True):
            writer.write(record, answer)
        writer.finish()
    return out.getvalue()


def records(path: Path, data: bytes, **options: Any) -> list[Record]:
    path.write_bytes(data)
    with Source(path, Format.of(path, None), **options).open() as table:
        return list(table)


JSONL = [
    b'{"text": "a", "n": 1.50, "big": 12345678901234567890}',
    b'{"n":1e5,"text":"b\\u00e9"  }',
    b'{"text": "caf\xe9"}',
    b'"bare"',
]


def test_jsonl_keeps_every_byte_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(JSONL) + b"\n\n")
    lines = through(path, Format.jsonl).splitlines()
    assert lines[0] == JSONL[0][:-1] + b', "topic": 3, "label": "3_sort_list", "probability": 0.5}'
    assert lines[1].startswith(b'{"n":1e5,"text":"b\\u00e9", "topic": -1, ')
    assert lines[2] == b'{"text": "caf\xe9", "topic": null, "label": null, "probability": null}'
    assert json.loads(lines[3]) == {"text": "bare", "topic": 7, "label": "日本", "probability": 1.0}


def test_what_is_no_json_has_an_answer_without_fields(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\nno json\n{}\n' + b"[" * 100_000 + b"\n")
    lines = [json.loads(line) for line in through(path, Format.jsonl).splitlines()]
    assert [line["topic"] for line in lines] == [3, -1, None, 7]
    assert list(lines[1]) == list(ADDED)


def test_csv_keeps_cells(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    rows = [["1.50", 'with "quotes", commas'], ["", "two\r\nlines"], ["x", "caf\udce9"], [" y ", ""]]
    with path.open("w", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        csv.writer(file).writerows([["n", "text"], *rows])
    written = through(path, Format.csv).decode("utf-8", "surrogateescape")
    found = list(csv.reader(io.StringIO(written, newline="")))
    assert found[0] == ["n", "text", *ADDED]
    assert [row[:2] for row in found[1:]] == rows
    assert [row[2:] for row in found[1:]] == [
        ["" if value is None else str(value) for value in answer] for answer in ANSWERS
    ]


def test_text_comes_after_its_answer_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\tb\r\n\ncaf\xe9\nlast")
    assert through(path, Format.txt).split(b"\n") == [
        b"3\t3_sort_list\t0.5\ta\tb",
        b'-1\t-1_"a",b\t0.0\t',
        b"\t\t\tcaf\xe9",
        "7\t日本\t1.0\tlast".encode(),
        b"",
    ]


def parquet(path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "b", None, "d"]).dictionary_encode(),
            "when": pa.array(
                [datetime(2024, 1, i, tzinfo=timezone.utc) for i in range(1, 5)], pa.timestamp("ns", "UTC")
            ),
            "nested": pa.array([{"x": [1, 2]}, None, {"x": []}, {"x": None}]),
            "raw": pa.array([b"\0\xff"] * 4, pa.binary(2)),
        }
    ).replace_schema_metadata({"origin": "here"})
    pq.write_table(table, path, row_group_size=3)


def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    parquet(tmp_path / "in.parquet")
    given = pq.read_table(tmp_path / "in.parquet")
    found = pq.read_table(io.BytesIO(through(tmp_path / "in.parquet", Format.parquet)))
    assert found.select(given.column_names).equals(given)
    assert found.schema.metadata[b"origin"] == b"here"
    added = found.select(list(ADDED))
    assert added.schema.types == [pa.int32(), pa.string(), pa.float32()]
    assert [tuple(row.values()) for row in added.to_pylist()] == [tuple(answer) for answer in ANSWERS]


@pytest.mark.parametrize("rows", [0, 10_000], ids=["no rows", "several batches"])
def test_parquet_of_any_length(tmp_path: Path, rows: int) -> None:
    given = pa.table({"text": pa.array([str(i) for i in range(rows)], pa.string())})
    pq.write_table(given, tmp_path / "in.parquet")
    written = through(tmp_path / "in.parquet", Format.parquet, [ANSWERS[0]] * rows)
    file = pq.ParquetFile(io.BytesIO(written))
    assert file.read(["text"]).equals(given)
    assert file.metadata.num_row_groups == bool(rows)


@pytest.mark.parametrize("ending", ["csv", "txt", "jsonl", "parquet"])
@pytest.mark.parametrize("to", [Format.csv, Format.jsonl, Format.parquet])
def test_from_one_format_into_another(tmp_path: Path, ending: str, to: Format) -> None:
    path = tmp_path / f"in.{ending}"
    texts = ["a", "b, c", "é", "d"]
    if ending == "csv":
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    elif ending == "txt":
        path.write_text("\n".join(texts) + "\n")
    elif ending == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    else:
        pq.write_table(pa.table({"text": texts}), path)
    written = through(path, to)
    if to is Format.parquet:
        found = pq.read_table(io.BytesIO(written)).to_pylist()
    elif to is Format.jsonl:
        found = [json.loads(line) for line in written.splitlines()]
    else:
        found = list(csv.DictReader(io.StringIO(written.decode(), newline="")))
    assert [list(row) for row in found] == [["text", *ADDED]] * 4
    assert [row["text"] for row in found] == texts
    assert [row["topic"] or None for row in found] == [
        str(answer.topic) if to is Format.csv and answer.topic is not None else answer.topic for answer in ANSWERS
    ]


def test_fields_that_differ_by_record_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2.5}, {"text": "c", "deep": {"x": [1]}}, {"text": "\ud800"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = pq.read_table(io.BytesIO(through(path, Format.parquet))).drop_columns(list(ADDED))
    assert found.to_pylist() == [
        {"text": "a", "n": 1.0, "deep": None},
        {"text": "b", "n": 2.5, "deep": None},
        {"text": "c", "n": None, "deep": {"x": [1]}},
        {"text": "\\ud800", "n": None, "deep": None},
    ]
    cells = list(csv.reader(io.StringIO(through(path, Format.csv).decode(), newline="")))
    assert [row[:3] for row in cells[:4]] == [
        ["text", "n", "deep"],
        ["a", "1", ""],
        ["b", "2.5", ""],
        ["c", "", '{"x": [1]}'],
    ]


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "one"}\n')
    source = Source(path, Format.jsonl, added=ADDED)
    with pytest.raises(UnwritableRecords, match=r"rows 1 to 2.*\.jsonl"):
        lay_out(source, Format.parquet)
    with pytest.raises(UnwritableRecords, match="room for texts only"):
        lay_out(source, Format.txt)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt"])
def test_gzip_in(tmp_path: Path, ending: str) -> None:
    data = {"jsonl": b'{"text": "a"}\n', "csv": b"text\na\n", "txt": b"a\n"}[ending]
    [record] = records(tmp_path / f"in.{ending}.gz", gzip.compress(data))
    assert record.asked == "a"


def test_a_csv_record_is_found_by_its_first_line_and_with_wrong_cells_not_asked_about(tmp_path: Path) -> None:
    data = b'id,text\n1,"two\nlines"\n\n2\n3,c,d\n4,e\n'
    found = records(tmp_path / "in.csv", data)
    assert [record.line for record in found] == [2, 5, 6, 7]
    assert [record.asked for record in found] == ["two\nlines", None, None, "e"]
    assert "1 fields" in found[1].problem
    assert "3 fields" in found[2].problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("null", "null"),
        ('"abc"', "str"),
        ("[]", "empty"),
        ("[1, [2]]", "something else"),
        ("[true, false]", "something else"),
        ('["1", "2"]', "something else"),
    ],
)
def test_embeddings_are_lists_of_numbers(tmp_path: Path, value: str, problem: str) -> None:
    data = f'{{"e": [1, 2.5]}}\n{{"e": {value}}}\n'.encode()
    good, bad = records(tmp_path / "in.jsonl", data, column="e", embeddings=True)
    np.testing.assert_array_equal(good.asked, np.array([1, 2.5], np.float32))
    assert bad.asked is None
    assert problem in bad.problem


@pytest.mark.parametrize("of_type", [pa.list_(pa.float64()), pa.large_list(pa.float32())], ids=str)
def test_embeddings_in_parquet(tmp_path: Path, of_type: Any) -> None:
    pq.write_table(pa.table({"e": pa.array([[1, 2], None, [3, 4]], of_type)}), tmp_path / "in.parquet")
    with Source(tmp_path / "in.parquet", Format.parquet, "e", embeddings=True).open(whole=False) as table:
        first, none, last = table
    assert none.asked is None
    np.testing.assert_array_equal([first.asked, last.asked], np.array([[1, 2], [3, 4]], np.float32))


def test_embeddings_of_fixed_size_in_parquet(tmp_path: Path) -> None:
    embeddings = np.arange(10_000, dtype=np.float32).reshape(-1, 2)
    column = pa.FixedSizeListArray.from_arrays(embeddings.ravel(), 2)
    pq.write_table(pa.table({"e": column}), tmp_path / "in.parquet")
    with Source(tmp_path / "in.parquet", Format.parquet, "e", embeddings=True).open() as table:
        np.testing.assert_array_equal([record.asked for record in table], embeddings)


def test_a_field_that_no_record_has(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTexts, match="no field 'body' in its first 2 records; the last of them has 'text'"):
        records(tmp_path / "in.jsonl", b'{"id": 1}\n{"text": "a"}\n', column="body")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_name_that_is_taken_is_not_replaced(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": ["a"], "topic": [1]}), path)
    else:
        path.write_text('{"text": "a", "topic": 1}\n' if ending == "jsonl" else "text,topic\na,1\n")
    with pytest.raises(UnreadableTexts, match=r"'topic' already.*--prefix"):
        through(path, Format.of(path, None), ANSWERS[:1])
