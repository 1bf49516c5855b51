"""All texts of a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from bertopic_server._tables import UnreadableTexts
from bertopic_server._texts import read_texts

TEXTS = ["plain", 'with "quotes", commas', "", "日本語"]


def written(path: Path) -> Path:
    if path.suffix == ".txt":
        path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "body"], *enumerate(TEXTS)])
    return path


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_reads_every_text(tmp_path: Path, ending: str) -> None:
    assert read_texts(written(tmp_path / f"texts{ending}"), column="body") == TEXTS


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("texts.log", b"", "'.log'"),
        ("texts.parquet", b"", "not Parquet"),
        ("texts.parquet.gz", b"", "leave out .gz"),
        ("texts.jsonl", b'{"body": "a"}\n{"body": 3}\n', "line 2"),
        ("texts.jsonl", b'{"body": "a"}\nnot json\n', "line 2"),
        ("texts.jsonl", b'{"id": 1}\n{"id": 2, "text": "a"}\n', "line 1.*no field 'body'"),
        ("texts.jsonl.gz", b"no gzip", "damaged"),
        ("texts.csv", b"id,text\n1,a\n", "columns id, text"),
        ("texts.txt", b"caf\xe9\n", "line 1.*UTF-8.*0xe9"),
    ],
    ids=[
        "unknown ending",
        "no Parquet",
        "packed Parquet",
        "no text",
        "not JSON",
        "no such field",
        "no gzip",
        "no such column",
        "Latin-1",
    ],
)
def test_names_what_is_wrong(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UnreadableTexts, match=message) as raised:
        read_texts(path, column="body")
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTexts, match="does not exist"):
        read_texts(tmp_path / "nothing.txt")
