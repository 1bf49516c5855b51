"""The `mean_field` layout against its equations in double precision, and against what umap-learn does on average."""

import threading
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from bertopic_converters._umap import read_umap
from bertopic_engine import UmapTransform
from bertopic_engine.neighbors import ExactNeighbors
from bertopic_engine.umap import UmapParameters
from scipy.sparse import csr_matrix
from umap import UMAP
from umap.umap_ import (
    compute_membership_strengths,
    find_ab_params,
    init_graph_transform,
    smooth_knn_dist,
)

CUT_OFF = 4.0
SEEDS = range(20)


def blobs(n, dim, n_blobs, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(n_blobs, dim))
    return (1.5 * centers[rng.integers(n_blobs, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


class Problem(NamedTuple):
    """What one layout is about, in double precision."""

    transform: UmapTransform
    indices: np.ndarray
    distances: np.ndarray
    strengths: np.ndarray
    starts: np.ndarray


def problem(transform, x):
    """With strengths and starts from umap-learn's own functions, one row at a time."""
    p = transform.parameters
    indices, distances = transform.neighbors.query(x, p.n_neighbors)
    strengths, starts = [], []
    for row in range(len(x)):
        found = indices[row : row + 1], distances[row : row + 1]
        sigmas, rhos = smooth_knn_dist(
            found[1], float(p.n_neighbors), local_connectivity=max(0.0, p.local_connectivity - 1)
        )
        heads, tails, values, _ = compute_membership_strengths(*found, sigmas, rhos, bipartite=True)
        graph = csr_matrix((values, (heads, tails)), shape=(1, len(transform.placed)))
        strengths.append(values.astype(np.float64))
        starts.append(init_graph_transform(graph, transform.placed)[0])
    relative = np.array(strengths) / np.max(strengths, axis=1, keepdims=True)
    relative[relative < 1 / p.n_epochs] = 0
    return Problem(transform, indices, distances, relative, np.array(starts, np.float64))


def attractions(y, p):
    """p_j A(e_j - y), float64 [m, k, n_components]"""
    a, b = p.transform.parameters.a, p.transform.parameters.b
    difference = p.transform.placed.astype(np.float64)[p.indices] - y[:, np.newaxis]
    squared = (difference**2).sum(axis=2, keepdims=True)
    slope = 2 * a * b * np.maximum(squared, 1e-12) ** (b - 1) / (1 + a * squared**b)
    return p.strengths[:, :, np.newaxis] * slope * difference


def repulsions(y, p, cut_off):
    """r (sum_j p_j) F(y), float64 [m, n_components]"""
    parameters = p.transform.parameters
    difference = y[:, np.newaxis] - p.transform.placed.astype(np.float64)
    squared = (difference**2).sum(axis=2, keepdims=True)
    slope = 2 * parameters.repulsion_strength * parameters.b
    slope = slope / ((0.001 + squared) * (1 + parameters.a * squared**parameters.b))
    force = np.clip(slope * difference, -cut_off, cut_off).mean(axis=1)
    return parameters.negative_sample_rate * p.strengths.sum(axis=1, keepdims=True) * force


def residuals(y, p, cut_off=CUT_OFF):
    """What is left at `y` of pulls and pushes, relative to the pulls' lengths."""
    pulls = attractions(y, p)
    left = np.linalg.norm(pulls.sum(axis=1) + repulsions(y, p, cut_off), axis=1)
    return left / np.linalg.norm(pulls, axis=2).sum(axis=1)


def flow(p, cut_off=CUT_OFF, n_steps=1_000, step=0.05):
    """Where the expected gradient carries the rows from their starts in small steps."""
    y = p.starts.copy()
    # Along the same path, whatever a row's strengths sum to.
    scale = step / p.strengths.sum(axis=1, keepdims=True)
    for _ in range(n_steps):
        y += scale * (attractions(y, p).sum(axis=1) + repulsions(y, p, cut_off))
    return y


def places(p):
    return p.transform.layout(p.indices, p.distances)


def apart(one, other):
    return np.linalg.norm(one - other, axis=1)


@cache
def fit(n, dim, n_blobs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        defaults = {"n_components": 5, "min_dist": 0.0, "init": "pca", "random_state": 1, "n_jobs": 1}
        return UMAP(**defaults | options).fit(blobs(n, dim, n_blobs))


MODELS = {
    "cosine": {"metric": "cosine"},
    "euclidean": {"metric": "euclidean", "n_components": 2, "min_dist": 0.1},
}


@cache
def fitted(name):
    """300 training rows in six blobs, and 60 new ones."""
    model = fit(300, 16, 6, **MODELS[name])
    return model, problem(read_umap(model), blobs(60, 16, 6, seed=1))


@cache
def runs_of_umap_learn(name):
    """One run of umap-learn for each seed, float32 [seeds, m, n_components]."""
    model, _ = fitted(name)
    x = blobs(60, 16, 6, seed=1)
    places, before = [], model.transform_seed
    for model.transform_seed in SEEDS:
        places.append(model.transform(x))
    model.transform_seed = before
    return np.stack(places)


@pytest.mark.parametrize("name", MODELS)
def test_pulls_and_pushes_cancel_where_a_row_comes_to_rest(name):
    _, p = fitted(name)

    left = residuals(places(p), p)

    assert np.median(left) < 5e-3
    assert np.quantile(left, 0.95) < 1e-2
    assert np.median(residuals(p.starts, p)) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_rows_come_to_rest_where_small_steps_lead(name):
    _, p = fitted(name)

    error = apart(places(p), flow(p))

    # A row between two groups of neighbours has several places of rest; which one a method finds is its own. Where
    # pulls and pushes hardly change along a line, it may stop short of the end.
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.85) < 0.06


@pytest.mark.parametrize("name", MODELS)
def test_places_are_nearer_to_the_mean_of_runs_than_a_run_is(name):
    runs = runs_of_umap_learn(name)
    others = (runs.sum(axis=0) - runs) / (len(runs) - 1)
    single = np.linalg.norm(runs - others, axis=2)

    error = apart(places(fitted(name)[1]), runs.mean(axis=0))

    assert np.median(error) < 0.75 * np.median(single)
    assert error.mean() < 0.8 * single.mean()


def test_pushes_that_are_not_cut_off_lead_astray():
    # In a plane, where points lie close enough.
    _, p = fitted("euclidean")
    mean = runs_of_umap_learn("euclidean").mean(axis=0)

    with_cut_off, without = (apart(flow(p, cut_off), mean) for cut_off in (CUT_OFF, np.inf))

    assert np.median(with_cut_off) < 0.8 * np.median(without)
    assert with_cut_off.mean() < 0.8 * without.mean()
    assert apart(places(p), mean).mean() < 0.9 * without.mean()


@pytest.mark.parametrize("min_dist", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("n", "n_blobs"), [(20, 1), (60, 1), (100, 5)], ids=["20", "60", "100 in blobs"])
def test_rows_of_tiny_models_come_to_rest(n, n_blobs, min_dist):
    """Few points push hard and change much from place to place: whole steps would overshoot."""
    model = fit(n, 8, n_blobs, min_dist=min_dist, n_neighbors=10, n_epochs=100)
    p = problem(read_umap(model), blobs(24, 8, n_blobs, seed=1))

    found = places(p)

    assert np.isfinite(found).all()
    assert np.quantile(residuals(found, p), 0.9) < 2e-2
    # Places of rest are many here. Small steps from the one that was found lead nowhere else.
    onwards = flow(p._replace(starts=found.astype(np.float64)), n_steps=500)
    assert np.median(apart(found, onwards)) < 0.05
    assert np.quantile(apart(found, onwards), 0.75) < 0.15
    assert np.median(apart(found, flow(p, n_steps=1_000, step=0.2))) < 0.15


def synthetic(data, embedding, min_dist=0.1, **parameters):
    """A transform without a fit."""
    metric = parameters.pop("metric", "euclidean")
    a, b = find_ab_params(1.0, min_dist)
    defaults = {"n_neighbors": 15, "a": a, "b": b, "n_epochs": 100, "rng_state": (1, 2, 3)}
    return UmapTransform(embedding, ExactNeighbors(data, metric), UmapParameters(**defaults | parameters))


def projected(n, n_components=3, **parameters):
    """Placed by the first coordinates of the data, and new rows."""
    data = blobs(n, 12, 4)
    return problem(synthetic(data, data[:, :n_components] * 1.5, **parameters), blobs(16, 12, 4, seed=1))


OPTIONS = {
    "n_neighbors=2": {"n_neighbors": 2},
    "n_neighbors=16": {"n_neighbors": 16},
    "n_neighbors=17": {"n_neighbors": 17},
    "n_neighbors=33": {"n_neighbors": 33},
    "n_components=2": {"n_components": 2},
    "n_components=5": {"n_components": 5},
    "n_components=12": {"n_components": 12},
    "metric=cosine": {"metric": "cosine"},
    "negative_sample_rate=1": {"negative_sample_rate": 1.0},
    "negative_sample_rate=12.5": {"negative_sample_rate": 12.5},
    "repulsion_strength=0": {"repulsion_strength": 0.0},
    "repulsion_strength=3": {"repulsion_strength": 3.0},
    "local_connectivity=3.5": {"local_connectivity": 3.5},
    "n_epochs=5": {"n_epochs": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_layout_follows_the_options(options):
    p = projected(100, **options)

    found = places(p)

    assert np.quantile(residuals(found, p), 0.9) < 1e-2
    assert np.quantile(apart(found, flow(p, n_steps=500, step=0.2)), 0.8) < 0.05


def test_rows_on_a_line_come_to_rest():
    """There every point is a wall, and which walls a row passes depends on its steps."""
    p = projected(100, n_components=1)

    found = places(p)

    assert np.quantile(residuals(found, p), 0.9) < 1e-2
    onwards = flow(p._replace(starts=found.astype(np.float64)), n_steps=500)
    assert np.quantile(apart(found, onwards), 0.9) < 0.02


def disagreement(y, p):
    """What the pulls are the gradient of, float64 [m]."""
    a, b = p.transform.parameters.a, p.transform.parameters.b
    squared = ((p.transform.placed.astype(np.float64)[p.indices] - y[:, np.newaxis]) ** 2).sum(axis=2)
    return (p.strengths * np.log1p(a * squared**b)).sum(axis=1)


def test_without_repulsion_rows_lie_where_they_agree_most_with_their_neighbors():
    p = projected(100, repulsion_strength=0.0)
    neighbors = p.transform.placed[p.indices]

    found = places(p)

    assert (found >= neighbors.min(axis=1) - 1e-3).all()
    assert (found <= neighbors.max(axis=1) + 1e-3).all()
    assert (disagreement(found, p) <= disagreement(p.starts, p) + 1e-4).all()
    for direction in np.concatenate([np.eye(3), -np.eye(3)]):
        assert (disagreement(found, p) <= disagreement(found + 0.1 * direction, p)).mean() > 0.95


@pytest.mark.parametrize("k", [15, 16, 17, 33])
def test_neighbors_that_are_not_there_change_nothing(k):
    p = projected(100, n_neighbors=k)
    wider = np.pad(p.indices, ((0, 0), (0, 40)), constant_values=-1)
    padded = np.pad(p.distances, ((0, 0), (0, 40)), mode="edge")

    # The bandwidth looks at the distances of all neighbours; edges that are certain do not need it.
    certain = np.zeros_like(p.distances), np.zeros_like(padded)

    np.testing.assert_allclose(
        p.transform.layout(p.indices, certain[0]), p.transform.layout(wider, certain[1]), atol=4e-3
    )


def test_a_row_without_neighbors_keeps_its_start_outside():
    p = projected(100)
    nothing = np.full_like(p.indices, -1)

    outside = p.transform.layout(nothing, p.distances)

    descent = p.transform.replaced(layout="sgd").layout(nothing, p.distances)
    np.testing.assert_array_equal(outside, descent)


def test_a_row_that_was_trained_on_lies_beside_its_own_place():
    data = blobs(300, 12, 4)
    transform = synthetic(data, data[:, :3] * 1.5)

    error = apart(transform.transform(data[:60]), transform.placed[:60])

    everywhere = apart(transform.placed[:60], transform.placed[60:120])
    assert np.median(error) < 0.5 * np.median(everywhere)


@pytest.mark.parametrize("b", [0.5, 0.8, 1.0, 1.9])
@pytest.mark.parametrize("n_places", [1, 2], ids=["one place", "two places"])
def test_training_rows_at_one_place_have_rows_beside_them(n_places, b):
    """The gradient has no direction on top of a point, and for small b no end close to it."""
    data = np.repeat(blobs(n_places, 12, 4), 20, axis=0)
    transform = synthetic(data, data[:, :3], n_neighbors=5, a=1.5, b=b)

    found = transform.transform(np.concatenate([data[:2], data[:2] + 1e-4, blobs(4, 12, 4, seed=3)]))

    assert np.isfinite(found).all()
    assert (np.linalg.norm(found[:, np.newaxis] - transform.placed, axis=2).min(axis=1) < 10).all()


def test_far_and_near_coordinates_stay_finite():
    data = blobs(100, 12, 4)
    for scale in (1e-6, 1e-2, 1e2, 1e4):
        assert np.isfinite(synthetic(data, data[:, :3] * np.float32(scale)).transform(blobs(20, 12, 4, seed=1))).all()


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("n_components", [1, 2, 5, 12])
def test_places_do_not_depend_on_where_memory_lies(n, n_components):
    """Vectorised loops take another path, with other roundings, where the arrays that they use nearly overlap."""
    p = projected(n, n_components)
    expected = places(p)
    found = []

    def elsewhere():
        # A thread that is new has a heap of its own.
        kept = [np.empty(size) for size in range(1, 200, 7)]
        del kept[::2]
        found.append(places(p))

    for _ in range(4):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    for other in found:
        np.testing.assert_array_equal(other, expected)
