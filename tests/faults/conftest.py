"""A real tritonserver over the converted test model, for requests that mean it ill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bertopic_server import Address, TritonServer


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[TritonServer]:
    """Of this module alone: what a test breaks stays its own."""
    with TritonServer(repository, Address.on_free_ports()) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.integration)
