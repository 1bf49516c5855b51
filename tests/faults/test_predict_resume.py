"""`predict --file`, killed at random and resumed, writes what an uninterrupted run writes.

BERTOPIC_SOAK=1 kills 20 times for each format, over more rows.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertopic_server import Address, TritonServer

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))
SOAK = bool(os.environ.get("BERTOPIC_SOAK"))
ROWS, KILLS = (20_000, 20) if SOAK else (2_000, 2)
INPUTS = ["in.jsonl", "in.csv", "in.txt", "in.parquet", "embeddings.parquet"]


class Runs:
    """Runs of one command line: input to output, against one server."""

    def __init__(self, folder: Path, url: str, file: str, *options: str) -> None:
        self.folder = folder
        self.out = folder / f"out{Path(file).suffix}"
        self.partial = Path(f"{self.out}.partial")
        # One request at a time: slow enough to be killed in the middle.
        self._command = [COMMAND, "predict", f"--url={url}", f"--file={folder / file}", f"--out={self.out}"]
        self._command += ["--in-flight=1", *(["--embeddings=e"] if file.startswith("embeddings") else []), *options]

    def start(self, *options: str, max_file_size: int | None = None) -> subprocess.Popen[str]:
        def limit() -> None:
            if max_file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))

        return subprocess.Popen([*self._command, *options], stderr=subprocess.PIPE, text=True, preexec_fn=limit)

    def finish(self, *options: str, max_file_size: int | None = None) -> tuple[int, str]:
        """Exit code, and what was said."""
        with self.start(*options, max_file_size=max_file_size) as process:
            said = process.communicate(timeout=600)[1]
        assert "Traceback" not in said, said
        return process.returncode, " ".join(said.split())

    def written(self) -> dict[str, bytes]:
        """What is there, by name, and gone after this."""
        found = {path.name: path.read_bytes() for path in self.folder.glob("out.*")}
        for name in found:
            (self.folder / name).unlink()
        return found

    def n_kept(self) -> int:
        return max(0, self.partial.read_bytes().count(b"\n") - 1) if self.partial.exists() else 0


@pytest.fixture(scope="module")
def inputs(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same records in each format, every hundredth of them without a text."""
    folder = tmp_path_factory.mktemp("inputs")
    texts = [trained.texts[i % len(trained.texts)].replace("\n", " ") for i in range(ROWS)]
    given = [None if i % 100 == 50 else text for i, text in enumerate(texts)]
    records = [{"id": i, "text": text, "note": f"{i} " * 100} for i, text in enumerate(given)]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cells = io.StringIO(newline="")
    csv.writer(cells).writerows([["id", "text"], *([i] if text is None else [i, text] for i, text in enumerate(given))])
    (folder / "in.csv").write_text(cells.getvalue())
    (folder / "in.txt").write_bytes(b"".join(b"\xe9\n" if text is None else text.encode() + b"\n" for text in given))
    pq.write_table(pa.Table.from_pylist(records), folder / "in.parquet", row_group_size=700)
    rows = [None if text is None else trained.embeddings[i % len(trained.texts)] for i, text in enumerate(given)]
    column = pa.array([None if row is None else np.asarray(row) for row in rows], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": range(ROWS), "e": column}), folder / "embeddings.parquet")
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "folder"))


@pytest.mark.parametrize("file", INPUTS)
def test_killed_at_random_moments(triton: TritonServer, folder: Path, file: str) -> None:
    runs = Runs(folder, triton.address.grpc_url, file)
    started = time.monotonic()
    assert runs.finish()[0] == 3
    duration = time.monotonic() - started
    expected = runs.written()
    assert len(expected) == 2
    chance, kills = random.Random(file), 0
    while kills < KILLS:
        process = runs.start("--resume")
        try:
            process.communicate(timeout=chance.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            # Whatever stands under the output's name is all of it.
            assert not runs.out.exists() or runs.out.read_bytes() == expected[runs.out.name]
        else:
            assert process.returncode == 3
            assert runs.written() == expected
    assert runs.finish("--resume")[0] == 3
    assert runs.written() == expected


def test_killed_while_the_output_is_put_together(triton: TritonServer, folder: Path) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    assert runs.finish()[0] == 3
    expected = runs.written()
    process = runs.start()
    beside = Path(f"{runs.out}.tmp")
    while not beside.exists():
        assert process.poll() is None
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert runs.n_kept() == ROWS
    assert not runs.out.exists()
    assert runs.finish("--resume")[0] == 3
    assert runs.written() == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_it_says_how_to_go_on(triton: TritonServer, folder: Path, number: signal.Signals) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    with runs.start() as process:
        _await_rows(runs, process)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "go on with --resume" in " ".join(said.split())
    kept = int(re.findall(r"([\d,]+) rows are kept", " ".join(said.split()))[-1].replace(",", ""))
    # The signal may come between a row's writing and its counting.
    assert kept <= runs.n_kept() <= kept + 1
    assert runs.finish("--resume")[0] == 3


def test_a_full_disk(triton: TritonServer, folder: Path) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    assert runs.finish()[0] == 3
    expected = runs.written()
    code, said = runs.finish(max_file_size=50_000)
    assert (code, runs.partial.stat().st_size) == (1, 50_000)
    assert "File too large" in said
    assert "go on with --resume" in said
    code, said = runs.finish("--resume", max_file_size=len(expected["out.jsonl"]) - 1)
    assert code == 1
    assert [path.name for path in folder.glob("out.*")] == ["out.jsonl.partial"]
    assert runs.finish("--resume")[0] == 3
    assert runs.written() == expected


def test_a_server_that_is_killed_and_comes_back(triton: TritonServer, folder: Path) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    assert runs.finish()[0] == 3
    expected = runs.written()
    with runs.start() as process:
        _await_rows(runs, process)
        triton.kill()
        time.sleep(1)
        triton.restart()
        process.communicate(timeout=300)
    assert process.returncode == 3
    assert runs.written() == expected


def test_a_server_that_stays_away(triton: TritonServer, folder: Path) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl", "--patience=3")
    with runs.start() as process:
        _await_rows(runs, process)
        triton.kill()
        said = process.communicate(timeout=60)[1]
    triton.restart()
    assert process.returncode == 1
    assert "go on with --resume" in " ".join(said.split())
    assert runs.n_kept() > 0


def test_answers_of_two_models_are_not_mixed(repository: Path, folder: Path, tmp_path: Path) -> None:
    other = _relabelled(repository, tmp_path / "other")
    address = Address.on_free_ports()
    runs = Runs(folder, address.grpc_url, "in.jsonl")
    with TritonServer(repository, address) as server, runs.start() as process:
        _await_rows(runs, process)
        server.kill()
        with TritonServer(other, address):
            said = process.communicate(timeout=300)[1]
            code, said_again = runs.finish("--resume")
    assert (process.returncode, code) == (1, 1)
    assert "replaced during the run" in " ".join(said.split())
    assert "another model" in said_again
    assert not runs.out.exists()


def _relabelled(repository: Path, copy: Path) -> Path:
    """The same model, its outliers under another label."""
    shutil.copytree(repository, copy)
    topics = copy / "BERTopic-topics" / "1" / "topics.json"
    manifest = json.loads((copy / "manifest.json").read_text())
    digest = hashlib.sha256(topics.read_bytes()).hexdigest()
    topics.write_text(topics.read_text().replace('"-1_', '"-1_other_'))
    changed = json.dumps(manifest).replace(digest, hashlib.sha256(topics.read_bytes()).hexdigest())
    (copy / "manifest.json").write_text(changed)
    return copy


@pytest.fixture
def begun(triton: TritonServer, folder: Path) -> Runs:
    """A run that was killed."""
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    process = runs.start()
    _await_rows(runs, process)
    process.kill()
    process.communicate()
    return runs


@pytest.mark.parametrize("change", ["input", "--column=note", "--embeddings=text", "neither --resume nor --force"])
def test_what_does_not_belong_together_is_refused(begun: Runs, change: str) -> None:
    kept = begun.partial.read_bytes()
    if change == "input":
        with (begun.folder / "in.jsonl").open("a") as file:
            file.write('{"text": "one more"}\n')
    options = {"input": ["--resume"], "neither --resume nor --force": []}.get(change, ["--resume", change])
    code, said = begun.finish(*options)
    assert code == 1
    assert "--force" in said
    assert begun.partial.read_bytes() == kept
    assert not begun.out.exists()


def test_two_at_once_are_refused(triton: TritonServer, folder: Path) -> None:
    runs = Runs(folder, triton.address.grpc_url, "in.jsonl")
    with runs.start() as process:
        _await_rows(runs, process)
        code, said = runs.finish("--resume")
        assert code == 1
        assert "Another process" in said
        process.communicate(timeout=300)
    assert process.returncode == 3


def _await_rows(runs: Runs, process: subprocess.Popen[str]) -> None:
    """Wait until some rows are answered, and most are not."""
    while not runs.n_kept():
        assert process.poll() is None
        time.sleep(0.01)
