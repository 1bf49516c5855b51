"""`bertopic-inference serve` as a process of its own, and clients that load it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import bertopic_engine
import numpy as np
from bertopic_client import TopicClient
from bertopic_embedder import Embedder, OnnxEncoder, Tokenizer
from bertopic_server import Address
from bertopic_server._stubs import Stub, Stubs

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))


class Serve:
    """A running `serve`; a context manager.

    Parameters
    ----------
    repository : Path
        What it serves.
    """

    def __init__(self, repository: Path) -> None:
        self.address = Address.on_free_ports()
        ports = {"http": self.address.http_port, "grpc": self.address.grpc_port, "metrics": self.address.metrics_port}
        self.process = subprocess.Popen(
            [COMMAND, "serve", str(repository), *(f"--{name}-port={port}" for name, port in ports.items())],
            stdout=subprocess.DEVNULL,
        )
        self._health = f"http://127.0.0.1:{self.address.metrics_port}"
        await_that(lambda: self.process.poll() is not None or self.troubles() == {}, 120)
        assert self.process.poll() is None, "serve ended"

    def __enter__(self) -> Serve:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            assert self.stop() == 0 or error is not None

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def troubles(self) -> dict[str, str] | None:
        """Which models are not ready, and why; None without an answer."""
        try:
            with urllib.request.urlopen(f"{self._health}/health/ready", timeout=5) as response:
                body = json.load(response)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        except OSError:
            return None
        assert body["ready"] == (not body["not_ready"])
        return dict(body["not_ready"])

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by name and labels as they are written there."""
        with urllib.request.urlopen(f"{self._health}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return {sample: float(value) for sample, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    @property
    def tritonserver(self) -> int:
        """The process id of the tritonserver that runs now, or will in a moment."""
        await_that(lambda: children(self.process.pid), 30)
        return children(self.process.pid)[0]

    @property
    def faults(self) -> float:
        """How often a model was loaded again or tritonserver started again."""
        counters = ("bertopic_recoveries_total", "bertopic_server_restarts_total")
        return sum(value for sample, value in self.metrics().items() if sample.startswith(counters))

    def stubs(self, model: str) -> list[Stub]:
        """The processes of a python model that run now."""
        option = "--model-repository="
        (folder,) = (argument for argument in command_line(self.tritonserver) if argument.startswith(option))
        return [stub for stub in Stubs(Path(folder.removeprefix(option))).all().values() if stub.model == model]


class Truth:
    """The answers of a converted model in process.

    Parameters
    ----------
    repository : Path
    texts : list of str
    """

    def __init__(self, repository: Path, texts: list[str]) -> None:
        tokenizer, bert = (repository / f"BERTopic-{model}" / "1" for model in ("tokenizer", "bert"))
        embedder = Embedder(Tokenizer.load(tokenizer), OnnxEncoder.load(bert))
        self.texts = texts
        self.embeddings = embedder.encode(texts)
        self.topics = bertopic_engine.load(repository).predict(self.embeddings).topics


class Load:
    """Clients that ask for texts and embeddings over gRPC and HTTP until the block ends; a context manager.

    Parameters
    ----------
    address : Address
    truth : Truth
        What the answers must be.
    clients : int
        Threads.
    """

    def __init__(self, address: Address, truth: Truth, clients: int = 8) -> None:
        self._truth = truth
        self._ended = threading.Event()
        self._seeds = count()
        self._threads = [
            threading.Thread(target=self._ask, args=((address.grpc_url, address.http_url)[i % 2], i))
            for i in range(clients)
        ]
        self.answered = 0
        self.wrong = 0
        self.errors: Counter[str] = Counter()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def _ask(self, url: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        truth = self._truth
        with TopicClient(url, timeout=90, retries=1_000) as client:
            while not self._ended.is_set():
                rows = rng.integers(len(truth.topics), size=rng.integers(1, 65))
                given = truth.embeddings[rows] if rng.random() < 0.5 else [truth.texts[row] for row in rows]
                try:
                    topics = client.predict(given).topics
                except Exception as error:
                    self.errors[f"{type(error).__name__}: {error}"] += 1
                    continue
                self.answered += len(rows)
                self.wrong += int(np.sum(topics != truth.topics[rows]))


def copy_of(repository: Path, out: Path) -> Path:
    """A converted repository that a test may change by `rewrite`."""
    return Path(shutil.copytree(repository, out, ignore=shutil.ignore_patterns("__pycache__")))


def rewrite(file: Path, content: str) -> None:
    """Change a file of a converted repository, and what its manifest says of it."""
    file.write_text(content, encoding="utf-8")
    repository = next(folder for folder in file.parents if (folder / "manifest.json").is_file())
    manifest = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
    files = manifest["models"]["BERTopic"]["files"]
    files[file.relative_to(repository).as_posix()] = sha256(file.read_bytes()).hexdigest()
    (repository / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def await_that(holds: Callable[[], Any], seconds: float) -> float:
    """Wait until something holds; the seconds that it took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    return [
        int(entry.name)
        for entry in os.scandir("/proc")
        if entry.name.isdigit() and status(int(entry.name))[1:2] == [str(pid)]
    ]


def status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return status(pid)[:1] not in ([], ["Z"])


def command_line(pid: int) -> list[str]:
    """The arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
