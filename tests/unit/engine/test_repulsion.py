"""What stands for the training points: its own arithmetic, and how near it comes to all of them."""

import warnings
from functools import cache

import faiss
import numpy as np
import pytest
from bertopic_converters._umap import read_umap
from bertopic_engine import UmapTransform
from bertopic_engine.neighbors import ExactNeighbors
from bertopic_engine.repulsion import centroids, every_point, summarize
from bertopic_engine.umap import UmapParameters
from umap import UMAP


def clusters(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(12, dim))
    return (2.0 * centers[rng.integers(12, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


def placed(n, n_components=5):
    return clusters(n, n_components)


def synthetic(n, **parameters):
    """A transform without a fit, and its training data, whose first coordinates are the places."""
    data = clusters(n, 16)
    defaults = {"n_neighbors": 10, "a": 1.58, "b": 0.895, "n_epochs": 60, "rng_state": (1, 2, 3)}
    parameters = UmapParameters(**defaults | parameters)
    return UmapTransform(data[:, :4], ExactNeighbors(data, "euclidean"), parameters), data


@cache
def fitted():
    data = clusters(1_100, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = UMAP(n_components=5, min_dist=0.0, metric="cosine", init="pca", random_state=1, n_epochs=150)
        return read_umap(model.fit(data)), data


def assert_same(one, other):
    for name in one._fields:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def test_every_point_stands_for_itself():
    embedding = placed(50)

    field = every_point(embedding)

    np.testing.assert_array_equal(field.centers, embedding.T)
    np.testing.assert_allclose(field.weights, 1 / 50, rtol=1e-6)
    assert not field.spreads.any()
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in field)


@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("n_centers", [1, 16, 100])
def test_centers_are_the_means_of_the_points_nearest_to_a_center(n_centers, n_components):
    embedding = placed(1_500, n_components)

    field = centroids(embedding, n_centers)

    assert field.weights.sum() == pytest.approx(1, abs=1e-5)
    assert (field.weights > 0).all()
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in field)
    # Weighted, centers have the mean of the points, and with their spreads their scatter too.
    np.testing.assert_allclose(field.centers @ field.weights, embedding.mean(axis=0), atol=1e-4)
    between = (field.weights * ((field.centers.T - embedding.mean(axis=0)) ** 2).sum(axis=1)).sum()
    within = (field.weights * field.spreads).sum()
    assert between + within == pytest.approx(embedding.var(axis=0).sum(), rel=1e-4)


def test_a_center_knows_its_share_and_its_mean_squared_distance():
    # Far apart, so that k-means has settled: the points nearest to a center are those that it is the mean of.
    groups = 50 * np.random.default_rng(1).normal(size=(4, 2))
    points = np.concatenate([group + placed(size, 2) for group, size in zip(groups, (40, 20, 10, 5), strict=True)])
    points = points.astype(np.float32)

    field = centroids(points, 4)

    squared = ((points[:, np.newaxis] - field.centers.T) ** 2).sum(axis=2)
    nearest = squared.argmin(axis=1)
    for center in range(4):
        own = nearest == center
        assert field.weights[center] == pytest.approx(own.mean(), rel=1e-6)
        np.testing.assert_allclose(field.centers[:, center], points[own].mean(axis=0), rtol=1e-5)
        assert field.spreads[center] == pytest.approx(squared[own, center].mean(), rel=1e-3)


def test_the_same_rows_give_the_same_field():
    embedding = placed(3_000)

    assert_same(centroids(embedding, 20), centroids(embedding.copy(), 20))


def test_openmp_threads_are_left_as_they_were():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        centroids(placed(300), 8)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_centers_that_stand_for_nothing_are_left_out():
    distinct = placed(5)

    field = centroids(np.repeat(distinct, 20, axis=0), 16)

    assert field.centers.shape == (5, 5)
    np.testing.assert_allclose(field.weights, 0.2, rtol=1e-6)
    np.testing.assert_allclose(field.spreads, 0, atol=1e-6)
    order = np.lexsort(field.centers), np.lexsort(distinct.T)
    np.testing.assert_allclose(field.centers.T[order[0]], distinct[order[1]], rtol=1e-5)


def test_more_centers_come_nearer_to_all_points():
    transform, _ = fitted()
    x = clusters(200, 24, seed=1)
    exact = transform.transform(x)

    displacements = [
        np.median(np.linalg.norm(transform.replaced(field=centroids(transform.placed, n)).transform(x) - exact, axis=1))
        for n in (8, 64, 512)
    ]

    assert displacements[0] > 2 * displacements[1] > 2 * displacements[2]


def test_as_many_centers_as_points_are_the_points():
    transform, _ = synthetic(300)
    x = clusters(60, 16, seed=1)

    whole = transform.replaced(field=centroids(transform.placed, 300))

    np.testing.assert_allclose(whole.transform(x), transform.transform(x), atol=1e-2)


def left_out(transform, data, rows):
    """The neighbours of training rows without the rows themselves, by comparing with all others."""
    k = transform.parameters.n_neighbors
    indices, distances = transform.neighbors.query(data[rows], len(data))
    others = [found != row for row, found in zip(rows, indices, strict=True)]
    pick = [(i[other][:k], d[other][:k]) for i, d, other in zip(indices, distances, others, strict=True)]
    return tuple(np.stack(part) for part in zip(*pick, strict=True))


def test_what_is_reported_can_be_measured_again():
    transform, data = fitted()

    summarized, convergence = summarize(transform, data)

    known = left_out(transform, data, np.arange(0, len(data), 3))
    exact = transform.replaced(field=every_point(transform.placed)).layout(*known)
    displaced = np.linalg.norm(summarized.layout(*known) - exact, axis=1)
    assert convergence.displacement == pytest.approx(np.quantile(displaced, 0.9), rel=1e-6)
    # Other seeds than those that were used.
    runs = np.stack(
        [
            transform.replaced(layout="sgd", rng_state=(seed, 7, 11)).layout(*known)
            for seed in range(1_000, 9_000, 1_000)
        ]
    )
    scatter = np.median(np.linalg.norm(runs - runs.mean(axis=0), axis=2))
    assert convergence.scatter == pytest.approx(scatter, rel=0.1)


def test_centers_are_as_few_as_the_accuracy_allows():
    transform, data = fitted()

    found = [summarize(transform, data, accuracy=accuracy) for accuracy in (100.0, 0.25, 0.0)]

    for (summarized, convergence), accuracy in zip(found, (100.0, 0.25, 0.0), strict=True):
        assert convergence.displacement <= accuracy * convergence.scatter
        x = clusters(60, 24, seed=1)
        field = every_point(transform.placed)
        if convergence.n_centers < len(data):
            field = centroids(transform.placed, convergence.n_centers)
        np.testing.assert_array_equal(summarized.transform(x), transform.replaced(field=field).transform(x))
    numbers = [convergence.n_centers for _, convergence in found]
    assert numbers == sorted(numbers)
    assert numbers[0] == 256
    assert numbers[-1] == len(data)


def test_the_centers_are_saved(tmp_path):
    transform, data = fitted()
    summarized, convergence = summarize(transform, data, accuracy=100.0)

    for name, one in (("few", summarized), ("all", transform)):
        (tmp_path / name).mkdir()
        one.save(tmp_path / name)

    x = clusters(40, 24, seed=1)
    loaded = UmapTransform.load(tmp_path / "few")
    np.testing.assert_array_equal(loaded.transform(x), summarized.transform(x))
    few, every = ((tmp_path / name / "umap.safetensors").stat().st_size for name in ("few", "all"))
    # Five coordinates, a weight and a spread of each.
    assert every - few == pytest.approx(4 * 7 * (len(data) - convergence.n_centers), abs=64)


def test_small_models_keep_every_point():
    transform, data = synthetic(256)

    summarized, convergence = summarize(transform, data)

    assert convergence.n_centers == 256
    assert convergence.displacement == 0
    assert convergence.scatter > 0
    np.testing.assert_array_equal(summarized.transform(data[:40]), transform.transform(data[:40]))


def test_few_rows_are_summarized_too():
    transform, data = synthetic(4, n_neighbors=3)

    _, convergence = summarize(transform, data)

    assert convergence.n_centers == 4
    assert np.isfinite(convergence.scatter)


@pytest.mark.parametrize("layout", ["mean_field", "sgd"])
def test_what_is_summarized_has_the_layout_that_needs_it(layout):
    transform, data = synthetic(600, layout=layout)

    summarized, _ = summarize(transform, data)

    assert summarized.parameters == transform.parameters._replace(layout="mean_field")
    assert summarized.neighbors is transform.neighbors


def test_summarizing_twice_gives_the_same(tmp_path):
    transform, data = synthetic(600)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()

    one, other = (summarize(transform, data) for _ in range(2))

    assert one[1] == other[1]
    one[0].save(tmp_path / "one")
    other[0].save(tmp_path / "other")
    files = ((tmp_path / name / "umap.safetensors").read_bytes() for name in ("one", "other"))
    assert next(files) == next(files)


def test_training_rows_without_a_place_stand_for_nothing():
    transform, data = synthetic(700)
    embedding = transform.placed
    embedding[100:180] = np.nan
    gaps = UmapTransform(embedding, transform.neighbors, transform.parameters)

    summarized, convergence = summarize(gaps, data)

    assert np.isfinite(convergence).all()
    assert convergence.n_centers <= 620
    assert np.isfinite(summarized.transform(data[90:190])).all()
    assert np.isfinite(centroids(gaps.placed, 16).centers).all()


def test_many_equal_rows_can_be_summarized():
    data = np.repeat(clusters(60, 16), 10, axis=0)
    transform = synthetic(600)[0]
    equal = UmapTransform(data[:, :4], ExactNeighbors(data, "cosine"), transform.parameters)

    summarized, convergence = summarize(equal, data)

    assert np.isfinite(convergence).all()
    assert np.isfinite(summarized.transform(data[::7])).all()
