"""The k-d tree and its sort against scikit-learn's."""

import itertools

import numpy as np
import pytest
import sklearn
from bertopic_converters._hdbscan import read_kd_tree
from bertopic_engine._introsort import introsort
from bertopic_engine._kdtree import allocate_neighbors, find_neighbors
from bertopic_engine._wide_tree import allocate_nearest_set, find_nearest_set, widen
from sklearn.neighbors import KDTree
from sklearn.neighbors._kd_tree import simultaneous_sort

pytestmark = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9),
    reason="scikit-learn before 1.9 orders ties differently",
)


def assert_same_neighbors(training, points, k):
    """Same points in the same order, same distances to the bit."""
    reference = KDTree(training.astype(np.float64))
    expected_distances, expected = reference.query(points.astype(np.float64), k=k)
    tree, order = read_kd_tree(reference)
    neighbors = allocate_neighbors(tree, k)
    for row, point in enumerate(points):
        find_neighbors(tree, point, neighbors)
        np.testing.assert_array_equal(order[neighbors.indices], expected[row])
        np.testing.assert_array_equal(neighbors.distances, expected_distances[row])


@pytest.mark.parametrize("k", [2, 10, 30, 90])
@pytest.mark.parametrize("n_features", [2, 5, 12])
@pytest.mark.parametrize("step", [0, 0.5, 0.1], ids=["no ties", "exact grid", "inexact grid"])
def test_neighbors_are_those_of_sklearn(step, n_features, k):
    rng = np.random.default_rng(0)
    training, points = (rng.normal(size=(n, n_features)).astype(np.float32) for n in (1500, 60))
    if step:
        training, points = (np.round(x * 2) * np.float32(step) for x in (training, points))
        points[::2] += np.float32(step / 2)
    assert_same_neighbors(training, points, k)


@pytest.mark.parametrize("k", [2, 130])
def test_boxes_whose_distances_differ_by_rounding_are_visited_in_the_same_order(k):
    """Leaves full of copies of points that are equally far from the diagonal, up to rounding."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        equally_far = np.array(list(itertools.permutations(rng.normal(size=4))), np.float32)
        on_diagonal = np.full((1, 4), rng.normal() * 10.0 ** rng.integers(-3, 1), np.float32)
        assert_same_neighbors(np.repeat(rng.choice(equally_far, 32), 64, axis=0), on_diagonal, k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 11, 40])
@pytest.mark.parametrize(("n", "n_features"), [(60, 3), (1500, 12), (20_000, 3)], ids=["leaf", "group", "levels"])
def test_nearest_set_is_that_of_sklearn(n, n_features, k, dtype):
    rng = np.random.default_rng(0)
    training = rng.normal(size=(n, n_features)).astype(dtype)
    points = np.concatenate([rng.normal(size=(100, n_features)), training[:100], 100 * training[:9]], dtype=np.float32)
    reference = KDTree(training.astype(np.float64))
    expected = reference.query(points.astype(np.float64), k=k)
    tree, order = read_kd_tree(reference)
    wide = widen(tree)
    nearest = allocate_nearest_set(wide, k)
    n_decided = 0
    for point, distances, neighbors in zip(points, *expected, strict=True):
        if not find_nearest_set(wide, point, nearest):
            continue
        n_decided += 1
        by_distance = np.argsort(nearest.squared_distances)
        np.testing.assert_array_equal(order[nearest.columns[by_distance]], neighbors)
        np.testing.assert_array_equal(np.sqrt(nearest.squared_distances[by_distance]), distances)
    assert n_decided > 0.98 * len(points)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1, 0), (1, 1e-7), (1e-30, 0), (1e30, 0)],
    ids=["equal", "equal up to rounding", "underflow", "overflow"],
)
def test_nearest_set_in_doubt_is_refused(scale, shift):
    """The second and the third of three points are equally far, or their squares have no precision."""
    training = np.float32(scale) * np.array([[1, 0], [0, 2], [2 + shift, 0], [9, 9]], np.float32)
    wide = widen(read_kd_tree(KDTree(training.astype(np.float64)))[0])
    assert not find_nearest_set(wide, np.zeros(2, np.float32), allocate_nearest_set(wide, 2))


def ties(rng, n):
    return rng.integers(5, size=n).astype(np.float64)


def distinct(rng, n):
    return rng.permutation(n).astype(np.float64)


def valley(rng, n):
    """Down and up again: the median of three is a poor pivot each time, and the depth runs out."""
    slope = np.arange(n // 2, dtype=np.float64)
    return np.concatenate([slope[::-1], slope])


@pytest.mark.parametrize("n", [2, 14, 16, 40, 200, 500])
@pytest.mark.parametrize("values", [ties, distinct, valley])
def test_sort_leaves_ties_where_sklearn_does(values, n):
    rng = np.random.default_rng(0)
    for _ in range(30):
        sorted_values = values(rng, n)
        expected, expected_indices = sorted_values[None].copy(), np.arange(n)[None]
        simultaneous_sort(expected, expected_indices)
        indices = np.arange(n)
        introsort(sorted_values, indices)
        np.testing.assert_array_equal(sorted_values, expected[0])
        np.testing.assert_array_equal(indices, expected_indices[0])
