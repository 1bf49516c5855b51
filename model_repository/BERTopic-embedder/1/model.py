"""Text to sentence embeddings, by BERTopic-bert."""

import triton_python_backend_utils as pb_utils
from bertopic_embedder import decode, triton_embedder
from bertopic_engine.serving import Endpoint


class TritonPythonModel:
    def initialize(self, args):
        self.embedder = triton_embedder(pb_utils, args)
        self.endpoint = Endpoint(pb_utils, args, check=decode, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, texts):
        plan = self.embedder.plan(decode(texts))
        self.endpoint.count_texts(plan)
        return {"EMBEDDING": self.embedder.run(plan)}
