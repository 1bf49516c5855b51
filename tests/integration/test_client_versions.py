"""Clients while the model that they ask is replaced by another version."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertopic_client import NotReady, TopicClient
from bertopic_engine.storage import sha256
from bertopic_server import Address, TritonServer
from bertopic_server._rollout import roll_out


@pytest.fixture
def own_server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, Address.on_free_ports()) as running:
        yield running


@pytest.fixture
def second(repository: Path, tmp_path: Path) -> Path:
    """The same model once more, whose labels say which version they are of."""
    copy = Path(shutil.copytree(repository, tmp_path / "second"))
    path = copy / "BERTopic-topics" / "1" / "topics.json"
    topics = json.loads(path.read_text(encoding="utf-8"))
    for topic in topics:
        topic["label"] = f"version 2: {topic['label']}"
    path.write_text(json.dumps(topics), encoding="utf-8")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["models"]["BERTopic"]["files"]["BERTopic-topics/1/topics.json"] = sha256(path)
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def keep_newest_topics_only(server: TritonServer) -> None:
    config = server.workspace.models / "BERTopic-topics" / "config.pbtxt"
    config.write_text(re.sub(r"version_policy.*", "", config.read_text()))


@pytest.mark.parametrize(
    ("scheme", "keeps_both"),
    [
        pytest.param("grpc", True, id="grpc, old topics kept"),
        pytest.param("http", False, id="http, old topics gone"),
    ],
)
def test_labels_are_of_the_version_that_answered(
    scheme: str, keeps_both: bool, own_server: TritonServer, second: Path, trained: Any
) -> None:
    url = getattr(own_server.address, f"{scheme}_url")
    rows = trained.embeddings[:50]
    with TopicClient(url) as client, TopicClient(url, timeout=60, retries=50) as late:
        old = client.predict(rows)
        assert old.model_version == "1"
        for model in own_server.triton_models:
            own_server.workspace.place(model, second, 2)
        if not keeps_both:
            keep_newest_topics_only(own_server)
        # The topics first, so that whatever a new version answers has its labels.
        own_server.load("BERTopic-topics")
        if keeps_both:
            between = late.predict(rows)
            assert (between.model_version, between.labels) == ("1", old.labels)
        else:
            with TopicClient(url, retries=1) as hasty, pytest.raises(NotReady, match="version 1"):
                hasty.predict(rows)
        for model in own_server.triton_models:
            own_server.load(model)
        deadline = time.monotonic() + 30
        while (new := late.predict(rows)).model_version != "2":
            assert time.monotonic() < deadline
        again = client.predict(rows)
    for prediction in (new, again):
        assert prediction.model_version == "2"
        assert prediction.labels == [f"version 2: {label}" for label in old.labels]
        assert prediction.topics.tolist() == old.topics.tolist()
    assert not old.labels[0].startswith("version")


def test_servers_of_two_versions_give_predictions_of_one(
    own_server: TritonServer, second: Path, server: Any, trained: Any
) -> None:
    roll_out(own_server, second, lambda step: None)
    rows = trained.embeddings
    with TopicClient([server.grpc_url, own_server.address.grpc_url]) as client:
        large = client.predict(rows)
        small = [client.predict(rows[:3]) for _ in range(10)]
    assert large.model_version == "2"
    assert all(label.startswith("version 2") for label in large.labels)
    assert {prediction.model_version for prediction in small} == {"1", "2"}
    for prediction in small:
        assert {label.startswith("version 2") for label in prediction.labels} == {prediction.model_version == "2"}
