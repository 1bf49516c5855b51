"""A retrained model is put in place under load: no request fails, and none is answered by both models.

`BERTOPIC_SOAK=1` reloads again and again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from bertopic_server import Address
from tritonclient import grpc, http

from ._serving import COMMAND, Serve, Truth, await_that, copy_of, rewrite

ROUNDS = 20 if os.environ.get("BERTOPIC_SOAK") else 1
CLIENTS = 6


@pytest.fixture(scope="module")
def old(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that nobody may write to."""
    copy = copy_of(repository, tmp_path_factory.mktemp("old") / "model_repository")
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return copy


@pytest.fixture(scope="module")
def new(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with each topic under the number of the next."""
    copy = copy_of(repository, tmp_path_factory.mktemp("new") / "model_repository")
    file = copy / "BERTopic-hdbscan" / "1" / "mapping.json"
    mapping = json.loads(file.read_text())
    topics = sorted({topic for _, topic in mapping if topic != -1})
    following = {-1: -1, **dict(zip(topics, topics[1:] + topics[:1], strict=True))}
    rewrite(file, json.dumps([[cluster, following[topic]] for cluster, topic in mapping]))
    return copy


@pytest.fixture(scope="module")
def truths(old: Path, new: Path, trained: Any) -> list[Truth]:
    return [Truth(folder, trained.texts[:300]) for folder in (old, new)]


@pytest.fixture(scope="module")
def serve(old: Path) -> Iterator[Serve]:
    with Serve(old) as running:
        yield running


class Callers:
    """Clients without retries, over gRPC and HTTP; a context manager."""

    def __init__(self, address: Address, truths: list[Truth]) -> None:
        self._truths = truths
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(address, (grpc, http)[i % 2], i)) for i in range(CLIENTS)
        ]
        self.by_model: Counter[int] = Counter()
        self.mixed = 0
        self.errors: Counter[str] = Counter()

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, address: Address, library: Any, seed: int) -> None:
        rng = np.random.default_rng(seed)
        url = f"127.0.0.1:{address.grpc_port if library is grpc else address.http_port}"
        with library.InferenceServerClient(url) as client:
            while not self._ended.is_set():
                rows = rng.integers(len(self._truths[0].topics), size=rng.integers(1, 65))
                model, tensor = self._request(library, rows, rng.random() < 0.5)
                try:
                    topics = client.infer(model, [tensor]).as_numpy("OUT")[:, 0]
                except Exception as error:
                    self.errors[f"{model}: {error}"] += 1
                    continue
                matching = [i for i, truth in enumerate(self._truths) if np.array_equal(topics, truth.topics[rows])]
                self.mixed += not matching
                # Outliers alone are the same in both.
                self.by_model.update(matching if len(matching) == 1 else [])

    def _request(self, library: Any, rows: Any, as_text: bool) -> tuple[str, Any]:
        if as_text:
            values = np.array([[self._truths[0].texts[row].encode()] for row in rows], dtype=np.object_)
            model, tensor = "BERTopic-text", library.InferInput("TEXT", list(values.shape), "BYTES")
        else:
            values = self._truths[0].embeddings[rows]
            model, tensor = "BERTopic-inference", library.InferInput("IN", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        return model, tensor


def reload(serve: Serve, *arguments: str) -> subprocess.CompletedProcess[str]:
    port = f"--http-port={serve.address.http_port}"
    return subprocess.run([COMMAND, "reload", *arguments, port], capture_output=True, text=True, timeout=300)


def model_of_answers(serve: Serve, truths: list[Truth]) -> int:
    """Which of the truths the server answers with now."""
    with Callers(serve.address, truths) as callers:
        await_that(lambda: sum(callers.by_model.values()) > 5, 60)
    assert not callers.errors
    (answers,) = callers.by_model
    return answers


def version(serve: Serve) -> float:
    return serve.metrics()['bertopic_model_version{name="BERTopic"}']


@pytest.mark.parametrize("round", range(ROUNDS))
def test_under_load(serve: Serve, old: Path, new: Path, truths: list[Truth], round: int) -> None:
    before = version(serve)
    with Callers(serve.address, truths) as callers:
        for folder, answers in ((new, 1), (old, 0)):
            done = reload(serve, str(folder))
            assert done.returncode == 0, done.stderr
            assert str(folder) in "".join(done.stdout.split())
            callers.by_model.clear()
            await_that(lambda: sum(callers.by_model.values()) > 20, 60)
            assert set(callers.by_model) == {answers}
    assert not callers.errors
    assert callers.mixed == 0
    assert version(serve) == before + 2
    assert serve.troubles() == {}
    assert not [*old.rglob("__pycache__")]


def test_the_old_model_stays_if_the_new_one_cannot_be_loaded(
    serve: Serve, old: Path, new: Path, truths: list[Truth], tmp_path: Path
) -> None:
    """The one that fails is among the last, so that most are replaced already and go back."""
    broken = copy_of(new, tmp_path / "broken")
    rewrite(broken / "BERTopic-text" / "1" / "model.py", "import no_such_module\n")
    before = version(serve)
    with Callers(serve.address, truths) as callers:
        done = reload(serve, str(broken))
        callers.by_model.clear()
        await_that(lambda: sum(callers.by_model.values()) > 20, 60)
        assert set(callers.by_model) == {0}
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "At:" not in done.stderr
    assert not callers.errors
    assert callers.mixed == 0
    assert version(serve) == before
    await_that(lambda: serve.troubles() == {}, 30)


@pytest.mark.parametrize("fault", ["damaged", "renamed", "no folder", "another device", "no config"])
def test_what_cannot_replace_is_refused(serve: Serve, new: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "given"
    if fault != "no folder":
        copy_of(new, folder)
    if fault == "damaged":
        (folder / "BERTopic-umap" / "1" / "umap.json").write_text("{}")
    if fault == "renamed":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["models"] = {"Other": manifest["models"]["BERTopic"]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    if fault == "another device":
        config = folder / "BERTopic-umap" / "config.pbtxt"
        rewrite(config, config.read_text().replace("KIND_CPU", "KIND_GPU"))
    if fault == "no config":
        rewrite(folder / "BERTopic-umap" / "config.pbtxt", "max_batch_size: many")
    done = reload(serve, str(folder))
    assert done.returncode == 1
    told = {
        "damaged": "umap.json",
        "renamed": "Other",
        "no folder": "manifest.json",
        "another device": "BERTopic-umap is for python on a GPU, and the one served is for python on a CPU",
        "no config": "config.pbtxt is no config of a Triton model (1:17",
    }[fault]
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_link_that_points_elsewhere_now(old: Path, new: Path, truths: list[Truth], tmp_path: Path) -> None:
    """By SIGHUP, and then without a folder."""
    link = tmp_path / "current"
    link.symlink_to(old)
    with Serve(link) as serve:
        for folder, answers in ((new, 1), (old, 0)):
            link.unlink()
            link.symlink_to(folder)
            if folder == new:
                serve.process.send_signal(signal.SIGHUP)
                await_that(lambda: version(serve) == 2, 120)
            else:
                assert reload(serve).returncode == 0
            assert model_of_answers(serve, truths) == answers


def test_nobody_serves_there() -> None:
    port = Address.on_free_ports().http_port
    done = subprocess.run([COMMAND, "reload", f"--http-port={port}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert str(port) in done.stderr
