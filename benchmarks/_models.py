"""The models that the engine is measured on: trained on real texts, or synthetic and as large as wanted.

Each is made once, in a process of its own, and kept on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

N_NEIGHBORS = 15
MIN_CLUSTER_SIZE = 10
HELD_OUT = 2_000
STACKOVERFLOW, BANKING77, DOCSTRINGS = "stackoverflow", "banking77", "docstrings"
DIM = 384
_STACKOVERFLOW_TRAINING = 18_000

# Shape of the synthetic embeddings, after MiniLM embeddings of questions. At 18,000 rows of each: distance of the
# 15th neighbour over that of a random pair 0.70 and 0.70, local intrinsic dimension 22 and 17, recall of an HNSW
# index at efSearch 32 0.98 and 0.97.
_LATENT, _DECAY, _WITHIN, _NOISE, _ROWS_PER_THEME = 48, 0.5, 0.75, 0.45, 16
# Shape of the synthetic reduced coordinates, as UMAP leaves them: topics on a surface of few dimensions, each a
# small blob of fewer, and rows scattered between topics.
_SURFACE, _BLOB, _SCATTERED, _TIGHTNESS = 5, 3, 0.15, 0.09
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class RealModel:
    """A BERTopic trained on texts, what it was converted to, and rows that it was not trained on."""

    name: str
    folder: Path

    @property
    def pickle(self) -> Path:
        """BERTopic's own, without its embedding model."""
        return self.folder / "bertopic.pickle"

    @property
    def repository(self) -> Path:
        """What `convert` made of it."""
        return self.folder / "model_repository"

    @property
    def held_out(self) -> Path:
        """Embeddings, float32 [n, 384]."""
        return self.folder / "held_out.npy"

    def texts(self) -> list[str]:
        """The texts behind `held_out`."""
        texts: list[str] = json.loads((self.folder / "held_out.json").read_text(encoding="utf-8"))
        return texts


@dataclass(frozen=True)
class SyntheticModel:
    """Embeddings, reduced coordinates that are consistent with them, and an HDBSCAN fitted on the latter."""

    training_rows: int
    topics: int
    """As intended; HDBSCAN finds about as many."""
    components: int
    parent: Path

    @property
    def folder(self) -> Path:
        """Holds all files of this model."""
        return self.parent / f"{self.training_rows}_rows_{self.topics}_topics_{self.components}_components"

    @property
    def held_out(self) -> Path:
        """Embeddings, float32 [2000, 384]."""
        return self.folder / "held_out.npy"

    def load(self) -> Any:
        """The `bertopic_engine.TopicModel`."""
        from bertopic_engine import TopicModel, TopicPredictor, UmapTransform

        return TopicModel(UmapTransform.load(self.folder / "umap"), TopicPredictor.load(self.folder / "topics"))

    def clusterer(self) -> Any:
        """The fitted `hdbscan.HDBSCAN`."""
        import joblib

        return joblib.load(self.folder / "hdbscan.joblib")


def real_models(
    names: tuple[str, ...], folder: Path, texts_folder: Path, most_training_rows: int | None, console: Console
) -> dict[str, RealModel]:
    """Models by name, trained and converted where they are missing; without those whose texts are."""
    models = {}
    for name in names:
        model = RealModel(name, folder / name)
        if not model.repository.is_dir():
            path = texts_folder / f"{name}.jsonl"
            if name != DOCSTRINGS and not path.is_file():
                console.print(f"{name}: skipped, {path} does not exist (see --texts-folder)")
                continue
            console.print(f"{name}: training and converting")
            # Libraries that only training needs stay out of the process that measures.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                process.submit(_train_and_convert, model, path, most_training_rows).result()
        models[name] = model
    return models


def distinct_texts(path: Path, column: str = "text") -> list[str]:
    """Of a .txt, .jsonl or .csv file, without repeats, in a random order that is always the same."""
    from bertopic_server._texts import read_texts

    texts = list(dict.fromkeys(read_texts(path, column)))
    np.random.default_rng(0).shuffle(texts)
    return texts


def make_synthetic(models: list[SyntheticModel], console: Console) -> None:
    """Make those that are missing, as many at a time as there are cores: each takes one."""
    missing = [model for model in models if not model.folder.is_dir()]
    if not missing:
        return
    console.print(f"making {len(missing)} synthetic models")
    largest_first = sorted(missing, key=lambda model: -model.training_rows)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as processes:
        made = {processes.submit(_make, model): model for model in largest_first}
        for done in as_completed(made):
            done.result()
            console.print(f"made {made[done].folder.name}", highlight=False)


def _train_and_convert(model: RealModel, path: Path, most_training_rows: int | None) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from bertopic import BERTopic
    from bertopic_converters import convert
    from bertopic_server._demo import _embedder
    from hdbscan import HDBSCAN
    from sentence_transformers import SentenceTransformer
    from sklearn.feature_extraction.text import CountVectorizer
    from umap import UMAP

    texts = _texts(path, most_training_rows)
    held_out = len(texts) - _STACKOVERFLOW_TRAINING if model.name == STACKOVERFLOW else HELD_OUT
    training = texts[held_out:][:most_training_rows]
    encoder = SentenceTransformer(str(_embedder()), device="cpu")
    embeddings = encoder.encode([*texts[:held_out], *training], show_progress_bar=False).astype(np.float32)
    trained = BERTopic(
        umap_model=UMAP(n_neighbors=N_NEIGHBORS, n_components=5, min_dist=0.0, metric="cosine"),
        hdbscan_model=HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, prediction_data=True),
        vectorizer_model=CountVectorizer(stop_words="english"),
    ).fit(training, embeddings[held_out:])
    model.folder.mkdir(parents=True, exist_ok=True)
    np.save(model.held_out, embeddings[:held_out])
    (model.folder / "held_out.json").write_text(json.dumps(texts[:held_out]), encoding="utf-8")
    trained.save(str(model.pickle), serialization="pickle", save_embedding_model=False)
    convert(model.pickle, model.repository, embedder=str(_embedder()), trust_pickle=True)


def _texts(path: Path, most_training_rows: int | None) -> list[str]:
    """Without repeats, in random order; of docstrings no more than asked for, since finding all takes a minute."""
    from bertopic_server._demo.corpus import docstring_summaries

    if path.stem == DOCSTRINGS:
        limit = None if most_training_rows is None else HELD_OUT + most_training_rows
        return docstring_summaries(Path(np.__file__).parents[1], limit)
    return distinct_texts(path)


def _make(model: SyntheticModel) -> None:
    import joblib
    from bertopic_converters._hdbscan import read_hdbscan
    from bertopic_converters._umap import read_umap
    from bertopic_engine import TopicPredictor
    from bertopic_engine.repulsion import summarize
    from hdbscan import HDBSCAN

    unfinished = model.folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("umap", "topics"):
        (unfinished / part).mkdir(parents=True)
    embeddings, reduced = synthesize(model)
    held_out, embeddings, reduced = embeddings[:HELD_OUT], embeddings[HELD_OUT:], reduced[HELD_OUT:]
    umap, _ = summarize(read_umap(_as_if_fitted(embeddings, reduced)), embeddings)
    umap.save(unfinished / "umap")
    np.save(unfinished / "held_out.npy", held_out)
    del embeddings, held_out

    clusterer = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, prediction_data=True, core_dist_n_jobs=1).fit(reduced)
    hdbscan = read_hdbscan(clusterer)
    TopicPredictor(hdbscan, {cluster: cluster for cluster in range(hdbscan.n_clusters)}).save(unfinished / "topics")
    joblib.dump(clusterer, unfinished / "hdbscan.joblib")
    unfinished.rename(model.folder)


def synthesize(model: SyntheticModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings [n, 384] and reduced coordinates [n, components], held-out rows first.

    A theme is a Gaussian in a latent space whose leading dimensions matter most. Embeddings are a smooth
    function of the latent row, plus noise, and do not depend on the number of topics. A topic holds the themes
    nearest to one of them in the leading dimensions; in the reduced space its rows lie in a blob around that one.
    So rows that are near as embeddings are near there, too.
    """
    from scipy.spatial import KDTree

    rng = np.random.default_rng(0)
    n_rows = HELD_OUT + model.training_rows
    themes = rng.standard_normal((n_rows // _ROWS_PER_THEME, _LATENT), np.float32)
    importance = np.arange(1, _LATENT + 1, dtype=np.float32)[:, np.newaxis] ** -_DECAY
    lift = rng.standard_normal((_LATENT, DIM), np.float32) * importance / np.linalg.norm(importance)
    surface = rng.standard_normal((_SURFACE, model.components), np.float32) / np.sqrt(np.float32(_SURFACE))
    blob = rng.standard_normal((_BLOB, model.components), np.float32) / np.sqrt(np.float32(_BLOB))
    # The more topics fill the same space, the smaller is each.
    blob *= np.float32(_TIGHTNESS * model.topics ** (-1 / _SURFACE))
    leading = themes[:, :_SURFACE]
    topic_places = leading[KDTree(leading[: model.topics]).query(leading)[1]] @ surface
    theme_of = rng.permutation(n_rows) % len(themes)

    embeddings = np.empty((n_rows, DIM), np.float32)
    reduced = np.empty((n_rows, model.components), np.float32)
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        own = theme_of[rows]
        n = len(own)
        other = rng.integers(0, len(themes), n)
        share = np.where(rng.random(n) < _SCATTERED, rng.random(n), 1.0).astype(np.float32)[:, np.newaxis]
        offsets = rng.standard_normal((n, _LATENT), np.float32)
        latent = share * themes[own] + (1 - share) * themes[other] + np.float32(_WITHIN) * offsets
        reduced[rows] = share * topic_places[own] + (1 - share) * topic_places[other] + offsets[:, :_BLOB] @ blob
        lifted = np.tanh(latent @ lift)
        lifted += np.float32(_NOISE) * lifted.std() * rng.standard_normal(lifted.shape, np.float32)
        embeddings[rows] = lifted / np.linalg.norm(lifted, axis=1, keepdims=True)
    return embeddings, reduced


def _as_if_fitted(embeddings: NDArray[np.float32], reduced: NDArray[np.float32]) -> Any:
    """A `umap.UMAP` with what conversion reads from a fitted one."""
    from umap import UMAP
    from umap.umap_ import DISCONNECTION_DISTANCES, find_ab_params

    model = UMAP(n_neighbors=N_NEIGHBORS, n_components=reduced.shape[1], min_dist=0.0, metric="cosine")
    model._raw_data, model.embedding_ = embeddings, reduced
    model._a, model._b = find_ab_params(model.spread, model.min_dist)
    model._n_neighbors, model._initial_alpha, model._sparse_data = N_NEIGHBORS, model.learning_rate, False
    model._disconnection_distance = DISCONNECTION_DISTANCES.get(model.metric, np.inf)
    return model
