"""TopicPredictor against BERTopic's own renaming and summing."""

import tracemalloc
from functools import cache

import hdbscan
import numpy as np
import pytest
from bertopic import BERTopic
from bertopic._bertopic import TopicMapper
from bertopic_converters._hdbscan import read_hdbscan
from bertopic_engine import TopicPredictor

MERGED = {-1: -1, 0: 1, 1: 0, 2: 1, 3: -1, 4: 2}


def rows(n, seed=0):
    """Around five places, each of them a cluster."""
    rng = np.random.default_rng(seed)
    return (rng.integers(5, size=(n, 1)) * 4 + rng.normal(size=(n, 3))).astype(np.float32)


@cache
def clusterer():
    return hdbscan.HDBSCAN(min_cluster_size=30, prediction_data=True).fit(rows(600))


@pytest.fixture
def trained():
    """A BERTopic whose clusters were merged into other topics and into outliers."""
    model = BERTopic(hdbscan_model=clusterer())
    model.topics_ = sorted(MERGED)
    model.topic_mapper_ = TopicMapper(model.topics_)
    model.topic_mapper_.add_mappings(MERGED, model)
    model.topic_sizes_ = dict.fromkeys(MERGED.values(), 100)
    return model


@pytest.fixture
def predictor(trained):
    return TopicPredictor(read_hdbscan(clusterer()), trained.topic_mapper_.get_mappings(original_topics=True))


def test_the_clusters_are_those_that_are_merged():
    assert sorted(MERGED) == [-1, *range(read_hdbscan(clusterer()).n_clusters)]


def test_topics_are_those_of_bertopic(trained, predictor):
    points = rows(300, seed=1)
    labels, probabilities = hdbscan.approximate_predict(clusterer(), points)
    topics, found = predictor.predict(points)
    np.testing.assert_array_equal(topics, trained._map_predictions(labels))
    np.testing.assert_array_equal(found, probabilities.astype(np.float32))


def test_membership_is_that_of_bertopic(trained, predictor):
    points = rows(60, seed=1)
    expected = trained._map_probabilities(hdbscan.membership_vector(clusterer(), points), original_topics=True)
    membership = predictor.membership(points)
    assert membership.dtype == np.float32
    np.testing.assert_allclose(membership, expected, rtol=0, atol=1e-6)


def test_membership_takes_no_memory_beyond_the_answer(predictor):
    points = rows(20_000)
    predictor.membership(points[:1])
    tracemalloc.start()
    membership = predictor.membership(points)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The check for NaN holds one boolean a coordinate and a row.
    assert peak < membership.nbytes + points.size + len(points) + 50_000
