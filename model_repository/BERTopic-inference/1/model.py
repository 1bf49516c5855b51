"""Embeddings to topics."""

import triton_python_backend_utils as pb_utils
from bertopic_engine import TopicModel
from bertopic_engine.serving import Computed, Endpoint, sibling


class TritonPythonModel:
    def initialize(self, args):
        self.model = TopicModel.load(sibling(args, "umap"), sibling(args, "hdbscan"))
        self.endpoint = Endpoint(pb_utils, args, check=self.model.umap.check, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, embeddings):
        reduced = self.model.umap.transform(embeddings)
        topics, probabilities = self.model.topics.predict(reduced)
        self.endpoint.count_topics(topics)
        return {
            "OUT": topics[:, None],
            "PROBABILITY": probabilities[:, None],
            "MEMBERSHIP": Computed(lambda rows: self.model.topics.membership(reduced[rows])),
            "REDUCED": reduced,
        }
