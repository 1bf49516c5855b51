"""CumlTransform: what it stores and hands over to cuML, and on a GPU that it answers what cuML does."""

import json
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from bertopic_converters._umap import read_umap, read_umap_for_cuml
from bertopic_engine import DeviceUnavailable, InvalidInput, StorageError
from bertopic_engine.cuml import CumlTransform
from safetensors.numpy import load_file
from umap import UMAP

DIM = 16

with_cuml = pytest.mark.skipif(find_spec("cuml") is None, reason="cuML is not installed")


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@cache
def fitted():
    """By umap-learn, with options unlike cuML's defaults and a point that has no place."""
    model = UMAP(
        n_neighbors=7,
        n_components=3,
        metric="cosine",
        n_epochs=30,
        init="random",
        learning_rate=0.5,
        negative_sample_rate=4,
        repulsion_strength=2,
        local_connectivity=2,
        random_state=3,
    ).fit(rows(400))
    model.embedding_[5] = np.nan
    return model


def test_what_is_stored_are_the_arrays_and_parameters_of_the_model(tmp_path):
    transform = read_umap_for_cuml(fitted())

    transform.save(tmp_path)

    arrays, settings = load_file(tmp_path / "umap.safetensors"), json.loads((tmp_path / "umap.json").read_text())
    np.testing.assert_array_equal(arrays["embedding"], fitted().embedding_)
    np.testing.assert_array_equal(arrays["data"], rows(400))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["umap.json", "umap.safetensors"]
    assert (settings["layout"], settings["metric"], settings["n_neighbors"]) == ("cuml", "cosine", 7)
    assert (transform.dim, transform.n_components) == (DIM, 3)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (rows(3)[:, :5], r"shape \(3, 5\), expected \(n, 16\)"),
        (rows(3) * np.float32(np.inf), "row 0 of the embeddings holds NaN or Inf"),
        (rows(3) * np.float32([[1], [0], [1]]), "row 1 of the embeddings is all zeros"),
    ],
    ids=["shape", "infinite", "zero"],
)
def test_rows_without_an_answer_are_refused(embeddings, message):
    with pytest.raises(InvalidInput, match=message):
        read_umap_for_cuml(fitted()).transform(embeddings)


def test_what_was_converted_for_another_layout_is_refused(tmp_path):
    read_umap(fitted()).save(tmp_path)

    with pytest.raises(StorageError, match=r"no complete UMAP for cuML.*--layout cuml"):
        CumlTransform.load(tmp_path)


@pytest.mark.skipif(find_spec("cuml") is not None, reason="cuML is installed")
def test_where_cuml_is_missing_loading_says_what_to_do(tmp_path):
    read_umap_for_cuml(fitted()).save(tmp_path)

    with pytest.raises(DeviceUnavailable, match=r"cuML cannot be used on GPU 0.*\[cuml\].*--layout mean_field"):
        CumlTransform.load(tmp_path)


def on_the_host(value):
    """An attribute of a cuml.manifold.UMAP as numpy has it."""
    if hasattr(value, "get_input_value"):
        value = value.get_input_value()
    return value.to_output("numpy") if hasattr(value, "to_output") else value


@with_cuml
def test_cuml_is_handed_what_it_takes_over_from_umap_learn(monkeypatch):
    """Arrays stay on the host, so that this needs no GPU."""
    import cuml.manifold
    from cuml.internals.array import CumlArray

    monkeypatch.setattr(
        "cuml.manifold.umap.umap.to_gpu", lambda x, order="K", dtype=None: CumlArray(data=np.asarray(x, dtype, order))
    )
    transform = read_umap_for_cuml(fitted())
    placed = np.isfinite(fitted().embedding_).all(axis=1)

    ours = cuml.manifold.UMAP(**transform._options())
    ours._sync_attrs_from_cpu(transform._fitted(placed))

    theirs = cuml.manifold.UMAP.from_sklearn(fitted())
    for name in ("embedding_", "_raw_data"):
        np.testing.assert_array_equal(on_the_host(vars(ours)[name]), on_the_host(vars(theirs)[name])[placed])
    of_the_fit = {"embedding_", "_raw_data", "graph_", "_sigmas", "_rhos", "init", "_input_hash", "hash_input"}
    for name in set(vars(theirs)) - of_the_fit - {"random_state"}:
        assert vars(ours)[name] == vars(theirs)[name], name


@pytest.mark.gpu
@with_cuml
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_model_of_cuml_answers_as_in_cuml(metric, tmp_path):
    from bertopic_converters._cuml import from_cuml
    from cuml.manifold import UMAP as CumlUMAP

    model = CumlUMAP(n_neighbors=7, n_components=3, metric=metric).fit(rows(2_000))
    read_umap_for_cuml(from_cuml(model)).save(tmp_path)

    transform = CumlTransform.load(tmp_path)

    model.random_state = transform.parameters.rng_state[0] % 2**32
    np.testing.assert_array_equal(transform.transform(rows(500, seed=1)), model.transform(rows(500, seed=1)))


@pytest.mark.gpu
@with_cuml
def test_a_model_of_umap_learn_answers_as_cuml_does_after_taking_it_over():
    from cuml.manifold import UMAP as CumlUMAP

    model = UMAP(n_neighbors=7, metric="cosine", n_epochs=150, random_state=3).fit(rows(400))
    transform = read_umap_for_cuml(model)

    taken_over = CumlUMAP.from_sklearn(model)
    taken_over.random_state = transform.parameters.rng_state[0] % 2**32
    np.testing.assert_array_equal(transform.transform(rows(500, seed=1)), taken_over.transform(rows(500, seed=1)))


@pytest.mark.gpu
@with_cuml
def test_no_row_is_connected_to_a_point_without_a_place():
    transform = read_umap_for_cuml(fitted())

    assert np.isfinite(transform.transform(rows(400)[:20])).all()
