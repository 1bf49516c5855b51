"""Embeddings to UMAP's reduced coordinates."""

import triton_python_backend_utils as pb_utils
from bertopic_engine import load_transform
from bertopic_engine.serving import Endpoint, device, sibling


class TritonPythonModel:
    def initialize(self, args):
        self.umap = load_transform(sibling(args, "umap"), device(args))
        self.endpoint = Endpoint(pb_utils, args, check=self.umap.check, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, embeddings):
        return {"REDUCED": self.umap.transform(embeddings)}
