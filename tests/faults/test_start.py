"""A start that cannot succeed ends in a sentence that names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import TopicClient

from ._command import UNPRIVILEGED, failing, mounting, serving
from ._serving import rewrite

KINDS = (
    "BERTopic-bert/1/model.onnx",
    "BERTopic-tokenizer/1/tokenizer.json",
    "BERTopic-tokenizer/1/embedder.json",
    "BERTopic-umap/1/umap.safetensors",
    "BERTopic-umap/1/umap.json",
    "BERTopic-hdbscan/1/hdbscan.safetensors",
    "BERTopic-hdbscan/1/mapping.json",
    "BERTopic-topics/1/topics.json",
    "BERTopic-text/1/model.py",
    "BERTopic-text/config.pbtxt",
)


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """The repository again; its files are the same until they are replaced."""
    return shutil.copytree(repository, tmp_path / "copy", copy_function=os.link)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _replace(path, bytes(content))


def _cut(path: Path) -> None:
    _replace(path, path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    _replace(path, b"")


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _hide(path: Path) -> None:
    _replace(path, path.read_bytes())
    path.chmod(0)


@pytest.mark.parametrize("file", KINDS)
def test_a_bit_that_is_not_as_it_was_converted(copy: Path, file: str) -> None:
    _flip_a_bit(copy / file)
    said = failing("serve", copy)
    assert str(copy / file) in said
    assert "sha256" in said


@pytest.mark.parametrize("file", KINDS[3:5])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_cut, id="cut"),
        pytest.param(_empty, id="empty"),
        pytest.param(Path.unlink, id="missing"),
        pytest.param(_make_a_folder, id="a folder"),
        pytest.param(_hide, id="unreadable"),
    ],
)
def test_a_damaged_file_is_named(copy: Path, file: str, damage: Callable[[Path], None]) -> None:
    damage(copy / file)
    assert str(copy / file) in failing("serve", copy, prefix=UNPRIVILEGED)


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        manifest = json.loads(text)
        change(manifest)
        return json.dumps(manifest)

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "[]", id="no object"),
        pytest.param(lambda text: text.replace('"', "\udcff", 1), id="not UTF-8"),
        pytest.param(_changed(lambda manifest: manifest.update(format_version=99)), id="another format version"),
        pytest.param(_changed(lambda manifest: manifest.pop("format_version")), id="no format version"),
        pytest.param(_changed(lambda manifest: manifest.pop("models")), id="no models"),
        pytest.param(_changed(lambda manifest: manifest.update(models=[])), id="models of another type"),
        pytest.param(_changed(lambda manifest: manifest["models"].clear()), id="of no model"),
        pytest.param(_changed(lambda manifest: manifest["models"]["BERTopic"].pop("files")), id="no files"),
    ],
)
def test_a_damaged_manifest_is_named(copy: Path, damage: Callable[[str], str]) -> None:
    manifest = copy / "manifest.json"
    damaged = damage(manifest.read_text(encoding="utf-8"))
    _replace(manifest, damaged.encode("utf-8", "surrogateescape"))
    assert str(manifest) in failing("serve", copy)


def test_a_checksum_that_is_not_the_files(copy: Path) -> None:
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["models"]["BERTopic"]["files"][KINDS[0]] = "0" * 64
    _replace(manifest, json.dumps(content).encode())
    said = failing("serve", copy)
    assert str(copy / KINDS[0]) in said
    assert "000000000000…" in said


def test_an_unreadable_folder_is_named(copy: Path) -> None:
    folder = copy / "BERTopic-umap" / "1"
    folder.chmod(0)
    try:
        assert str(folder) in failing("serve", copy, prefix=UNPRIVILEGED)
    finally:
        folder.chmod(0o755)


def test_a_read_only_repository_is_served_and_left_as_it_was(repository: Path, tmp_path: Path, trained: Any) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    paths = [copy, *sorted(copy.rglob("*"))]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with (
            serving(copy, prefix=UNPRIVILEGED) as server,
            TopicClient(server.address.grpc_url) as client,
        ):
            assert len(client.predict(trained.texts[:10])) == 10
        assert [copy, *sorted(copy.rglob("*"))] == paths
    finally:
        for path in paths:
            path.chmod(0o755)


def test_no_room_for_temporary_files(repository: Path) -> None:
    assert "temporary" in failing("serve", repository, prefix=("prlimit", "--fsize=0"))


@pytest.fixture(scope="module")
def pickled(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pickled") / "bertopic.pickle"
    trained.model.save(str(path), serialization="pickle", save_embedding_model=False)
    return path


def test_converting_onto_a_full_disk(pickled: Path, minilm: Path, tmp_path: Path) -> None:
    said = failing(
        "convert", pickled, "--embedder", minilm, "--out", tmp_path / "out", "--trust-pickle", "--seeds", "0",
        prefix=mounting(tmp_path, "1m"),
    )  # fmt: skip
    assert str(tmp_path) in said
    assert "No space left on device" in said


def test_converting_into_a_read_only_folder(pickled: Path, minilm: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    said = failing(
        "convert", pickled, "--embedder", minilm, "--out", tmp_path / "out", "--trust-pickle", "--seeds", "0",
        prefix=UNPRIVILEGED,
    )  # fmt: skip
    tmp_path.chmod(0o755)
    assert str(tmp_path) in said
    assert not list(tmp_path.iterdir())


def test_what_a_model_says_of_cuda_is_told_and_what_triton_says_without_a_gpu_is_not(copy: Path) -> None:
    model = copy / "BERTopic-umap" / "1" / "model.py"
    for file in (model, copy / "manifest.json"):
        _replace(file, file.read_bytes())
    rewrite(model, 'raise RuntimeError("CUDA device 0 was asked for")\n')
    said = failing("serve", copy)
    assert "RuntimeError: CUDA device 0 was asked for" in said
    assert "At:" not in said
    assert "pinned" not in said
    assert "CudaDriverHelper" not in said
