"""Fidelity figures: recomputed from BERTopic's own transform, and visibly bad where the model is."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import bertopic_engine
import joblib
import numpy as np
import pytest
from bertopic_converters import ConversionError, DimensionMismatch, Fidelity, UntrustedPickle, verify
from bertopic_converters._fidelity import (
    _converted_embedder,
    _share_within,
    bertopic_runs,
    credit,
    measure_on_surrogates,
    surrogates,
)
from bertopic_converters._hdbscan import read_hdbscan
from bertopic_converters._umap import read_umap
from bertopic_engine import TopicPredictor, UmapTransform
from bertopic_engine.neighbors import ExactNeighbors

ROWS, SEEDS = 300, 4


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="module")
def embeddings(encoder: Any, trained: Any) -> Any:
    return encoder.encode(trained.texts[:ROWS])


@pytest.fixture(scope="module")
def report(repository: Path, trained: Any, encoder: Any) -> Fidelity:
    return verify(repository, trained.model, trained.texts[:ROWS], embedder=encoder, seeds=SEEDS)


@pytest.fixture(scope="module")
def runs(trained: Any, embeddings: Any) -> list[list[int]]:
    """BERTopic's own answers, by its own method."""
    model = copy.deepcopy(trained.model)
    answers = []
    for seed in range(SEEDS):
        model.umap_model.transform_seed = seed
        answers.append(list(model.transform(trained.texts[:ROWS], embeddings)[0]))
    return answers


@pytest.fixture(scope="module")
def converted(repository: Path) -> Any:
    return bertopic_engine.load(repository)


@pytest.fixture(scope="module")
def mapping(trained: Any) -> dict[int, int]:
    found: dict[int, int] = trained.model.topic_mapper_.get_mappings(original_topics=True)
    return found


def expected_agreement(topics: list[int], consensus_of: list[list[int]]) -> float:
    """Share of rows on the mode, by counting; a topic that ties with others has its part of the row."""
    total = 0.0
    for topic, answers in zip(topics, zip(*consensus_of, strict=True), strict=True):
        counts = Counter(answers)
        modes = [answer for answer, count in counts.items() if count == max(counts.values())]
        total += (topic in modes) / len(modes)
    return total / len(topics)


def leaving_out(runs: list[list[int]], run: int) -> list[list[int]]:
    return runs[:run] + runs[run + 1 :]


def test_runs_of_bertopic_are_compared_with_the_others(report: Fidelity, runs: list[list[int]]) -> None:
    expected = [expected_agreement(runs[i], leaving_out(runs, i)) for i in range(SEEDS)]
    assert report.agreement.runs == pytest.approx(expected)
    assert report.agreement.single_run == pytest.approx(np.mean(expected))
    assert (report.agreement.lowest_run, report.agreement.highest_run) == pytest.approx((min(expected), max(expected)))


def test_the_converted_model_is_compared_with_the_same_consensuses(
    report: Fidelity, runs: list[list[int]], repository: Path, converted: Any, trained: Any, embeddings: Any
) -> None:
    topics = converted.predict(_converted_embedder(repository, "BERTopic").encode(trained.texts[:ROWS])).topics
    expected = np.mean([expected_agreement(topics.tolist(), leaving_out(runs, i)) for i in range(SEEDS)])
    assert report.agreement.converted == pytest.approx(expected)
    assert report.outliers.converted == pytest.approx(np.mean(topics == -1))
    assert report.embedding is not None
    assert report.embedding.changed_topics == pytest.approx(np.mean(topics != converted.predict(embeddings).topics))
    unanimous = [i for i in range(ROWS) if len({run[i] for run in runs}) == 1]
    assert report.agreement.on_unanimous_rows == pytest.approx(np.mean([topics[i] == runs[0][i] for i in unanimous]))


def test_disagreement_and_outliers(report: Fidelity, runs: list[list[int]], trained: Any) -> None:
    answers = np.array(runs)
    assert report.disagreement.any_run == pytest.approx(np.mean([len(set(row)) > 1 for row in answers.T]))
    pairs = [np.mean(answers[i] != answers[j]) for i in range(SEEDS) for j in range(i)]
    assert report.disagreement.two_runs == pytest.approx(np.mean(pairs))
    assert 0 < report.disagreement.two_runs < 0.5
    assert report.outliers.bertopic == pytest.approx(np.mean(answers == -1))
    assert report.outliers.training == pytest.approx(np.mean(np.array(trained.model.topics_) == -1))


def test_stability_sums_to_the_agreement(report: Fidelity) -> None:
    assert [stability.runs_on_consensus for stability in report.stability][-1] == "all"
    assert sum(stability.rows for stability in report.stability) == ROWS
    for figure in ("converted", "single_run"):
        total = sum((getattr(stability, figure) or 0) * stability.rows for stability in report.stability)
        assert total / ROWS == pytest.approx(getattr(report.agreement, figure))
    assert report.stability[-1].single_run == 1


def test_a_faithful_model_looks_faithful(report: Fidelity) -> None:
    assert (report.rows, report.seeds, report.measured_on) == (ROWS, SEEDS, "texts")
    assert report.agreement.converted > report.agreement.lowest_run - 0.05
    assert report.neighbor_recall.converted == 1
    assert report.embedding is not None
    assert report.embedding.largest < 1e-4
    assert report.embedding.smallest_cosine > 0.99999


def test_figures_survive_json(report: Fidelity) -> None:
    figures = report.as_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert figures["agreement"]["converted"] == report.agreement.converted


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_draws_a_picture(report: Fidelity, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"fidelity.{ending}"
    report.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("topic", "answers", "expected"),
    [
        pytest.param(3, [3, 3, 5], 1, id="consensus"),
        pytest.param(5, [3, 3, 5], 0, id="minority"),
        pytest.param(7, [3, 3, 5], 0, id="nobody"),
        pytest.param(5, [3, 5, 3, 5], 1 / 2, id="tie of two"),
        pytest.param(-1, [-1, 3, 5], 1 / 3, id="all different"),
        pytest.param(7, [3, 5, 5, 3], 0, id="outside a tie"),
    ],
)
def test_a_tie_is_shared(topic: int, answers: list[int], expected: float) -> None:
    assert credit(np.array([topic], np.int32), np.array(answers, np.int32)[:, np.newaxis]) == pytest.approx([expected])


def test_the_models_stay_as_they_are(trained: Any, embeddings: Any, mapping: dict[int, int]) -> None:
    umap_model = trained.model.umap_model
    state = ("transform_seed", "random_state", "_input_hash")
    before = [getattr(umap_model, name) for name in state]
    bertopic_runs(umap_model, trained.model.hdbscan_model, mapping, embeddings[:20], 2)
    assert [getattr(umap_model, name) for name in state] == before


def test_rows_that_umap_remembers_are_transformed_like_any_others(
    trained: Any, embeddings: Any, mapping: dict[int, int]
) -> None:
    rows = embeddings[:20]
    remembering = copy.copy(trained.model.umap_model)
    remembering._input_hash = joblib.hash(rows)
    assert len(remembering.transform(rows)) > len(rows)
    expected, found = (
        bertopic_runs(model, trained.model.hdbscan_model, mapping, rows, 2)
        for model in (trained.model.umap_model, remembering)
    )
    np.testing.assert_array_equal(found, expected)


def parts(trained: Any, converted: Any, mapping: dict[int, int]) -> tuple[Any, ...]:
    model = trained.model
    return model.umap_model, model.hdbscan_model, mapping, converted.umap, converted.topics


def test_surrogates_give_the_same_figures_each_time(trained: Any, converted: Any, mapping: dict[int, int]) -> None:
    umap_model, *others = parts(trained, converted, mapping)
    unseeded = copy.copy(umap_model)
    unseeded.random_state = None
    figures = [measure_on_surrogates(model, *others, n_rows=100, seeds=3) for model in (umap_model, unseeded)]
    assert figures[0] is not None
    assert figures[0] == figures[1]
    assert (figures[0].measured_on, figures[0].rows, figures[0].embedding) == ("surrogates", 100, None)
    assert figures[0].agreement.converted > 0.8


def test_surrogates_lie_among_the_training_rows_and_are_none_of_them(trained: Any) -> None:
    data = trained.model.umap_model._raw_data
    neighbors = ExactNeighbors(data, "cosine")
    made = surrogates(data, neighbors, 15, 400)
    assert (made.shape, made.dtype) == ((400, data.shape[1]), np.float32)
    nearest = neighbors.query(made, 1)[1][:, 0]
    held_out = neighbors.query(trained.embeddings[:400], 1)[1][:, 0]
    assert nearest.min() > 1e-6
    assert 0.3 < np.median(nearest) / np.median(held_out) < 3


@pytest.mark.parametrize("n_neighbors", [2, 3, 15])
def test_surrogates_need_few_neighbors(n_neighbors: int) -> None:
    data = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    data[::3] = 0
    made = surrogates(data, ExactNeighbors(data, "cosine"), n_neighbors, 50)
    assert np.isfinite(made).all()
    assert made.any(axis=1).all()


def test_topics_under_other_names_are_reported(trained: Any, converted: Any, mapping: dict[int, int]) -> None:
    renamed = {
        cluster: topic if topic < 0 else (topic + 1) % (max(mapping.values()) + 1) for cluster, topic in mapping.items()
    }
    broken = TopicPredictor(converted.topics.hdbscan, renamed)
    figures = measure_on_surrogates(*parts(trained, converted, mapping)[:-1], broken, n_rows=100, seeds=3)
    assert figures is not None
    assert figures.agreement.converted < 0.5 < figures.agreement.lowest_run


def test_misplaced_training_rows_are_reported(trained: Any, converted: Any, mapping: dict[int, int]) -> None:
    umap_model, hdbscan_model, _, umap, topics = parts(trained, converted, mapping)
    shuffled = np.random.default_rng(0).permutation(umap_model.embedding_)
    neighbors = ExactNeighbors(umap_model._raw_data, "cosine")
    broken = UmapTransform(shuffled, neighbors, umap.parameters)
    figures = measure_on_surrogates(umap_model, hdbscan_model, mapping, broken, topics, n_rows=100, seeds=3)
    assert figures is not None
    assert figures.agreement.converted < 0.5 < figures.agreement.lowest_run


def test_misplaced_neighbors_are_reported(trained: Any, converted: Any, mapping: dict[int, int]) -> None:
    umap_model, hdbscan_model, _, umap, topics = parts(trained, converted, mapping)
    broken = UmapTransform(umap_model.embedding_, ExactNeighbors(umap_model._raw_data[::-1], "cosine"), umap.parameters)
    figures = measure_on_surrogates(umap_model, hdbscan_model, mapping, broken, topics, n_rows=100, seeds=3)
    assert figures is not None
    assert figures.neighbor_recall.converted < 0.5


def test_recall_of_umaps_index() -> None:
    from hdbscan import HDBSCAN
    from umap import UMAP

    generator = np.random.default_rng(0)
    data = (generator.normal(size=(8, 1, 10)) + generator.normal(size=(8, 60, 10)) / 4).reshape(-1, 10)
    umap_model = UMAP(
        n_neighbors=10, n_components=2, metric="cosine", n_epochs=50, random_state=1, force_approximation_algorithm=True
    ).fit(data.astype(np.float32))
    hdbscan_model = HDBSCAN(min_cluster_size=10, prediction_data=True).fit(umap_model.embedding_)
    mapping = {label: label for label in np.unique(hdbscan_model.labels_).tolist()}
    umap, topics = read_umap(umap_model), TopicPredictor(read_hdbscan(hdbscan_model), mapping)
    figures = measure_on_surrogates(umap_model, hdbscan_model, mapping, umap, topics, n_rows=100, seeds=2)
    assert figures is not None
    rows = surrogates(umap_model._raw_data, ExactNeighbors(umap_model._raw_data, "cosine"), 10, 100)
    index = umap_model._knn_search_index
    found = index.query(rows, 10, epsilon=0.24 if index._angular_trees else 0.12)[0]
    unit_rows, unit_data = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, umap_model._raw_data))
    nearest = np.argsort(-unit_rows.astype(np.float64) @ unit_data.astype(np.float64).T, axis=1)[:, :10]
    expected = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), nearest.tolist(), strict=True)])
    assert figures.neighbor_recall.umap == pytest.approx(expected, abs=0.002)
    assert figures.neighbor_recall.converted == 1


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_share_of_neighbors(metric: str) -> None:
    generator = np.random.default_rng(0)
    data, queries = (generator.normal(size=(n, 6)).astype(np.float32) for n in (200, 300))
    nearest, distances = ExactNeighbors(data, metric).query(queries, 8)
    spoiled = nearest.copy()
    spoiled[:, 6] = ExactNeighbors(data, metric).query(queries, 20)[0][:, 19]
    spoiled[::2, 7] = -1
    assert _share_within(queries, data, nearest, distances[:, -1], metric) == 1
    assert _share_within(queries, data, spoiled, distances[:, -1], metric) == pytest.approx(1 - 1.5 / 8)


def test_a_umap_that_cannot_transform_is_not_measured(trained: Any, converted: Any, mapping: dict[int, int]) -> None:
    umap_model, *others = parts(trained, converted, mapping)
    without_index = copy.copy(umap_model)
    without_index._knn_search_index = None
    assert measure_on_surrogates(without_index, *others) is None


def test_the_wrong_embedder_is_reported(repository: Path, trained: Any, encoder: Any) -> None:
    import torch

    other = copy.deepcopy(encoder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    figures = verify(repository, trained.model, trained.texts[:100], embedder=other, seeds=2)
    assert figures.embedding is not None
    assert figures.embedding.smallest_cosine < 0.9
    assert figures.embedding.largest > 0.01
    assert figures.embedding.changed_topics > 0.2


def test_the_models_own_embedder_is_the_default(repository: Path, fresh_model: Any, encoder: Any, trained: Any) -> None:
    from bertopic.backend._utils import select_backend

    fresh_model.embedding_model = select_backend(encoder)
    figures = verify(repository, fresh_model, trained.texts[:20], seeds=2)
    assert figures.embedding is not None
    assert figures.embedding.largest < 1e-4


def test_three_pickles(repository: Path, trained: Any, encoder: Any, mapping: dict[int, int], tmp_path: Path) -> None:
    found = {"umap": trained.model.umap_model, "hdbscan": trained.model.hdbscan_model, "mappings": mapping}
    for name, part in found.items():
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(part))
    texts = trained.texts[:20]
    assert verify(repository, tmp_path, texts, embedder=encoder, seeds=2, trust_pickle=True) == verify(
        repository, trained.model, texts, embedder=encoder, seeds=2
    )


def merged(model: Any) -> Any:
    mapping = model.topic_mapper_.get_mappings(original_topics=True)
    documents = [f"text {i}" for i in range(len(model.topics_))]
    model.merge_topics(documents, [0, 1])
    assert model.topic_mapper_.get_mappings(original_topics=True) != mapping
    return model


def test_topics_merged_after_the_conversion_are_refused(
    repository: Path, fresh_model: Any, encoder: Any, trained: Any
) -> None:
    with pytest.raises(ConversionError, match="clusters map to other topics"):
        verify(repository, merged(fresh_model), trained.texts[:5], embedder=encoder, seeds=2)


def test_a_model_of_other_dimensions_is_refused(repository: Path, fresh_model: Any, encoder: Any, trained: Any) -> None:
    from umap import UMAP

    data = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    fresh_model.umap_model = UMAP(n_neighbors=5, n_components=5, n_epochs=20).fit(data)
    with pytest.raises(ConversionError, match="another model: 384 embedding dimensions, not 10"):
        verify(repository, fresh_model, trained.texts[:5], embedder=encoder, seeds=2)


def test_an_embedder_of_other_dimensions_is_refused(repository: Path, encoder: Any, trained: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    shorter = SentenceTransformer(modules=[*copy.deepcopy(encoder), Dense(384, 8)], device="cpu")
    with pytest.raises(DimensionMismatch, match="gives 8 dimensions, UMAP was trained on 384"):
        verify(repository, trained.model, trained.texts[:5], embedder=shorter, seeds=2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param({"seeds": 1}, "seeds is 1; .* at least 2", id="one seed"),
        pytest.param({"texts": []}, "no texts", id="no texts"),
        pytest.param({"embedder": None}, "holds no embedding model.*--embedder", id="no embedder"),
        pytest.param({"model": "missing.pickle"}, "missing.pickle does not exist", id="no model"),
    ],
)
def test_says_what_is_missing(
    repository: Path, trained: Any, encoder: Any, options: dict[str, Any], complaint: str
) -> None:
    given = {"model": trained.model, "texts": trained.texts[:5], "embedder": encoder, "seeds": 2} | options
    with pytest.raises(ConversionError, match=complaint):
        verify(repository, given.pop("model"), given.pop("texts"), **given)


def test_a_pickle_is_not_read_without_leave(repository: Path, trained: Any, encoder: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(None))
    with pytest.raises(UntrustedPickle):
        verify(repository, path, trained.texts[:5], embedder=encoder)
