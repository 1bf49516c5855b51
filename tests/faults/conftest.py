"""A real tritonserver over the converted test model, for those who mean it ill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bertopic_server import Address, TritonServer


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[TritonServer]:
    """Of this module alone: what a test breaks stays its own."""
    server = TritonServer(repository, Address.on_free_ports())
    server.start()
    yield server
    # A model that was asked badly may never finish what it holds.
    server.stop(timeout=5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.integration)
