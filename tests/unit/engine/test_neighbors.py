"""Neighbours against scikit-learn's brute force, and against themselves in other batches."""

import os
from contextlib import contextmanager
from functools import cache

import faiss
import numpy as np
import pytest
from bertopic_engine import MissingFile, StorageError
from bertopic_engine.neighbors import ExactNeighbors, build_index, load_neighbors
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

K = 15
COPIES = slice(40, 70)
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean"])
KINDS = pytest.mark.parametrize("kind", ["exact", "index"])


def rows(n, dim=64, seed=0):
    """Clusters that are wide in twelve directions, as embeddings are."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(99)
    centers, directions = shape.normal(size=(40, dim)), shape.normal(size=(12, dim))
    spread = rng.normal(size=(n, 12)) @ directions / 3 + rng.normal(size=(n, dim)) / 3
    return (centers[rng.integers(40, size=n)] + spread).astype(np.float32)


def training_rows(n, dim=64):
    """With thirty copies of one row among them."""
    data = rows(n, dim)
    data[COPIES] = data[39]
    return data


@contextmanager
def threads(n):
    os.environ["BERTOPIC_ENGINE_THREADS"] = str(n)
    try:
        yield
    finally:
        del os.environ["BERTOPIC_ENGINE_THREADS"]


@cache
def neighbors(kind, metric):
    data = training_rows(6_000)
    return ExactNeighbors(data, metric) if kind == "exact" else build_index(data, metric)


@cache
def queries():
    """New rows, and some that the training rows hold."""
    return np.concatenate([rows(30, seed=1), training_rows(6_000)[36:44]])


@cache
def alone(kind, metric):
    """The answer to every query, each asked by itself."""
    answers = [neighbors(kind, metric).query(query[np.newaxis], K) for query in queries()]
    return tuple(np.concatenate(part) for part in zip(*answers, strict=True))


def hits(found, expected):
    """Share of the expected neighbours that were found."""
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)])


@METRICS
@pytest.mark.parametrize("dim", [1, 3, 32, 77, 384])
def test_exact_neighbors_are_those_of_brute_force(metric, dim):
    data, new = rows(501, dim), rows(23, dim, seed=1)
    distances, indices = NearestNeighbors(n_neighbors=K, metric=metric, algorithm="brute").fit(data).kneighbors(new)

    found, found_distances = ExactNeighbors(data, metric).query(new, K)

    if dim > 1 or metric == "euclidean":
        np.testing.assert_array_equal(found, indices)
    np.testing.assert_allclose(found_distances, distances, rtol=1e-4, atol=1e-6)


@METRICS
@KINDS
def test_a_training_row_is_at_distance_zero_from_itself(kind, metric):
    data = training_rows(6_000)

    indices, distances = neighbors(kind, metric).query(data[:30], K)

    np.testing.assert_array_equal(indices[:, 0], np.arange(30))
    assert not distances[:, 0].any()


@METRICS
@KINDS
def test_equal_distances_are_listed_by_index(kind, metric):
    indices, distances = neighbors(kind, metric).query(queries(), K)

    ahead = np.diff(distances) > 0
    assert (ahead | (np.diff(distances) == 0) & (np.diff(indices) > 0)).all()
    assert not ahead.all()


def test_distances_that_become_equal_are_listed_by_index():
    # The squared distances differ in their last bit, their roots do not.
    data = np.array([[1, 2**-11.5], [1, 0]], np.float32)

    indices, distances = ExactNeighbors(data, "euclidean").query(np.zeros((1, 2), np.float32), 2)

    assert indices.tolist() == [[0, 1]]
    assert distances.tolist() == [[1.0, 1.0]]


@METRICS
def test_exact_neighbors_of_copies_are_the_first_copies(metric):
    indices, _ = neighbors("exact", metric).query(training_rows(6_000)[COPIES][-1:], K)

    assert indices.tolist() == [list(range(39, 39 + K))]


@KINDS
def test_a_zero_row_is_no_neighbor_under_cosine(kind):
    data = training_rows(3_000)
    data[::2] = 0
    found = ExactNeighbors(data, "cosine") if kind == "exact" else build_index(data, "cosine")

    indices, _ = found.query(rows(20, seed=1), K)

    assert (indices % 2 == 1).all()


@KINDS
def test_missing_neighbors_are_minus_one_at_the_largest_distance(kind):
    data = rows(5)
    found = ExactNeighbors(data, "cosine") if kind == "exact" else build_index(data, "cosine")

    indices, distances = found.query(rows(3, seed=1), 8)

    assert (np.sort(indices[:, :5]) == np.arange(5)).all()
    assert (indices[:, 5:] == -1).all()
    assert (distances[:, 5:] == distances[:, 4:5]).all()


@METRICS
@KINDS
def test_no_rows_have_no_neighbors(kind, metric):
    indices, distances = neighbors(kind, metric).query(queries()[:0], K)

    assert indices.shape == distances.shape == (0, K)


@METRICS
@KINDS
@settings(deadline=None, max_examples=25)
@given(
    picks=st.lists(st.integers(0, 37), min_size=1, max_size=40),
    n_threads=st.sampled_from([1, 2, 3, 7]),
)
def test_a_rows_neighbors_depend_on_the_row_alone(kind, metric, picks, n_threads):
    with threads(n_threads):
        indices, distances = neighbors(kind, metric).query(queries()[picks], K)

    np.testing.assert_array_equal(indices, alone(kind, metric)[0][picks])
    np.testing.assert_array_equal(distances, alone(kind, metric)[1][picks])


@METRICS
def test_index_has_the_recall_that_was_measured(metric):
    data, new = rows(20_000), rows(500, seed=1)
    steps = []

    index = build_index(data, metric, k=K, progress=lambda done, total: steps.append((done, total)))

    found, _ = index.query(new, K)
    expected, _ = ExactNeighbors(data, metric).query(new, K)
    assert index.recall >= 0.97
    assert hits(found, expected) == pytest.approx(index.recall, abs=0.01)
    assert steps == sorted(steps)
    assert steps[-1] == (20_000, 20_000)


def test_openmp_is_left_as_it_was():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before + 2)

    build_index(rows(500), "cosine").query(rows(5, seed=1), K)

    assert faiss.omp_get_max_threads() == before + 2
    faiss.omp_set_num_threads(before)


def test_a_higher_recall_widens_the_search():
    data, new = rows(6_000), rows(500, seed=1)
    expected, _ = ExactNeighbors(data, "euclidean").query(new, K)

    def found_with(recall):
        index = build_index(data, "euclidean", k=K, recall=recall)
        assert index.recall >= recall
        return hits(index.query(new, K)[0], expected)

    assert found_with(0.5) < found_with(0.999)


@METRICS
@KINDS
def test_what_was_saved_answers_the_same(kind, metric, tmp_path):
    neighbors(kind, metric).save(tmp_path)

    loaded = load_neighbors(tmp_path)

    assert (loaded.metric, loaded.dim, loaded.recall) == (metric, 64, neighbors(kind, metric).recall)
    for part, expected in zip(loaded.query(queries(), K), alone(kind, metric), strict=True):
        np.testing.assert_array_equal(part, expected)


@METRICS
def test_the_same_rows_give_the_same_index(metric, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        build_index(training_rows(5_000), metric).save(tmp_path / name)

    one, other = ((tmp_path / name / "neighbors.faiss").read_bytes() for name in ("one", "other"))
    assert one == other


def test_a_missing_index_is_named(tmp_path):
    neighbors("index", "cosine").save(tmp_path)
    (tmp_path / "neighbors.faiss").unlink()

    with pytest.raises(MissingFile, match=r"neighbors\.faiss is missing"):
        load_neighbors(tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    neighbors("index", "cosine").save(tmp_path)
    path = tmp_path / "neighbors.faiss"
    path.write_bytes(path.read_bytes()[:1_000])

    with pytest.raises(StorageError, match=r"neighbors\.faiss is not a readable faiss index"):
        load_neighbors(tmp_path)


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match="metric is 'manhattan', expected one of cosine, euclidean"):
        ExactNeighbors(rows(5), "manhattan")
