"""`reload` finds the `serve` of the same user, and nobody else's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bertopic_server import NotServing, ReloadFailed, ServerError
from bertopic_server._control import Control, request_reload, socket_path

PORT = 18_123


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def control() -> Iterator[Control]:
    def reload(folder: str | None, progress: Callable[[str], None]) -> str:
        progress("Loading")
        if folder is not None and folder.endswith("broken"):
            raise ReloadFailed("umap.json is missing.")
        return f"A from {folder}"

    server = Control(PORT, reload)
    yield server
    server.stop()


def test_steps_and_what_was_put_in_place(control: Control, tmp_path: Path) -> None:
    steps: list[str] = []
    assert request_reload(PORT, tmp_path, steps.append) == f"A from {tmp_path}"
    assert steps == ["Loading"]
    assert request_reload(PORT, None, steps.append) == "A from None"


def test_a_failure_is_told(control: Control, tmp_path: Path) -> None:
    with pytest.raises(ReloadFailed, match=r"umap\.json is missing"):
        request_reload(PORT, tmp_path / "broken", lambda step: None)


def test_what_a_killed_server_left_is_no_obstacle(control: Control) -> None:
    again = Control(PORT, lambda folder, progress: "again")
    assert request_reload(PORT, None, lambda step: None) == "again"
    again.stop()


def test_nobody_there() -> None:
    with pytest.raises(NotServing, match=str(PORT)):
        request_reload(PORT, None, lambda step: None)


def test_a_folder_that_others_may_enter() -> None:
    folder = socket_path(PORT).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(ServerError, match="mode 700"):
        socket_path(PORT)
