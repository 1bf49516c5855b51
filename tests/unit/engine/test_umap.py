"""UmapTransform: its `sgd` layout against umap-learn's transform of one row at a time, and what holds for both."""

import json
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
import pytest
import scipy
from bertopic_converters._umap import read_umap
from bertopic_engine import InvalidInput, StorageError, UmapTransform
from bertopic_engine.neighbors import ExactNeighbors
from bertopic_engine.repulsion import centroids
from bertopic_engine.umap import LAYOUTS, UmapParameters
from hdbscan import HDBSCAN, approximate_predict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.metrics import pairwise_distances
from umap import UMAP

# scipy adds up a sparse row in another order since 1.16, so that starts differ in the last bit before it.
SAME_SUMS = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 16)

MODELS = {
    "small-cosine": (1_500, 384, {"metric": "cosine"}),
    "small-euclidean": (700, 64, {"metric": "euclidean"}),
    "index-cosine": (4_200, 64, {"metric": "cosine", "n_epochs": 150}),
}
OPTIONS = {
    "n_components=1": {"n_components": 1},
    "n_components=33": {"n_components": 33},
    "n_neighbors=3": {"n_neighbors": 3},
    "n_neighbors=150": {"n_neighbors": 150},
    "local_connectivity=2.5": {"local_connectivity": 2.5},
    "learning_rate=0.3": {"learning_rate": 0.3},
    "negative_sample_rate=3": {"negative_sample_rate": 3, "repulsion_strength": 2},
    "min_dist=0.5": {"min_dist": 0.5, "spread": 2.0},
    "transform_seed=7": {"transform_seed": 7},
    "metric=l2": {"metric": "l2", "disconnection_distance": 9.5},
}


def rows(n, dim, seed=0):
    """Overlapping clusters."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(12, dim))
    return (0.8 * centers[rng.integers(12, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


def fit(n, dim, **options):
    """A model whose training data hold copies and near copies of rows, and rows to transform, some trained on."""
    data = rows(n, dim)
    data[1:6] = data[0]
    data[7:16] = data[6] + rows(9, dim, seed=2) / 1_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = UMAP(**{"n_components": 5, "min_dist": 0.0, "init": "pca", "random_state": 1} | options).fit(data)
    return model, np.concatenate([rows(144, dim, seed=1), data[:18]])


@cache
def fitted(name):
    n, dim, options = MODELS[name]
    return fit(n, dim, **options)


def neighbors_of_umap_learn(model, x):
    """What `model.transform` finds for each row alone."""
    k = model._n_neighbors
    if model._small_data:
        distances = pairwise_distances(x, model._raw_data, metric=model._input_distance_func)
        indices = np.argpartition(distances, k)[:, :k]
        distances = np.take_along_axis(distances, indices, axis=1)
        order = np.argsort(distances)
        indices = np.take_along_axis(indices, order, axis=1)
        return indices.astype(np.int32), np.take_along_axis(distances, order, axis=1).astype(np.float32)
    epsilon = 0.24 if model._knn_search_index._angular_trees else 0.12
    found = [model._knn_search_index.query(row[np.newaxis], k, epsilon=epsilon) for row in x]
    indices, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    return indices.astype(np.int32), distances.astype(np.float32)


def places_by_umap_learn(model, x):
    # Several threads would add up a row's distances in parts.
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = np.concatenate([model.transform(row[np.newaxis]) for row in x])
    numba.set_num_threads(before)
    return places


def share_of_same_bits(places, expected):
    assert places.dtype == expected.dtype
    return (places == expected).all(axis=1).mean()


@contextmanager
def threads(n):
    os.environ["BERTOPIC_ENGINE_THREADS"] = str(n)
    try:
        yield
    finally:
        del os.environ["BERTOPIC_ENGINE_THREADS"]


@pytest.mark.parametrize("name", MODELS)
def test_layout_is_that_of_umap_learn(name):
    model, x = fitted(name)
    clusterer = HDBSCAN(min_cluster_size=15, prediction_data=True).fit(model.embedding_)
    expected = places_by_umap_learn(model, x)

    places = read_umap(model, layout="sgd").layout(*neighbors_of_umap_learn(model, x))

    labels, expected_labels = (approximate_predict(clusterer, rows)[0] for rows in (places, expected))
    assert len(np.unique(expected_labels)) > 3
    assert (labels == expected_labels).mean() >= 0.995
    assert share_of_same_bits(places, expected) >= (0.99 if SAME_SUMS else 0.7)


@pytest.mark.parametrize("name", OPTIONS)
def test_layout_follows_the_options(name):
    model, x = fit(400, 40, **{"n_epochs": 60} | OPTIONS[name])

    places = read_umap(model, layout="sgd").layout(*neighbors_of_umap_learn(model, x))

    assert share_of_same_bits(places, places_by_umap_learn(model, x)) >= (0.99 if SAME_SUMS else 0.5)


@pytest.mark.parametrize("name", ["small-cosine", "small-euclidean"])
def test_transform_is_that_of_umap_learn_where_both_are_exact(name):
    model, x = fitted(name)
    clusterer = HDBSCAN(min_cluster_size=15, prediction_data=True).fit(model.embedding_)

    labels, expected = (
        approximate_predict(clusterer, places)[0]
        for places in (read_umap(model, layout="sgd").transform(x), places_by_umap_learn(model, x))
    )

    # The distances differ in their last bits, which seed the descent.
    assert (labels == expected).mean() >= 0.97


@cache
def transform(name, layout):
    return read_umap(fitted(name)[0], layout=layout)


@cache
def alone(name, layout):
    return np.concatenate([transform(name, layout).transform(row[np.newaxis]) for row in fitted(name)[1]])


either_layout = pytest.mark.parametrize("layout", LAYOUTS)


@either_layout
@pytest.mark.parametrize("name", ["small-cosine", "index-cosine"])
@settings(deadline=None, max_examples=25)
@given(
    picks=st.lists(st.integers(0, 161), min_size=1, max_size=40),
    n_threads=st.sampled_from([1, 2, 3, 7]),
)
def test_a_rows_place_depends_on_the_row_alone(name, layout, picks, n_threads):
    with threads(n_threads):
        places = transform(name, layout).transform(fitted(name)[1][picks])

    np.testing.assert_array_equal(places, alone(name, layout)[picks])


@either_layout
@settings(deadline=None, max_examples=25)
@given(data=st.data(), n_threads=st.sampled_from([1, 2, 5]))
def test_a_rows_layout_depends_on_the_row_alone(layout, data, n_threads):
    k = 6
    n = data.draw(st.integers(1, 12))
    grid = st.integers(0, 8).map(lambda step: step / 8)
    distances = np.sort(data.draw(st.lists(st.lists(grid, min_size=k, max_size=k), min_size=n, max_size=n)), axis=1)
    indices = data.draw(st.lists(st.permutations(range(-1, 20)).map(lambda p: p[:k]), min_size=n, max_size=n))
    indices, distances = np.array(indices, np.int32), distances.astype(np.float32)
    small = in_a_plane(layout=layout)

    with threads(n_threads):
        places = small.layout(indices, distances)

    one_by_one = [small.layout(indices[i : i + 1], distances[i : i + 1])[0] for i in range(n)]
    np.testing.assert_array_equal(places, one_by_one)
    assert np.isfinite(places).all()


def in_a_plane(**parameters):
    """Twenty training points, without a fit."""
    data = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    defaults = {"n_neighbors": 6, "a": 1.9, "b": 0.8, "n_epochs": 30, "rng_state": (1, -2, 3)}
    return UmapTransform(data[:, :2], ExactNeighbors(data, "cosine"), UmapParameters(**defaults | parameters))


@either_layout
def test_a_row_connected_to_nothing_lies_outside(layout):
    x = rows(5, 4)
    far_apart = in_a_plane(disconnection_distance=0.0, layout=layout)
    places = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)[:, :2]
    diameter = np.linalg.norm(np.ptp(places, axis=0))

    outside = far_apart.transform(x)

    assert np.isfinite(outside).all()
    assert np.linalg.norm(outside[:, np.newaxis] - places, axis=2).min() > diameter


@either_layout
def test_farther_neighbors_than_the_disconnection_distance_do_not_count(layout):
    indices = np.array([[3, 5, 7, 9, 11, 13]], np.int32)
    distances = np.array([[0.1, 0.2, 0.3, 0.5, 0.6, 0.7]], np.float32)

    cut = in_a_plane(layout=layout, disconnection_distance=0.5).layout(indices, distances)

    whole = in_a_plane(layout=layout)
    np.testing.assert_array_equal(cut, whole.layout(np.where(distances >= 0.5, -1, indices), distances))
    assert (cut != whole.layout(indices, distances)).any()


def test_training_points_without_a_place_do_not_count():
    model, x = fit(400, 32, n_epochs=60)
    model.embedding_[20:60] = np.nan
    indices, distances = neighbors_of_umap_learn(model, x)
    clear = ~((indices >= 20) & (indices < 60)).any(axis=1)

    places = read_umap(model, layout="sgd").layout(indices, distances)

    assert 0 < clear.mean() < 1
    assert np.isfinite(places).all()
    expected = places_by_umap_learn(model, x[clear])
    assert share_of_same_bits(places[clear], expected) >= (0.99 if SAME_SUMS else 0.5)


def test_training_points_without_a_place_push_nobody():
    unplaced = np.zeros(20, bool)
    unplaced[[4, 11, 12]] = True
    whole = in_a_plane()
    embedding = whole.placed
    embedding[unplaced] = np.nan
    numbers_left = np.where(unplaced, -1, np.cumsum(~unplaced) - 1).astype(np.int32)
    indices, distances = whole.neighbors.query(rows(30, 4), 6)
    assert unplaced[indices].any()

    places = UmapTransform(embedding, whole.neighbors, whole.parameters).layout(indices, distances)

    without = UmapTransform(embedding[~unplaced], whole.neighbors, whole.parameters)
    np.testing.assert_array_equal(places, without.layout(numbers_left[indices], distances))
    assert (places != whole.layout(indices, distances)).any()


@either_layout
@pytest.mark.parametrize("name", ["small-cosine", "index-cosine"])
def test_what_was_saved_places_the_same(name, layout, tmp_path):
    transform(name, layout).save(tmp_path)

    loaded = UmapTransform.load(tmp_path)

    assert loaded.parameters == transform(name, layout).parameters
    assert (loaded.dim, loaded.n_components) == (transform(name, layout).dim, 5)
    np.testing.assert_array_equal(loaded.transform(fitted(name)[1]), alone(name, layout))


TRANSFORM = """
import sys
from pathlib import Path

import numpy as np
from bertopic_engine import UmapTransform

folder = Path(sys.argv[1])
np.save(folder / "places.npy", UmapTransform.load(folder).transform(np.load(folder / "rows.npy")))
"""


def test_another_process_places_the_same(tmp_path):
    whole, x = transform("small-cosine", "mean_field"), fitted("small-cosine")[1]
    summarized = whole.replaced(field=centroids(whole.placed, 64))
    summarized.save(tmp_path)
    np.save(tmp_path / "rows.npy", x)

    subprocess.run([sys.executable, "-c", TRANSFORM, str(tmp_path)], check=True)

    places = np.load(tmp_path / "places.npy")
    np.testing.assert_array_equal(places, summarized.transform(x))
    assert (places != whole.transform(x)).any()


@either_layout
def test_the_same_model_gives_the_same_files(layout, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        in_a_plane(layout=layout).save(tmp_path / name)

    one, other = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one == other
    assert set(one) == {"umap.json", "umap.safetensors", "neighbors.json", "neighbors.safetensors"}


def test_an_incomplete_field_is_named(tmp_path):
    in_a_plane().save(tmp_path)
    arrays = load_file(tmp_path / "umap.safetensors")
    del arrays["spreads"]
    save_file(arrays, tmp_path / "umap.safetensors")

    with pytest.raises(StorageError, match="spreads"):
        UmapTransform.load(tmp_path)


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match="'spiral', expected one of mean_field, sgd"):
        in_a_plane(layout="spiral")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings.pop("a"), "'a'"),
        (lambda settings: settings.update(surprise=1), "surprise"),
        (lambda settings: settings.update(layout="spiral"), "spiral"),
    ],
    ids=["missing", "unknown", "layout"],
)
def test_damaged_settings_are_named(change, message, tmp_path):
    in_a_plane().save(tmp_path)
    settings = json.loads((tmp_path / "umap.json").read_text())
    change(settings)
    (tmp_path / "umap.json").write_text(json.dumps(settings))

    with pytest.raises(StorageError, match=message):
        UmapTransform.load(tmp_path)


def bad_row(value):
    x = np.ones((3, 4), np.float32)
    x[1] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((3, 5), np.float32), r"shape \(3, 5\), expected \(n, 4\)"),
        (np.ones(4, np.float32), r"shape \(4,\), expected \(n, 4\)"),
        (np.ones((3, 4)), "float64, expected float32"),
        (bad_row([1, np.nan, 1, 1]), "row 1 .* NaN or Inf"),
        (bad_row([1, -np.inf, 1, 1]), "row 1 .* NaN or Inf"),
        (bad_row(0), "row 1 .* all zeros"),
    ],
    ids=["dimension", "one-dimensional", "float64", "nan", "inf", "zero"],
)
def test_what_has_no_answer_is_refused(x, message):
    with pytest.raises(InvalidInput, match=message):
        in_a_plane().transform(x)


def test_a_zero_row_has_a_place_under_euclidean():
    data = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    euclidean = UmapTransform(data[:, :2], ExactNeighbors(data, "euclidean"), in_a_plane().parameters)

    assert np.isfinite(euclidean.transform(bad_row(0))).all()


@either_layout
def test_no_rows_have_no_places(layout):
    assert in_a_plane(layout=layout).transform(np.empty((0, 4), np.float32)).shape == (0, 2)
