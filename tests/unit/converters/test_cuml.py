"""What is read from models that cuML trained.

Everything but the tests marked `gpu` runs without one: cuML's own classes, where it is installed, hold the arrays of
models that umap-learn and hdbscan fitted, and cuML's way of predicting is written out in numpy.
"""

from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from bertopic_converters._cuml import CumlUmap, cuml_version, from_cuml, predict_as_cuml
from bertopic_converters._exceptions import UnreadableModel, UnsupportedModel
from bertopic_converters._fidelity import bertopic_runs, credit
from bertopic_converters._hdbscan import read_hdbscan
from bertopic_converters._sources import THREE_PICKLES, read_source
from bertopic_converters._umap import read_umap
from hdbscan import HDBSCAN, approximate_predict
from umap import UMAP

MIN_SAMPLES = 4

with_cuml = pytest.mark.skipif(find_spec("cuml") is None, reason="cuML is not installed")
without_cuml = pytest.mark.skipif(find_spec("cuml") is not None, reason="cuML is installed")


def rows(n, dim, seed=0):
    """Overlapping clusters."""
    centers = np.random.default_rng(99).normal(size=(8, dim))
    rng = np.random.default_rng(seed)
    return (3 * centers[rng.integers(8, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


@cache
def umap_fit():
    return UMAP(n_neighbors=6, init="pca", n_epochs=30, metric="cosine", n_jobs=1, random_state=1).fit(rows(300, 8))


@cache
def hdbscan_fit():
    return HDBSCAN(min_cluster_size=10, min_samples=MIN_SAMPLES, prediction_data=True).fit(rows(300, 3))


def cuml_state():
    """What a `cuml.cluster.HDBSCAN` that fitted the same would keep: single precision, core distances of the fit."""
    fit = hdbscan_fit()
    tree = fit.condensed_tree_.to_numpy()
    tree["lambda_val"] = tree["lambda_val"].astype(np.float32)
    clusters = fit.prediction_data_.reverse_cluster_map
    return {
        "n_leaves": 300,
        "n_clusters": len(clusters),
        "condensed_tree": tree,
        "inverse_label_map": np.array([clusters[label] - 300 for label in range(len(clusters))]),
        "core_dists": fit.prediction_data_.tree.query(rows(300, 3), MIN_SAMPLES + 1)[0][:, -1].astype(np.float32),
    }


def cuml_attach(state, points, x):
    """The training point that a new one hangs on, and at which lambda: `_find_neighbor_and_lambda` of predict.cuh."""
    distances = np.linalg.norm(x[:, np.newaxis].astype(np.float64) - points, axis=-1)
    near = np.argsort(distances, axis=1, kind="stable")[:, : 2 * MIN_SAMPLES]
    distances = np.take_along_axis(distances, near, axis=1)
    reach = np.maximum(np.maximum(distances, state["core_dists"][near]), distances[:, [MIN_SAMPLES]])
    return np.take_along_axis(near, reach.argmin(axis=1, keepdims=True), axis=1)[:, 0], 1 / reach.min(axis=1)


def cuml_predict(state, labels, points, x):
    """`cluster_probability_kernel` of cuML's kernels/predict.cuh, which asks for labels and climbs no tree."""
    tree, root = state["condensed_tree"], state["n_leaves"]
    born = dict(zip(tree["child"], tree["lambda_val"], strict=True))
    nearest, lambdas = cuml_attach(state, points, x)
    selected = root + state["inverse_label_map"][labels[nearest]]
    found = (labels[nearest] >= 0) & (np.array([born[cluster] for cluster in selected]) < lambdas)
    deaths = np.array([tree["lambda_val"][tree["parent"] == cluster].max() for cluster in selected])
    return np.where(found, labels[nearest], -1), np.where(found, np.minimum(deaths, lambdas) / deaths, 0)


def cuml_membership(state, labels, points, x):
    """`membership_vector` of cuML's soft_clustering.cuh."""
    tree, selected = state["condensed_tree"], state["n_leaves"] + state["inverse_label_map"]
    parent = dict(zip(tree["child"], tree["parent"], strict=True))
    born = dict(zip(tree["child"], tree["lambda_val"], strict=True))
    death = {cluster: tree["lambda_val"][tree["parent"] == cluster].max() for cluster in np.unique(tree["parent"])}
    leaves = set(death) - set(tree["parent"][tree["child_size"] > 1])
    exemplar = np.array([parent[i] in leaves and born[i] == death[parent[i]] for i in range(len(points))])

    def height(nearest, lambda_, cluster):
        left, right, last, turns = parent[nearest], cluster, None, set()
        while left != right:
            turns.add(left > right)
            last = max(left, right)
            left, right = (parent[left], right) if left > right else (left, parent[right])
        return born[last] if len(turns) == 2 else lambda_

    result = []
    for nearest, lambda_, row in zip(*cuml_attach(state, points, x), x, strict=True):
        lambda_ = min(lambda_, born[nearest])
        heights = np.array([height(nearest, lambda_, cluster) for cluster in selected])
        own = death[parent[nearest]]
        outlier = own / np.where(own - heights > 0, own - heights, 1e-8)
        outlier = np.exp(outlier - outlier.max())
        apart = np.linalg.norm(points - row, axis=1)
        near = 1 / np.array([apart[exemplar & (labels == label)].min() for label in range(len(selected))])
        joint = (outlier / outlier.sum()) ** 2 * np.sqrt(near / near.sum())
        closest = heights.argmax()
        in_any = heights[closest] / (max(lambda_, death[selected[closest]]) + 1e-8)
        result.append(joint / joint.sum() * in_any)
    return np.array(result)


def read_cuml_state():
    model = HDBSCAN(min_cluster_size=10, min_samples=MIN_SAMPLES)
    state = cuml_state()
    model._raw_data, model.labels_, model._condensed_tree = rows(300, 3), hdbscan_fit().labels_, state["condensed_tree"]
    predict_as_cuml(model, state["inverse_label_map"], state["core_dists"])
    return model


def test_new_points_are_predicted_as_cuml_does():
    x = rows(200, 3, seed=1)

    labels, probabilities = read_hdbscan(read_cuml_state()).predict(x)

    expected = cuml_predict(cuml_state(), hdbscan_fit().labels_, rows(300, 3), x)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_allclose(probabilities, expected[1], rtol=1e-6)
    np.testing.assert_array_equal(labels, approximate_predict(read_cuml_state(), x)[0])
    assert 0 < (labels == -1).sum() < 100
    assert (probabilities != read_hdbscan(hdbscan_fit()).predict(x)[1]).any()


def test_memberships_are_those_of_cuml():
    x = rows(200, 3, seed=1)

    membership = read_hdbscan(read_cuml_state()).membership(x)

    np.testing.assert_allclose(
        membership, cuml_membership(cuml_state(), hdbscan_fit().labels_, rows(300, 3), x), rtol=1e-4, atol=1e-9
    )


def test_a_selected_cluster_without_points_of_its_own_keeps_its_descendants():
    """Labels alone do not tell it from its first child."""
    model = HDBSCAN(min_cluster_size=2, min_samples=1)
    model._raw_data = np.repeat(np.array([[0.0], [1.0], [9.0]], np.float32), 3, axis=0) + np.float32(0.1) * (
        np.arange(9, dtype=np.float32)[:, np.newaxis] % 3
    )
    model.labels_ = np.repeat([0, 1], [6, 3])
    clusters = [(9, 10, 0.1, 6), (9, 11, 0.1, 3), (10, 12, 1.0, 3), (10, 13, 1.0, 3)]
    points = [(parent, child, 9.0, 1) for child, parent in enumerate(np.repeat([12, 13, 11], 3))]
    fields = [("parent", np.intp), ("child", np.intp), ("lambda_val", np.float64), ("child_size", np.intp)]
    model._condensed_tree = np.array(clusters + points, fields)

    predict_as_cuml(model, np.array([1, 2]), np.full(9, 0.1, np.float32))

    np.testing.assert_array_equal(read_hdbscan(model).predict(model._raw_data)[0], model.labels_)


@pytest.mark.parametrize("model", [UMAP(), HDBSCAN(), SimpleNamespace()], ids=["umap-learn", "hdbscan", "neither"])
def test_other_models_are_left_as_they_are(model):
    assert from_cuml(model) is model
    assert cuml_version(model) == {}


@without_cuml
def test_a_pickle_of_cuml_says_where_it_opens(tmp_path):
    for name in THREE_PICKLES:
        (tmp_path / name).write_bytes(b"ccuml.manifold.umap.umap\nUMAP\n.")

    with pytest.raises(UnreadableModel, match=r"umap\.pickle.*trained with cuML.*\[convert,cuml\]"):
        read_source(tmp_path, trust_pickle=True)


class OnGpu:
    def __reduce__(self):
        return exec, ("raise RuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')",)


def test_a_pickle_that_needs_a_gpu_says_so(tmp_path):
    joblib.dump(OnGpu(), tmp_path / "model")

    with pytest.raises(UnreadableModel, match=r"no CUDA-capable device.*convert it on a machine with one"):
        read_source(tmp_path / "model", trust_pickle=True)


def cuml_umap(**changed):
    """A cuml.manifold.UMAP as if it had fitted what umap-learn did."""
    from cuml.internals.array import CumlArray
    from cuml.manifold import UMAP as CumlUMAP

    fit = umap_fit()
    model = CumlUMAP(n_neighbors=6, n_epochs=30, metric="cosine")
    model.embedding_ = CumlArray(data=fit.embedding_)
    model._raw_data = CumlArray(data=fit._raw_data)
    model._a, model._b, model._n_neighbors, model._sparse_data, model.n_features_in_ = fit._a, fit._b, 6, False, 8
    for name, value in changed.items():
        setattr(model, name, value)
    return model


@with_cuml
def test_a_umap_of_cuml_is_read_as_one_of_umap_learn():
    x = rows(20, 8, seed=1)

    read = read_umap(from_cuml(cuml_umap(learning_rate=0.5)))

    expected = read_umap(umap_fit())
    assert read.parameters == expected.parameters._replace(initial_alpha=0.5, disconnection_distance=None)
    np.testing.assert_array_equal(read.transform(x), expected.transform(x))


@with_cuml
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric": "sqeuclidean"}, "metric is 'sqeuclidean'; supported are cosine, euclidean, l2"),
        ({"_sparse_data": True}, "sparse matrix"),
        ({"n_epochs": 2}, "n_epochs is 2"),
        ({"negative_sample_rate": 0}, "negative_sample_rate is 0"),
        ({"n_features_in_": None}, "cuML UMAP has not been fitted"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_option_of_cuml_that_cannot_be_served_is_refused_by_name(changed, message):
    with pytest.raises(UnsupportedModel, match=message):
        read_umap(from_cuml(cuml_umap(**changed)))


@with_cuml
def test_a_umap_of_an_old_cuml_is_refused_by_version():
    model = cuml_umap()
    del model._a

    with pytest.raises(UnsupportedModel, match=r"lacks what cuML 25\.12 to 26\.6 keep.*'_a'"):
        from_cuml(model)


@with_cuml
def test_another_model_of_cuml_is_refused_by_name():
    from cuml.cluster import KMeans
    from cuml.decomposition import PCA

    with pytest.raises(UnsupportedModel, match=r"cuml\.decomposition\S*PCA; only umap\.UMAP and cuml\.manifold\.UMAP"):
        read_umap(from_cuml(PCA()))
    with pytest.raises(UnsupportedModel, match=r"cuml\.cluster\S*KMeans.*hdbscan\.HDBSCAN and cuml\.cluster\.HDBSCAN"):
        read_hdbscan(from_cuml(KMeans()))


@with_cuml
def test_an_hdbscan_of_cuml_is_read_as_one_of_hdbscan():
    import cuml
    from cuml.internals.array import CumlArray

    model = cuml.cluster.HDBSCAN(min_cluster_size=10, min_samples=MIN_SAMPLES)
    model.labels_ = CumlArray(data=hdbscan_fit().labels_)
    model._raw_data = CumlArray(data=rows(300, 3))
    model._state = SimpleNamespace(to_dict=cuml_state)
    model.n_features_in_ = 3
    x = rows(50, 3, seed=1)

    read = read_hdbscan(from_cuml(model))

    np.testing.assert_array_equal(read.predict(x), read_hdbscan(read_cuml_state()).predict(x))
    assert cuml_version(model) == {"cuml": cuml.__version__}


@pytest.fixture(scope="module")
def trained():
    """A UMAP and an HDBSCAN that cuML trained, and rows that they never saw."""
    from cuml.cluster import HDBSCAN as CumlHDBSCAN
    from cuml.manifold import UMAP as CumlUMAP

    x = rows(4_000, 32)
    umap = CumlUMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=7).fit(x)
    clusterer = CumlHDBSCAN(min_cluster_size=30, prediction_data=True).fit(umap.embedding_)
    return umap, clusterer, rows(1_000, 32, seed=1)


@pytest.mark.gpu
@with_cuml
def test_topics_agree_with_the_consensus_of_cuml_as_well_as_a_run_of_cuml(trained):
    umap, clusterer, x = trained
    read_as, clusters = from_cuml(umap), from_cuml(clusterer)
    mapping = {label: label for label in range(-1, clusterer.n_clusters_)}

    runs = bertopic_runs(read_as, clusters, mapping, x, seeds=12)
    topics = read_hdbscan(clusters).predict(read_umap(read_as).transform(x))[0]

    single = np.mean([credit(run, np.delete(runs, i, axis=0)).mean() for i, run in enumerate(runs)])
    assert credit(topics, runs).mean() >= single - 0.01
    assert isinstance(read_as, CumlUmap)


@pytest.mark.gpu
@with_cuml
def test_labels_and_probabilities_are_those_of_cumls_approximate_predict(trained):
    from cuml.cluster import hdbscan

    umap, clusterer, x = trained
    reduced = np.asarray(umap.transform(x))

    labels, probabilities = read_hdbscan(from_cuml(clusterer)).predict(reduced)

    expected = [np.asarray(array) for array in hdbscan.approximate_predict(clusterer, reduced)]
    # Single precision makes cuML's neighbours tie where ours do not.
    assert np.mean(labels == expected[0]) >= 0.99
    assert np.quantile(np.abs(probabilities - expected[1]), 0.99) < 0.01


@pytest.mark.gpu
@with_cuml
def test_memberships_are_those_of_cumls_membership_vector(trained):
    from cuml.cluster import hdbscan

    umap, clusterer, x = trained
    reduced = np.asarray(umap.transform(x))

    membership = read_hdbscan(from_cuml(clusterer)).membership(reduced)

    expected = np.asarray(hdbscan.membership_vector(clusterer, reduced))
    assert np.quantile(np.abs(membership - expected).max(axis=1), 0.99) < 0.01


@pytest.mark.gpu
@with_cuml
def test_pickles_of_cuml_are_read_where_it_is_installed(trained, tmp_path):
    umap, clusterer, x = trained
    mapping = {label: label for label in range(-1, clusterer.n_clusters_)}
    for name, part in zip(THREE_PICKLES, (umap, clusterer, mapping), strict=True):
        joblib.dump(part, tmp_path / name)

    source = read_source(tmp_path, trust_pickle=True)

    np.testing.assert_array_equal(read_umap(source.umap).transform(x), read_umap(from_cuml(umap)).transform(x))
    np.testing.assert_array_equal(source.hdbscan.labels_, np.asarray(clusterer.labels_))
    assert "cuml" in source.origin
    assert sum(topic["size"] for topic in source.topics) == 4_000
