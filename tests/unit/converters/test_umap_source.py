"""What is taken from a fitted umap.UMAP, and which models are refused."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from bertopic_converters import _umap
from bertopic_converters._exceptions import UnsupportedModel
from bertopic_converters._umap import read_umap
from bertopic_engine import neighbors
from bertopic_engine.neighbors import ExactNeighbors, IndexNeighbors
from sklearn.decomposition import PCA
from umap import UMAP

DATA = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)


def fit(cls=UMAP, **options):
    return cls(n_neighbors=6, n_components=2, init="pca", n_epochs=10, metric="cosine", n_jobs=1, **options).fit(DATA)


@cache
def fitted():
    return fit(random_state=1)


def changed(**options):
    model = deepcopy(fitted())
    for name, value in options.items():
        setattr(model, name, value)
    return model


class OwnTransform(UMAP):
    def transform(self, X):
        return X


class Renamed(UMAP):
    pass


def test_the_parameters_are_those_of_the_model():
    model = changed(n_epochs=200, negative_sample_rate=7, repulsion_strength=2, _initial_alpha=0.5)

    transform = read_umap(model)

    p = transform.parameters
    assert (p.n_neighbors, p.a, p.b) == (6, model._a, model._b)
    assert (p.n_epochs, p.negative_sample_rate, p.repulsion_strength, p.initial_alpha) == (66, 7, 2, 0.5)
    assert (p.local_connectivity, p.disconnection_distance, p.layout) == (1.0, 2.0, "mean_field")
    assert (transform.dim, transform.n_components) == (8, 2)
    assert read_umap(changed(n_epochs=None)).parameters.n_epochs == 100
    assert read_umap(changed(_disconnection_distance=np.inf)).parameters.disconnection_distance is None


@pytest.mark.parametrize(
    ("metric", "expected"), [("cosine", "cosine"), ("euclidean", "euclidean"), ("l2", "euclidean")]
)
def test_the_metric_is_that_of_the_model(metric, expected):
    x = DATA[:5] * 2

    places = read_umap(changed(metric=metric)).transform(x)

    nearest = ExactNeighbors(DATA, expected).query(x, 6)
    np.testing.assert_array_equal(places, read_umap(fitted()).layout(*nearest))


def test_the_random_state_follows_the_seed():
    seeded = read_umap(changed(transform_seed=3)).parameters.rng_state

    assert seeded == read_umap(changed(transform_seed=3)).parameters.rng_state
    assert seeded != read_umap(fitted()).parameters.rng_state
    assert read_umap(changed(transform_seed=None)).parameters == read_umap(fitted()).parameters


def test_a_generator_of_the_model_is_left_as_it_is():
    generator = np.random.RandomState(3)

    first, second = (read_umap(changed(transform_seed=generator)).parameters.rng_state for _ in range(2))

    assert first == second == read_umap(changed(transform_seed=3)).parameters.rng_state


def test_large_models_get_an_index(monkeypatch):
    monkeypatch.setattr(neighbors, "EXACT_BELOW", 300)
    steps = []

    transform = read_umap(fitted(), progress=lambda done, total: steps.append((done, total)))

    assert isinstance(transform.neighbors, IndexNeighbors)
    assert steps[-1] == (300, 300)
    assert isinstance(read_umap(fitted(), exact_neighbors=True).neighbors, ExactNeighbors)


def test_models_that_an_index_serves_badly_stay_exact(monkeypatch):
    monkeypatch.setattr(neighbors, "EXACT_BELOW", 300)
    monkeypatch.setattr(_umap, "_RECALL", 1.1)

    assert isinstance(read_umap(fitted()).neighbors, ExactNeighbors)


def test_a_subclass_with_the_same_transform_is_a_umap():
    assert read_umap(fit(Renamed, random_state=1)).n_components == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PCA(2), r"sklearn\.decomposition\._pca\.PCA; only umap\.UMAP"),
        (OwnTransform(), "OwnTransform; only umap"),
        (UMAP(), "has not been fitted"),
    ],
    ids=["another-class", "own-transform", "not-fitted"],
)
def test_another_model_is_refused(model, message):
    with pytest.raises(UnsupportedModel, match=message):
        read_umap(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"densmap": True}, "densmap=True"),
        ({"metric": "manhattan"}, "metric is 'manhattan'; supported are cosine, euclidean, l2"),
        ({"metric": np.dot}, "metric is .*dot.*; supported are"),
        ({"output_metric": "haversine"}, "output_metric is 'haversine'"),
        ({"_sparse_data": True}, "sparse matrix"),
        ({"_raw_data": DATA[:1]}, "single sample"),
        ({"n_epochs": 2}, "n_epochs is 2"),
        ({"n_epochs": [100, 200]}, r"n_epochs is \[100, 200\]"),
        ({"negative_sample_rate": 0}, "negative_sample_rate is 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_served_is_refused_by_name(options, message):
    with pytest.raises(UnsupportedModel, match=message):
        read_umap(changed(**options))


def test_a_model_without_an_embedding_is_refused_by_name():
    with pytest.raises(UnsupportedModel, match="transform_mode is 'graph'"):
        read_umap(fit(transform_mode="graph"))
