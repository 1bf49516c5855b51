"""The wire format of existing deployments, sent with curl itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertopic_client import TopicClient

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str, prefix: str = "") -> Any:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=True, timeout=60)
    return json.loads(prefix + done.stdout.decode())


def test_binary_post_of_one_row(server: Any, trained: Any, tmp_path: Path) -> None:
    header = json.dumps(
        {
            "inputs": [
                {"name": "IN", "shape": [1, 384], "datatype": "FP32", "parameters": {"binary_data_size": 384 * 4}}
            ],
            "outputs": [{"name": "OUT", "parameters": {"binary_data": False}}],
        }
    ).encode()
    body = tmp_path / "body"
    body.write_bytes(header + trained.embeddings[0].astype("<f4").tobytes())
    answer = curl(
        "-X", "POST", f"{server.http_url}/v2/models/BERTopic-inference/versions/1/infer",
        "-H", f"Inference-Header-Content-Length: {len(header)}",
        "-H", "Content-Type: application/octet-stream",
        "--data-binary", f"@{body}",
    )  # fmt: skip
    assert [output["name"] for output in answer["outputs"]] == ["OUT"]
    assert answer["outputs"][0]["shape"] == [1, 1]
    with TopicClient(server.grpc_url) as client:
        assert answer["outputs"][0]["data"] == client.predict(trained.embeddings[:1]).topics.tolist()


def test_json_post_of_texts(server: Any, trained: Any) -> None:
    texts = trained.texts[:3]
    request = {
        "inputs": [{"name": "TEXT", "shape": [3, 1], "datatype": "BYTES", "data": texts}],
        "outputs": [{"name": "OUT"}, {"name": "PROBABILITY"}],
    }
    answer = curl(f"{server.http_url}/v2/models/BERTopic-text/infer", "-d", json.dumps(request))
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert sorted(outputs) == ["OUT", "PROBABILITY"]
    with TopicClient(server.http_url) as client:
        expected = client.predict(texts)
    assert outputs["OUT"] == expected.topics.tolist()
    np.testing.assert_allclose(outputs["PROBABILITY"], expected.probabilities, rtol=1e-6)


def test_umap_and_hdbscan_one_after_the_other(server: Any, trained: Any) -> None:
    def post(model: str, name: str, row: list[float]) -> Any:
        tensor = {"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": row}
        answer = curl(f"{server.http_url}/v2/models/{model}/infer", "-d", json.dumps({"inputs": [tensor]}))
        return {output["name"]: output["data"] for output in answer["outputs"]}

    reduced = post("BERTopic-umap", "IN", trained.embeddings[0].tolist())["REDUCED"]
    outputs = post("BERTopic-hdbscan", "REDUCED", reduced)
    with TopicClient(server.grpc_url) as client:
        assert outputs["OUT"] == client.predict(trained.embeddings[:1]).topics.tolist()


def test_topics_for_an_empty_request_are_all_of_them(server: Any, trained: Any) -> None:
    request = {"inputs": [{"name": "TOPIC", "shape": [0], "datatype": "INT32", "data": []}]}
    answer = curl(f"{server.http_url}/v2/models/BERTopic-topics/infer", "-d", json.dumps(request))
    records = [json.loads(record) for record in answer["outputs"][0]["data"]]
    assert {record["id"] for record in records} == set(trained.model.get_topics())


@pytest.mark.parametrize(("n_ids", "status"), [(1024, "200"), (1025, "400")])
def test_topics_of_a_request_are_bounded(server: Any, n_ids: int, status: str) -> None:
    ids = {"name": "TOPIC", "shape": [n_ids], "datatype": "INT32", "data": [0] * n_ids}
    url = f"{server.http_url}/v2/models/BERTopic-topics/infer"
    answer = curl(url, "-w", ",%{http_code}]", "-d", json.dumps({"inputs": [ids]}), prefix="[")
    assert str(answer[1]) == status
    if status == "400":
        assert answer[0]["error"].endswith("1025 topics, expected at most 1024. An empty TOPIC asks for all.")
    else:
        assert len(answer[0]["outputs"][0]["data"]) == n_ids


@pytest.mark.parametrize("protocol", ["repository/models/BERTopic-umap/unload", "systemsharedmemory/region/x/register"])
def test_admin_protocols_are_closed(server: Any, protocol: str) -> None:
    answer = curl("-X", "POST", f"{server.http_url}/v2/{protocol}", "-d", "{}")
    assert "restricted" in answer["error"]
