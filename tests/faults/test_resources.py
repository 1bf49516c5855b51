"""Where the machine runs out of something: a clear error, and all is well once there is enough again."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertopic_client import ServerError, Timeout, TopicClient, Unavailable
from bertopic_server import TritonServer

from ._command import failing, mounting, serving

SHARED_MEMORY = Path("/dev/shm")
# A megabyte and a half, for which the memory shared with a stub must grow.
LARGE = 1_000


@pytest.fixture(scope="module")
def embeddings(trained: Any) -> Any:
    return np.resize(trained.embeddings, (LARGE, trained.embeddings.shape[1]))


def test_a_full_shared_memory_at_start(repository: Path) -> None:
    said = failing("serve", repository, prefix=mounting(SHARED_MEMORY, "1m"))
    assert "shared memory" in said
    assert "No space left on device" in said


def test_a_shared_memory_that_fills_up(repository: Path, embeddings: Any) -> None:
    with (
        serving(repository, prefix=mounting(SHARED_MEMORY, "32m")) as server,
        TopicClient(server.address.grpc_url, retries=0) as client,
    ):
        expected = client.predict(embeddings[:1]).topics
        with _filled(Path(f"/proc/{server.process.pid}/root{SHARED_MEMORY}")):
            with pytest.raises((ServerError, Unavailable), match="shared memory"):
                client.predict(embeddings)
            assert client.predict(embeddings[:1]).topics == expected
        assert client.predict(embeddings).topics[0] == expected


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """A folder whose file system has no byte left."""
    filler = folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("limit", [24, 48])
def test_too_few_file_descriptors_at_start(repository: Path, limit: int) -> None:
    said = failing("serve", repository, prefix=("prlimit", f"--nofile={limit}:{limit}"))
    assert "ulimit -n" in said


def test_file_descriptors_that_run_out(triton: TritonServer, trained: Any) -> None:
    texts = trained.texts[:10]
    stubs = triton.stubs.serving(triton.version)
    with TopicClient(triton.address.grpc_url) as connected:
        expected = connected.predict(texts).topics.tolist()
        with _no_more_descriptors(_parent(next(iter(stubs)))):
            # A connection of its own; those over gRPC are shared within a process.
            late = TopicClient(triton.address.http_url, timeout=2, retries=0)
            with late, pytest.raises((Timeout, Unavailable)):
                late.predict(texts)
            assert connected.predict(texts).topics.tolist() == expected
    with TopicClient(triton.address.http_url) as again:
        assert again.predict(texts).topics.tolist() == expected
    assert triton.stubs.serving(triton.version) == stubs


@contextmanager
def _no_more_descriptors(pid: int) -> Iterator[None]:
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
