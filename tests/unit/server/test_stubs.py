"""Processes of python models, told from all others by /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bertopic_server._stubs import Stubs, cpu_seconds

REGION = f"triton_python_backend_shm_region_of_test_{os.getpid()}"
WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"
# A child that has not yet become what it will be.
FORKS = "import os, time\nif os.fork():\n    print('ready', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that looks like one of a model."""
    started = []

    def run(model: str, version: int, code: str = WAITS) -> subprocess.Popen[str]:
        script = tmp_path / "models" / model / str(version) / "model.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, str(script), REGION], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path / "models")


def test_model_version_and_memory(start: Any, stubs: Stubs) -> None:
    process = start("A-umap", 3)
    (stub,) = stubs.serving(3).values()
    assert (stub.pid, stub.model, stub.version, stub.region) == (process.pid, "A-umap", 3, REGION)
    assert not stubs.serving(2)


def test_the_dead_are_not_listed_even_if_nobody_took_note(start: Any, stubs: Stubs) -> None:
    process = start("A-umap", 1)
    (stub,) = stubs.all().values()
    stub.kill()
    while stubs.all():
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    stub.kill()


def test_stopped(start: Any, stubs: Stubs) -> None:
    start("A-umap", 1)
    (stub,) = stubs.all().values()
    assert not stub.is_stopped
    os.kill(stub.pid, signal.SIGSTOP)
    while not stub.is_stopped:
        time.sleep(0.01)


def test_what_a_model_starts_is_no_stub(start: Any, stubs: Stubs) -> None:
    process = start("A-umap", 1, FORKS)
    assert [*stubs.all()] == [process.pid]


def test_the_replaced_may_end(start: Any, stubs: Stubs) -> None:
    old, other = start("A-umap", 1), start("A-text", 1)
    stubs.replace("A-umap")
    new = start("A-umap", 1)
    assert stubs.serving(1).keys() == {other.pid, new.pid}
    assert [*stubs.loading("A-umap")] == [new.pid]
    assert stubs.all().keys() == {old.pid, other.pid, new.pid}


def test_cleared_with_their_memory(start: Any, stubs: Stubs) -> None:
    memory = Path("/dev/shm") / REGION
    memory.touch()
    process = start("A-umap", 1)
    stubs.clear()
    assert process.wait(10) == -signal.SIGKILL
    assert not memory.exists()


def test_processor_time(start: Any, stubs: Stubs) -> None:
    start("A-umap", 1, "print('ready', flush=True)\nwhile True: pass\n")
    (stub,) = stubs.all().values()
    before = cpu_seconds(stub.pid)
    deadline = time.monotonic() + 30
    while cpu_seconds(stub.pid) < before + 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
