"""The client against a running server, from this environment and from one that holds nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bertopic_client import InvalidInput, TopicClient, UnknownModel

ROOT = Path(__file__).parents[2]
# More than fit into one request.
TEXTS = [f"{word} number {i}" for i in range(30) for word in ("graph", "größe 🙂", "sparse matrix", "", "a\0b")]

SCRIPT = """
import asyncio, importlib.util, json, sys
import numpy as np
from bertopic_client import AsyncTopicClient, TopicClient

async def predict(url, texts):
    async with AsyncTopicClient(url) as client:
        return await client.predict(texts)

texts = json.load(sys.stdin)
absent = ["torch", "numba", "bertopic", "onnxruntime", "umap", "hdbscan", "sklearn", "transformers"]
answers = {"present": [name for name in absent if importlib.util.find_spec(name)]}
for url in sys.argv[1:]:
    with TopicClient(url) as client:
        embeddings = client.embed(texts)
        answers[url] = {
            "texts": [list(row) for row in client.predict(texts)],
            "asyncio": [list(row) for row in asyncio.run(predict(url, texts))],
            "embeddings": [list(row) for row in client.predict(embeddings)],
            "topics": [topic._asdict() for topic in client.topics()],
        }
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def lone_python(tmp_path_factory):
    """The interpreter of a clean environment with this project installed, without extras."""
    environment = tmp_path_factory.mktemp("environment")
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
    return python


@pytest.fixture(params=["grpc", "http"])
def client(request, server):
    with TopicClient(getattr(server, f"{request.param}_url")) as client:
        yield client


def test_the_bare_install_predicts_what_this_environment_predicts(lone_python, server):
    urls = [server.grpc_url, server.http_url]
    # Isolated: neither this folder nor PYTHONPATH may lend it a package.
    command = [lone_python, "-I", "-c", SCRIPT, *urls]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["present"] == []
    with TopicClient(server.grpc_url) as client:
        here = [list(row) for row in client.predict(TEXTS)]
        topics = json.loads(json.dumps([topic._asdict() for topic in client.topics()]))
    for url in urls:
        assert answers[url] == {"texts": here, "asyncio": here, "embeddings": here, "topics": topics}


def test_a_large_input_keeps_its_order(client):
    whole = client.predict(TEXTS, outputs=["membership", "reduced", "embeddings"])
    assert len(whole) == len(TEXTS)
    for i in range(0, len(TEXTS), 37):
        alone = client.predict([TEXTS[i]], outputs=["membership", "reduced", "embeddings"])
        assert alone[0] == whole[i]
        for output in ("membership", "reduced", "embeddings"):
            np.testing.assert_array_equal(getattr(alone, output), getattr(whole, output)[i : i + 1])


def test_predictions_carry_the_labels_of_the_topics(client):
    label_of = {topic.id: topic.label for topic in client.topics()}
    prediction = client.predict(TEXTS)
    assert prediction.labels == [label_of[topic] for topic in prediction.topics]


def test_a_bad_row_is_named_by_its_place_in_the_input(client):
    embeddings = np.tile(client.embed(TEXTS), (20, 1))
    embeddings[2777] = np.nan
    with pytest.raises(InvalidInput, match=r"\b2777\b") as refused:
        client.predict(embeddings)
    assert refused.value.attempts == 1
    assert len(client.predict(embeddings[:2777])) == 2777


def test_embeddings_of_another_dimension_are_refused_with_both_numbers(client):
    embeddings = client.embed(TEXTS[:2])
    dim = embeddings.shape[1]
    with pytest.raises(InvalidInput, match=rf"{dim}.*{dim - 1}"):
        client.predict(embeddings[:, :-1])


def test_an_unknown_model(client, server):
    with TopicClient(server.http_url, model="Nobody") as stranger:
        assert not stranger.is_ready()
        for use in (stranger.topics, lambda: stranger.predict(["a"]), lambda: stranger.embed(["a"])):
            with pytest.raises(UnknownModel, match="Nobody"):
                use()
    assert client.is_ready()
