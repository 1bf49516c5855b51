"""`bertopic-inference serve` as a person and an operator meet it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import TopicClient
from bertopic_server import Address

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))


def ports() -> tuple[Address, list[str]]:
    address = Address.on_free_ports()
    options = {"http": address.http_port, "grpc": address.grpc_port, "metrics": address.metrics_port}
    return address, [f"--{name}-port={port}" for name, port in options.items()]


def start(repository: Path, *options: str) -> tuple[subprocess.Popen[str], Address, str]:
    """Serve, and return once the curl line is printed."""
    address, port_options = ports()
    process = subprocess.Popen(
        [COMMAND, "serve", str(repository), *port_options, *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = ""
    while "curl" not in printed:
        line = process.stdout.readline()
        assert line, f"serve ended: {printed}"
        printed += line
    return process, address, printed


def failing(*arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_serves_prints_a_curl_that_works_and_ends_cleanly(repository: Path, number: signal.Signals) -> None:
    process, _, printed = start(repository)
    try:
        assert "Ready: BERTopic" in printed
        (curl,) = re.findall(r"^curl .*$", printed, re.MULTILINE)
        if shutil.which("curl"):
            answer = json.loads(subprocess.run(shlex.split(curl), capture_output=True, check=True).stdout)
            assert {output["name"] for output in answer["outputs"]} == {"OUT", "PROBABILITY"}
    finally:
        process.send_signal(number)
    assert process.wait(60) == 0


def test_requests_in_flight_are_answered(repository: Path, trained: Any) -> None:
    process, address, _ = start(repository)
    texts = trained.texts[:64] * 8
    answers: list[Any] = []

    def ask() -> None:
        with TopicClient(address.grpc_url, retries=0, max_in_flight=len(texts)) as client:
            answers.append(client.predict(texts))

    thread = threading.Thread(target=ask)
    thread.start()
    # The first request is answered when all are long under way, and most are not answered yet.
    while texts_answered(address) < 64:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    thread.join(60)
    assert process.wait(60) == 0
    assert [len(answer) for answer in answers] == [len(texts)]


def texts_answered(address: Address) -> int:
    with urllib.request.urlopen(f"{address.http_url}/v2/models/BERTopic-text/stats", timeout=10) as response:
        return int(json.load(response)["model_stats"][0]["inference_count"])


def test_the_metrics_port_answers_for_the_whole(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        environment.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked for this machine's own
        process, address, _ = start(repository)
    root = address.metrics_url.removesuffix("/metrics")
    try:
        assert json.loads(get(f"{root}/health/ready"))["ready"]
        assert json.loads(get(f"{root}/health/live"))["live"]
        metrics = get(address.metrics_url)
        assert 'bertopic_canary_up{model="BERTopic-text"} 1' in metrics
        assert 'bertopic_model_version{name="BERTopic"} 1' in metrics
        assert "bertopic_server_restarts_total 0" in metrics
        assert 'nv_inference_request_success{model="BERTopic-text",version="1"}' in metrics
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def test_a_taken_port_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"127.0.0.1:{port}" in failing("serve", str(repository), f"--http-port={port}")


def test_a_folder_that_was_not_converted(tmp_path: Path) -> None:
    assert "manifest.json" in failing("serve", str(tmp_path))


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_a_damaged_repository_names_the_file(repository: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    weights = copy / "BERTopic-umap" / "1" / "umap.safetensors"
    if damage == "changed":
        with weights.open("r+b") as file:
            file.seek(5000)
            file.write(b"\0damage\0")
        assert "umap.safetensors" in failing("serve", str(copy))
    elif damage == "missing":
        weights.unlink()
        assert "umap.safetensors" in failing("serve", str(copy))
    else:
        (copy / "manifest.json").write_text("{")
        assert "manifest.json" in failing("serve", str(copy))


def test_numpy_2_is_refused(repository: Path, tmp_path: Path) -> None:
    """A distribution that calls itself numpy 2 is enough: its version is what is asked."""
    information = tmp_path / "numpy-2.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.0\n")
    assert "numpy<2" in failing("serve", str(repository), env={"PYTHONPATH": str(tmp_path)})


def test_predict_and_topics_on_the_command_line(server: Any, trained: Any, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    assert "Sort a list" in run("predict", "Sort a list of numbers", "--url", server.grpc_url)
    known = run("topics", "--url", server.http_url)
    assert all(str(topic) in known for topic in trained.model.get_topics())

    given, answered = tmp_path / "texts.txt", tmp_path / "answers.jsonl"
    given.write_text("\n".join(trained.texts[:300]))
    run("predict", "--file", str(given), "--out", str(answered), "--url", server.grpc_url)
    rows = [json.loads(line) for line in answered.read_text().splitlines()]
    with TopicClient(server.grpc_url) as client:
        expected = client.predict(trained.texts[:300])
    assert [row["text"] for row in rows] == trained.texts[:300]
    assert [row["topic"] for row in rows] == expected.topics.tolist()


def test_predict_without_a_server_says_so() -> None:
    address, _ = ports()
    assert str(address.grpc_port) in failing("predict", "text", "--url", address.grpc_url)
