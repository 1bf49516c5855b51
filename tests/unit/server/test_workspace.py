"""Triton's repository is made of links, and the folder that was converted is only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bertopic_server._workspace import Workspace


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("A-umap", "A-topics"):
        version = tmp_path / "given" / model / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text("answer = 42\n")
        (version / "__pycache__").mkdir()
        (version.parent / "config.pbtxt").write_text(f'name: "{model}"\n')
    return tmp_path / "given"


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    made = Workspace()
    made.create()
    yield made
    made.remove()
    assert not made.models.exists()


def versions(workspace: Workspace, model: str) -> list[str]:
    return sorted(folder.name for folder in (workspace.models / model).iterdir() if folder.is_dir())


def test_files_are_links_and_folders_are_not(workspace: Workspace, repository: Path) -> None:
    workspace.place("A-umap", repository, 7)
    folder = workspace.models / "A-umap" / "7"
    assert not folder.is_symlink()
    assert [path.name for path in folder.iterdir()] == ["model.py"]
    assert (folder / "model.py").readlink() == repository / "A-umap" / "1" / "model.py"
    (folder / "__pycache__").mkdir()
    workspace.place("A-umap", repository, 7)


def test_versions_come_and_go(workspace: Workspace, repository: Path) -> None:
    for version in (1, 2, 3):
        workspace.place("A-umap", repository, version)
    workspace.withdraw("A-umap", 2)
    assert versions(workspace, "A-umap") == ["1", "3"]
    workspace.keep("A-umap", (3,))
    assert versions(workspace, "A-umap") == ["3"]
    assert (repository / "A-umap" / "1" / "model.py").is_file()


def test_what_is_gone_is_named(workspace: Workspace, repository: Path) -> None:
    workspace.place("A-umap", repository, 1)
    assert workspace.is_python("A-umap")
    assert workspace.missing_file() is None
    code = repository / "A-umap" / "1" / "model.py"
    code.unlink()
    assert workspace.missing_file() == code


@pytest.mark.parametrize("given", ["", "version_policy { all {} }\n"], ids=["none", "a person's"])
def test_two_versions_of_topics_unless_a_person_says_otherwise(
    workspace: Workspace, repository: Path, given: str
) -> None:
    config = repository / "A-topics" / "config.pbtxt"
    config.write_text(config.read_text() + given)
    workspace.place("A-topics", repository, 1)
    written = (workspace.models / "A-topics" / "config.pbtxt").read_text()
    assert written.count("version_policy") == 1
    assert (given in written) if given else ("num_versions: 2" in written)
    assert "num_versions" not in config.read_text()


def test_others_cannot_look_in(workspace: Workspace) -> None:
    assert workspace.models.parent.stat().st_mode & 0o077 == 0
