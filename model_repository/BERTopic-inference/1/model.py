"""Embeddings to topics."""

import triton_python_backend_utils as pb_utils
from bertopic_engine import TopicModel
from bertopic_engine.serving import Endpoint, device, sibling, topic_outputs


class TritonPythonModel:
    def initialize(self, args):
        self.model = TopicModel.load(sibling(args, "umap"), sibling(args, "hdbscan"), device=device(args))
        self.endpoint = Endpoint(pb_utils, args, check=self.model.umap.check, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, embeddings):
        reduced = self.model.umap.transform(embeddings)
        outputs = topic_outputs(self.model.topics, reduced)
        self.endpoint.count_topics(outputs["OUT"][:, 0])
        return {**outputs, "REDUCED": reduced}
