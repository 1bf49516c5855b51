"""`bertopic-inference predict --file` as a person and a script meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertopic_client import TopicClient

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))
Predict = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def predict(server: Any, tmp_path: Path) -> Predict:
    """Run the command in a folder of its own."""

    def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        url = () if "--url" in arguments else ("--url", server.grpc_url)
        command = [COMMAND, "predict", *url, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, timeout=300, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return run


def rows(texts: list[Any]) -> bytes:
    return b"".join(json.dumps({"id": i, "text": text}).encode() + b"\n" for i, text in enumerate(texts))


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode().split())


def test_every_row_has_the_answer_of_its_text(
    predict: Predict, client: TopicClient, trained: Any, tmp_path: Path
) -> None:
    texts = trained.texts[:300]
    (tmp_path / "in.jsonl").write_bytes(rows(texts))
    done = predict("--file", "in.jsonl", "--out", "out.jsonl")
    assert done.returncode == 0
    assert "300 rows -> out.jsonl" in said(done)
    found = read((tmp_path / "out.jsonl").read_bytes())
    assert [row["id"] for row in found] == list(range(300))
    assert [row["text"] for row in found] == texts
    expected = client.predict(texts)
    assert [row["topic"] for row in found] == expected.topics.tolist()
    assert [row["label"] for row in found] == expected.labels
    np.testing.assert_allclose([row["probability"] for row in found], expected.probabilities, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_embeddings_of_a_column(predict: Predict, client: TopicClient, trained: Any, tmp_path: Path) -> None:
    embeddings = np.asarray(trained.embeddings[:300], np.float32)
    pq.write_table(pa.table({"e": list(embeddings)}), tmp_path / "in.parquet")
    assert predict("--file", "in.parquet", "--out", "out.parquet", "--embeddings", "e").returncode == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["topic"].to_pylist() == client.predict(embeddings).topics.tolist()
    np.testing.assert_array_equal(np.stack(found["e"].to_pylist()), embeddings)


def test_rows_without_an_answer_are_reported_and_the_rest_is_answered(
    predict: Predict, trained: Any, tmp_path: Path
) -> None:
    good = trained.texts[0]
    data = rows([good, None, good, 7, "x" * 3_000_000, good]) + b'no json\n\n{"id": 7}\n' + rows([good])
    (tmp_path / "in.jsonl").write_bytes(data)
    done = predict("--file", "in.jsonl", "--out", "out.jsonl")
    assert done.returncode == 3
    assert "9 rows -> out.jsonl, 5 of them without an answer: see out.jsonl.errors.jsonl" in said(done)
    found = read((tmp_path / "out.jsonl").read_bytes())
    assert [row["topic"] is None for row in found] == [False, True, False, True, True, False, True, True, False]
    report = read((tmp_path / "out.jsonl.errors.jsonl").read_bytes())
    assert [(error["row"], error["line"]) for error in report] == [(2, 2), (4, 4), (5, 5), (7, 7), (8, 9)]
    for error, words in zip(
        report, ["null", "type int", "3,000,000 bytes", "not JSON", "no field 'text'"], strict=True
    ):
        assert words in error["reason"]

    (tmp_path / "in.jsonl").write_bytes(rows([good]))
    assert predict("--file", "in.jsonl", "--out", "out.jsonl", "--force").returncode == 0
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_embeddings_that_the_server_refuses(predict: Predict, trained: Any, tmp_path: Path) -> None:
    good = trained.embeddings[0].tolist()
    given = [good, good[:-1], good, [0.0] * len(good), [float("nan")] * len(good), good]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"e": value}) + "\n" for value in given))
    done = predict("--file", "in.jsonl", "--embeddings", "e")
    assert done.returncode == 3
    assert [row["topic"] is None for row in read(done.stdout)] == [False, True, False, True, True, False]
    for words in ("The row is all zeros", "The row holds NaN"):
        assert words in said(done)


@pytest.mark.parametrize("form", ["jsonl", "csv", "txt"])
def test_from_standard_input_to_standard_output(predict: Predict, form: str) -> None:
    given = {"jsonl": rows(["a", "b"]), "csv": b"id,text\n0,a\n1,b\n", "txt": b"a\nb\n"}[form]
    options = [] if form == "jsonl" else ["--format", form]
    done = predict("--file", "-", *options, stdin=given)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    if form == "jsonl":
        assert [list(json.loads(line)) for line in lines] == [["id", "text", "topic", "label", "probability"]] * 2
    elif form == "csv":
        assert [line.split(",")[:2] for line in lines] == [["id", "text"], ["0", "a"], ["1", "b"]]
    else:
        assert [line.split("\t")[-1] for line in lines] == ["a", "b"]


def test_standard_input_into_a_file_that_appears_when_complete(predict: Predict, tmp_path: Path) -> None:
    assert predict("--file", "-", "--out", "out.csv", "--format", "csv", stdin=b"text\na\n").returncode == 0
    assert (tmp_path / "out.csv").read_text().startswith("text,topic,label,probability\na,")
    assert predict("--file", "-", "--out", "new.csv", "--format", "csv", stdin=b"body\na\n").returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_reader_that_leaves_ends_it_quietly(server: Any, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(rows(["a" * 2_000] * 2_000))
    script = f"'{COMMAND}' predict --url={server.grpc_url} --file in.jsonl | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == b"141"
    assert b"Traceback" not in done.stderr


def test_what_is_there_is_replaced_only_when_told_to(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "out.txt").write_text("precious")
    done = predict("--file", "in.txt", "--out", "out.txt")
    assert (done.returncode, (tmp_path / "out.txt").read_text()) == (1, "precious")
    assert "--force" in said(done)
    assert predict("--file", "in.txt", "--out", "out.txt", "--force").returncode == 0
    assert (tmp_path / "out.txt").read_text().endswith("\ta\n")
    assert predict("--file", "in.txt", "--out", "in.txt", "--force").returncode == 1


def test_resuming_what_is_complete_does_nothing(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(rows(["a", None]))
    assert predict("--file", "in.jsonl", "--out", "out.csv", "--resume").returncode == 3
    written = (tmp_path / "out.csv").stat().st_mtime_ns
    done = predict("--file", "in.jsonl", "--out", "out.csv", "--resume")
    assert "complete already" in said(done)
    assert (done.returncode, (tmp_path / "out.csv").stat().st_mtime_ns) == (3, written)

    (tmp_path / "in.jsonl").write_bytes(rows(["a", "b"]))
    done = predict("--file", "in.jsonl", "--out", "out.csv", "--resume")
    assert done.returncode == 1
    assert "--force" in said(done)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--file", "in.jsonl", "--out", "out.jsonl", "--column", "body"], 1, "no field 'body'"),
        (["--file", "none.jsonl", "--out", "out.jsonl"], 1, "none.jsonl does not exist"),
        (["--file", "in.jsonl", "--out", "nowhere/out.jsonl"], 1, "nowhere/out.jsonl.partial: No such file"),
        (["--file", "in.jsonl", "--out", "out.txt"], 1, "room for texts only"),
        (["--file", "in.jsonl", "--out", "/dev/full"], 1, "No space left on device"),
        (["--file", "-", "--format", "parquet"], 1, "Parquet begins at its end"),
        (["--file", "-", "--out", "out.csv"], 1, "read only once"),
        (
            ["--file", "in.jsonl", "--url", "grpc://127.0.0.1:9", "--patience", "1", "--out", "out.jsonl"],
            1,
            "127.0.0.1:9",
        ),
        (["--file", "in.jsonl", "--name", "Other", "--out", "out.jsonl"], 1, "Other"),
        (["--file", "-", "--resume"], 2, "a stream cannot be read"),
        (["--file", "in.jsonl", "--out", "out.jsonl", "--resume", "--force"], 2, "give one of them"),
        (["--file", "in.jsonl", "text"], 2, "either texts or --file"),
        (["text", "--out", "out.jsonl"], 2, "go with --file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes_and_what_is_said(
    predict: Predict, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(rows(["a"] * 3))
    done = predict(*arguments)
    assert done.returncode == code
    # What is wrong with the usage is drawn into a box.
    assert words in said(done).replace("│ ", "").replace(" │", "")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
