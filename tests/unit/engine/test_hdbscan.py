"""HdbscanPredictor against the hdbscan library itself."""

import warnings
from functools import cache

import hdbscan
import numpy as np
import pytest
import sklearn
from bertopic_converters._hdbscan import read_hdbscan
from bertopic_engine import HdbscanPredictor, InvalidInput, MissingFile, StorageError
from bertopic_engine.storage import load_arrays, save_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

# Where several training points are equally far, the library's answer hangs on scikit-learn's sort.
SAME_TIES = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
needs_same_ties = pytest.mark.skipif(not SAME_TIES, reason="scikit-learn before 1.9 orders ties differently")


def blobs(n_features, noise, seed=0, n=900, n_blobs=6):
    """Clusters of different density among uniform noise."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-5, 5, size=(n_blobs, n_features))
    spread = np.linspace(0.1, 0.8, n_blobs)
    blob = rng.integers(n_blobs, size=n)
    points = centers[blob] + rng.normal(size=(n, n_features)) * spread[blob, None]
    noisy = rng.random(n) < noise
    points[noisy] = rng.uniform(-6, 6, size=(noisy.sum(), n_features))
    return points.astype(np.float32)


def grid(n_features, step):
    """Many points on the corners of a grid; a step of 0.1 rounds distances, one of 0.5 does not."""
    return np.round(blobs(n_features, noise=0.2) * 2).astype(np.float32) * np.float32(step)


def copies(n_features):
    """Every point many times over."""
    return blobs(n_features, noise=0.3)[np.random.default_rng(1).integers(80, size=900)]


def queries(training, n, seed=2):
    """Points like the training points, between two of them, on them, and far from any."""
    rng = np.random.default_rng(seed)
    one, other = training[rng.integers(len(training), size=(2, n // 4))]
    far = rng.uniform(-8, 8, size=one.shape)
    near = one + rng.normal(scale=0.1, size=one.shape)
    return np.concatenate([near, (one + other) / 2, other, far]).astype(np.float32)


MODELS = {
    "eom-2d": (blobs(2, noise=0.1), {"min_cluster_size": 10}),
    "eom-5d-min_samples=1": (blobs(5, noise=0.1), {"min_cluster_size": 10, "min_samples": 1}),
    "eom-5d-min_samples=5": (blobs(5, noise=0.1), {"min_cluster_size": 15, "min_samples": 5}),
    "leaf-5d-min_samples=15": (
        blobs(5, noise=0.1),
        {"min_cluster_size": 8, "min_samples": 15, "cluster_selection_method": "leaf"},
    ),
    "leaf-12d": (blobs(12, noise=0.1), {"min_cluster_size": 5, "cluster_selection_method": "leaf"}),
    "noise-eom-5d": (blobs(5, noise=0.7), {"min_cluster_size": 6, "min_samples": 5}),
    "noise-leaf-2d": (
        blobs(2, noise=0.7),
        {"min_cluster_size": 5, "min_samples": 1, "cluster_selection_method": "leaf"},
    ),
    "epsilon-leaf": (
        blobs(2, noise=0.2),
        {"min_cluster_size": 5, "cluster_selection_method": "leaf", "cluster_selection_epsilon": 0.4},
    ),
    "epsilon-eom": (blobs(2, noise=0.4), {"min_cluster_size": 5, "cluster_selection_epsilon": 0.5}),
    "single-cluster": (
        blobs(5, noise=0.1, n_blobs=1),
        {"min_cluster_size": 5, "min_samples": 1, "allow_single_cluster": True},
    ),
    "root-selected": (
        blobs(2, noise=0.2),
        {"min_cluster_size": 5, "allow_single_cluster": True, "cluster_selection_epsilon": 1.5},
    ),
    "single-cluster-leaf": (
        blobs(5, noise=0.2),
        {"min_cluster_size": 5, "allow_single_cluster": True, "cluster_selection_method": "leaf"},
    ),
    "many-leaves": (blobs(5, noise=0.3, n=12_000, n_blobs=60), {"min_cluster_size": 8}),
    "float64": (
        blobs(5, noise=0.1) + np.random.default_rng(0).normal(scale=1e-3, size=(900, 5)),
        {"min_cluster_size": 10},
    ),
}
TIED_MODELS = {
    "grid-eom-2d": (grid(2, step=0.5), {"min_cluster_size": 3, "min_samples": 3}),
    "grid-leaf-5d": (grid(5, step=0.1), {"min_cluster_size": 5, "min_samples": 15, "cluster_selection_method": "leaf"}),
    "copies-eom-2d": (copies(2), {"min_cluster_size": 20}),
    "copies-leaf-5d": (copies(5), {"min_cluster_size": 15, "min_samples": 5, "cluster_selection_method": "leaf"}),
    "copies-eom-12d": (copies(12), {"min_cluster_size": 25, "min_samples": 15}),
}
ALL_MODELS = MODELS | TIED_MODELS
each_model = pytest.mark.parametrize(
    "name", [*MODELS, *(pytest.param(name, marks=needs_same_ties) for name in TIED_MODELS)]
)


@cache
def fitted(name):
    training, options = ALL_MODELS[name]
    return hdbscan.HDBSCAN(prediction_data=True, **options).fit(training)


@cache
def predictor(name):
    return read_hdbscan(fitted(name))


@each_model
def test_labels_and_probabilities_equal_approximate_predict(name):
    points = queries(ALL_MODELS[name][0], 1000)
    expected_labels, expected_probabilities = hdbscan.approximate_predict(fitted(name), points)
    labels, probabilities = predictor(name).predict(points)
    # Where the root is selected, the library calls no new point noise.
    assert set(expected_labels) >= ({0} if name == "root-selected" else {-1, 0})
    assert labels.dtype == np.int32
    assert probabilities.dtype == np.float64
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(probabilities, expected_probabilities, rtol=0, atol=1e-9)


@each_model
def test_membership_equals_membership_vector(name):
    points = queries(ALL_MODELS[name][0], 80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = hdbscan.membership_vector(fitted(name), points)
    membership = predictor(name).membership(points)
    assert membership.shape == (80, predictor(name).n_clusters)
    np.testing.assert_allclose(membership, expected, rtol=0, atol=1e-6)
    if name in MODELS:
        assert np.isfinite(membership).all()


@pytest.mark.parametrize(
    ("options", "n_clusters"),
    [
        pytest.param({"min_cluster_size": 50}, 0, id="none"),
        pytest.param({"min_cluster_size": 50, "allow_single_cluster": True}, 1, id="all-in-one"),
    ],
)
def test_everything_is_noise_where_the_hierarchy_has_no_split(options, n_clusters):
    training = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    clusterer = hdbscan.HDBSCAN(prediction_data=True, **options).fit(training)
    with pytest.warns(UserWarning, match="does not have any defined clusters"):
        expected_labels, expected_probabilities = hdbscan.approximate_predict(clusterer, training)
    model = read_hdbscan(clusterer)
    labels, probabilities = model.predict(training)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(probabilities, expected_probabilities)
    assert model.n_clusters == n_clusters
    np.testing.assert_array_equal(model.membership(training), np.zeros((120, n_clusters)))


def test_grouped_membership_is_the_sum_over_clusters():
    model, points = predictor("eom-2d"), queries(MODELS["eom-2d"][0], 200)
    groups = np.arange(model.n_clusters, dtype=np.int32) % 3 - 1
    membership = model.membership(points)
    expected = np.stack([membership[:, groups == group].sum(axis=1) for group in range(2)], axis=1)
    grouped = model.grouped_membership(points, groups, 2)
    assert grouped.dtype == np.float32
    np.testing.assert_allclose(grouped, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        pytest.param([0, 1], r"shape \(2,\)", id="too few"),
        pytest.param([5] * 6, "up to 5, .* less than 2", id="too large"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message):
    model = predictor("eom-2d")
    groups = np.array(groups, np.int32)
    with pytest.raises(InvalidInput, match=message):
        model.grouped_membership(np.zeros((1, 2), np.float32), groups, 2)


POINTS = queries(MODELS["eom-5d-min_samples=5"][0], 400)


@cache
def answers():
    """Labels, probabilities and memberships of POINTS, each row predicted alone."""
    model = predictor("eom-5d-min_samples=5")
    rows = [(*model.predict(point[None]), model.membership(point[None])) for point in POINTS]
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(0, 600),
    cuts=st.lists(st.integers(0, 600), max_size=3).map(sorted),
    threads=st.integers(1, 6),
)
def test_a_row_has_one_answer_whatever_its_batch_and_the_threads(seed, n_rows, cuts, threads):
    model = predictor("eom-5d-min_samples=5")
    # Drawn with repetition: shuffled, and most rows more than once or not at all.
    rows = np.random.default_rng(seed).integers(len(POINTS), size=n_rows)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BERTOPIC_ENGINE_THREADS", str(threads))
        for batch in np.split(rows, cuts):
            labels, probabilities = model.predict(POINTS[batch])
            membership = model.membership(POINTS[batch])
            for got, alone in zip((labels, probabilities, membership), answers(), strict=True):
                assert got.tobytes() == alone[batch].tobytes()


@pytest.mark.parametrize("name", ["eom-2d", "float64"])
def test_saving_and_loading_changes_nothing(name, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    predictor(name).save(first)
    loaded = HdbscanPredictor.load(first)
    loaded.save(second)
    assert {file.name for file in first.iterdir()} == {"hdbscan.safetensors", "hdbscan.json"}
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
    points = queries(ALL_MODELS[name][0], 200)
    for got, expected in zip(loaded.predict(points), predictor(name).predict(points), strict=True):
        assert got.tobytes() == expected.tobytes()
    assert loaded.membership(points).tobytes() == predictor(name).membership(points).tobytes()


def test_a_float32_model_stays_float32_on_disk(tmp_path):
    predictor("eom-2d").save(tmp_path)
    assert load_arrays(tmp_path / "hdbscan.safetensors")["points"].dtype == np.float32


@pytest.mark.parametrize("file", ["hdbscan.safetensors", "hdbscan.json"])
def test_a_missing_file_is_named(file, tmp_path):
    predictor("eom-2d").save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(MissingFile, match=file):
        HdbscanPredictor.load(tmp_path)


def test_a_missing_array_is_named(tmp_path):
    predictor("eom-2d").save(tmp_path)
    arrays = load_arrays(tmp_path / "hdbscan.safetensors")
    del arrays["core_distances"]
    save_arrays(tmp_path / "hdbscan.safetensors", arrays)
    with pytest.raises(StorageError, match="core_distances"):
        HdbscanPredictor.load(tmp_path)


@pytest.mark.parametrize("method", ["check", "predict", "membership"])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        pytest.param(np.zeros((3, 7), np.float32), r"\(3, 7\), expected \(n, 5\)", id="dimension"),
        pytest.param(np.zeros(5, np.float32), r"\(5,\), expected \(n, 5\)", id="one row without batch"),
        pytest.param(np.zeros((3, 5)), "float64, expected float32", id="float64"),
        pytest.param(np.array([[0] * 5, [np.nan] * 5], np.float32), "row 1 .* NaN", id="nan"),
        pytest.param(np.array([[np.inf] * 5], np.float32), "row 0 .* Inf", id="inf"),
    ],
)
def test_points_without_an_answer_are_refused(method, points, message):
    with pytest.raises(InvalidInput, match=message):
        getattr(predictor("eom-5d-min_samples=5"), method)(points)


def test_no_rows_have_no_answers():
    model = predictor("eom-5d-min_samples=5")
    labels, probabilities = model.predict(np.empty((0, 5), np.float32))
    assert labels.shape == probabilities.shape == (0,)
    assert model.membership(np.empty((0, 5), np.float32)).shape == (0, model.n_clusters)


def test_points_may_be_strided_or_read_only():
    model = predictor("eom-5d-min_samples=5")
    expected = model.predict(POINTS)[0]
    np.testing.assert_array_equal(model.predict(np.asfortranarray(POINTS))[0], expected)
    frozen = POINTS.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(model.predict(frozen)[0], expected)
