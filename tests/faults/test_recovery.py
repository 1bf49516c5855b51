"""Processes that die or hang are replaced without a person, and nothing that clients asked for is lost.

`BERTOPIC_SOAK=1` kills again and again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ._serving import Load, Serve, Truth, await_that, children, copy_of, is_running, rewrite

SOAK = bool(os.environ.get("BERTOPIC_SOAK"))
ROUNDS = 20 if SOAK else 1
KINDS = ("bert", "embedder", "hdbscan", "inference", "text", "tokenizer", "topics", "umap")
MODELS = [f"BERTopic-{kind}" for kind in KINDS]
KILLED = MODELS if SOAK else ["BERTopic-bert", "BERTopic-text", "BERTopic-topics"]
# Neither answers nor computes, once somebody asks for this topic.
STUCK = """
    def execute(self, requests):
        if any(-777 in pb_utils.get_input_tensor_by_name(request, "TOPIC").as_numpy() for request in requests):
            __import__("time").sleep(10_000)
"""
HEALED_SECONDS = 60.0
REPLACED_SECONDS = 15.0


@pytest.fixture(scope="module")
def truth(repository: Path, trained: Any) -> Truth:
    return Truth(repository, trained.texts[:400])


@pytest.fixture(scope="module")
def serve(repository: Path) -> Iterator[Serve]:
    with Serve(repository) as running:
        yield running


def heals(serve: Serve, faults: float, seconds: float = HEALED_SECONDS) -> float:
    """Wait until there was another fault and all is ready; the seconds that it took."""
    return await_that(lambda: serve.faults > faults and serve.troubles() == {}, seconds)


def assert_nothing_lost(load: Load) -> None:
    assert not load.errors
    assert load.wrong == 0
    assert load.answered > 0


@pytest.mark.parametrize("round", range(ROUNDS))
def test_every_stub_in_turn_under_load(serve: Serve, truth: Truth, round: int) -> None:
    with Load(serve.address, truth) as load:
        for model in KILLED:
            faults = serve.faults
            victim = serve.stubs(model)[0]
            victim.kill()
            heals(serve, faults)
            assert not is_running(victim.pid)
    assert_nothing_lost(load)


@pytest.mark.parametrize("round", range(ROUNDS))
def test_tritonserver_under_load(serve: Serve, truth: Truth, round: int) -> None:
    orphans = [stub for model in MODELS for stub in serve.stubs(model)]
    with Load(serve.address, truth) as load:
        time.sleep(1)
        faults = serve.faults
        os.kill(serve.tritonserver, signal.SIGKILL)
        heals(serve, faults)
    assert_nothing_lost(load)
    assert not any(is_running(stub.pid) for stub in orphans)
    assert not any((Path("/dev/shm") / stub.region).exists() for stub in orphans)


@pytest.mark.parametrize("model", ["BERTopic-bert", "BERTopic-topics"] if SOAK else ["BERTopic-bert"])
def test_a_stopped_process_under_load(serve: Serve, truth: Truth, model: str) -> None:
    victim = serve.stubs(model)[0]
    with Load(serve.address, truth) as load:
        time.sleep(0.5)
        faults = serve.faults
        os.kill(victim.pid, signal.SIGSTOP)
        heals(serve, faults, REPLACED_SECONDS)
    assert_nothing_lost(load)
    assert not is_running(victim.pid)


def test_a_model_that_waits_for_ever(repository: Path, tmp_path: Path) -> None:
    stuck = copy_of(repository, tmp_path / "stuck")
    code = stuck / "BERTopic-topics" / "1" / "model.py"
    rewrite(code, code.read_text().replace("\n    def execute(self, requests):\n", STUCK, 1))
    with Serve(stuck) as serve:
        faults = serve.faults
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(status_of_topics, serve, topic) for topic in (-777, -777)]
            heals(serve, faults, REPLACED_SECONDS)
        # Whoever waited was told: by an error, or by a connection that ended.
        assert all(answer.exception() is not None for answer in waiting)
        assert status_of_topics(serve, 0) == 200


def test_serve_ends_while_tritonserver_is_started_again(repository: Path) -> None:
    with Serve(repository) as serve:
        processes = [serve.tritonserver, *(stub.pid for model in MODELS for stub in serve.stubs(model))]
        os.kill(serve.tritonserver, signal.SIGKILL)
        await_that(lambda: serve.troubles() != {}, 10)
        assert serve.stop() == 0
        assert not any(map(is_running, processes))
        assert not children(serve.process.pid)


def test_a_killed_serve_leaves_nothing_behind(repository: Path) -> None:
    with Serve(repository) as serve:
        processes = [serve.tritonserver, *(stub.pid for model in MODELS for stub in serve.stubs(model))]
        serve.process.kill()
        await_that(lambda: not any(map(is_running, processes)), 60)
        assert serve.process.wait() == -signal.SIGKILL


@pytest.mark.skipif(not SOAK, reason="pauses between the attempts")
def test_what_cannot_be_started_again_is_given_up(repository: Path, tmp_path: Path) -> None:
    gone = copy_of(repository, tmp_path / "gone")
    with Serve(gone) as serve:
        shutil.rmtree(gone)
        os.kill(serve.tritonserver, signal.SIGKILL)
        assert serve.process.wait(300) == 1


def status_of_topics(serve: Serve, topic: int) -> int:
    body = {"inputs": [{"name": "TOPIC", "shape": [1], "datatype": "INT32", "data": [topic]}]}
    url = f"{serve.address.http_url}/v2/models/BERTopic-topics/infer"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
        return int(response.status)
