"""Clients while the model that they ask is replaced by another version."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import NotReady, TopicClient
from bertopic_server import Address, TritonServer

MODELS = ("bert", "tokenizer", "embedder", "umap", "hdbscan", "inference", "text")


@pytest.fixture
def own_repository(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


@pytest.fixture
def own_server(own_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(own_repository, Address.on_free_ports()) as running:
        yield running


def add_version(repository: Path, version: str) -> None:
    """The same model once more, whose labels say which version they are of."""
    for folder in repository.glob("BERTopic-*"):
        shutil.copytree(folder / "1", folder / version)
    path = repository / "BERTopic-topics" / version / "topics.json"
    topics = json.loads(path.read_text(encoding="utf-8"))
    for topic in topics:
        topic["label"] = f"version {version}: {topic['label']}"
    path.write_text(json.dumps(topics), encoding="utf-8")


def load(server: TritonServer, model: str) -> None:
    server._admin(f"repository/models/BERTopic-{model}/load")


def keep_both_versions_of_topics(repository: Path) -> None:
    config = repository / "BERTopic-topics" / "config.pbtxt"
    if "version_policy" not in (text := config.read_text()):
        config.write_text(text + "\nversion_policy { latest { num_versions: 2 } }\n")


@pytest.mark.parametrize(
    ("scheme", "keeps_both"),
    [
        pytest.param("grpc", True, id="grpc, old topics kept"),
        pytest.param("http", False, id="http, old topics gone"),
    ],
)
def test_labels_are_of_the_version_that_answered(
    scheme: str, keeps_both: bool, own_server: TritonServer, own_repository: Path, trained: Any
) -> None:
    url = getattr(own_server.address, f"{scheme}_url")
    rows = trained.embeddings[:50]
    with TopicClient(url) as client, TopicClient(url, timeout=60, retries=50) as late:
        old = client.predict(rows)
        assert old.model_version == "1"
        add_version(own_repository, "2")
        if keeps_both:
            keep_both_versions_of_topics(own_repository)
        # The topics first, so that whatever a new version answers has its labels.
        load(own_server, "topics")
        if keeps_both:
            between = late.predict(rows)
            assert (between.model_version, between.labels) == ("1", old.labels)
        else:
            with TopicClient(url, retries=1) as hasty, pytest.raises(NotReady, match="version 1"):
                hasty.predict(rows)
        for model in MODELS:
            load(own_server, model)
        deadline = time.monotonic() + 30
        while (new := late.predict(rows)).model_version != "2":
            assert time.monotonic() < deadline
        again = client.predict(rows)
    for prediction in (new, again):
        assert prediction.model_version == "2"
        assert prediction.labels == [f"version 2: {label}" for label in old.labels]
        assert prediction.topics.tolist() == old.topics.tolist()
    assert not old.labels[0].startswith("version")


def test_servers_of_two_versions_give_predictions_of_one(own_repository: Path, server: Any, trained: Any) -> None:
    for folder in own_repository.glob("BERTopic-*"):
        (folder / "1").rename(folder / "7")
        shutil.copytree(folder / "7", folder / "1")
    labels = own_repository / "BERTopic-topics" / "7" / "topics.json"
    topics = json.loads(labels.read_text(encoding="utf-8"))
    labels.write_text(json.dumps([{**topic, "label": f"seven: {topic['label']}"} for topic in topics]))
    rows = trained.embeddings
    with TritonServer(own_repository, Address.on_free_ports()) as newer:
        urls = [server.grpc_url, newer.address.grpc_url]
        with TopicClient(urls) as client:
            large = client.predict(rows)
            small = [client.predict(rows[:3]) for _ in range(10)]
    assert large.model_version == "7"
    assert all(label.startswith("seven") for label in large.labels)
    assert {prediction.model_version for prediction in small} == {"1", "7"}
    for prediction in small:
        assert {label.startswith("seven") for label in prediction.labels} == {prediction.model_version == "7"}
