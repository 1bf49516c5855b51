"""Reduced coordinates to topics, by HDBSCAN's prediction and BERTopic's mapping."""

import triton_python_backend_utils as pb_utils
from bertopic_engine import TopicPredictor
from bertopic_engine.serving import Endpoint, sibling, topic_outputs


class TritonPythonModel:
    def initialize(self, args):
        self.topics = TopicPredictor.load(sibling(args, "hdbscan"))
        self.endpoint = Endpoint(pb_utils, args, check=self.topics.check, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, reduced):
        return topic_outputs(self.topics, reduced)
