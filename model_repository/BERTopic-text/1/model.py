"""Text to topics: BERTopic-bert embeds, all else happens here."""

import triton_python_backend_utils as pb_utils
from bertopic_embedder import decode, triton_embedder
from bertopic_engine import TopicModel
from bertopic_engine.serving import Endpoint, device, sibling, topic_outputs


class TritonPythonModel:
    def initialize(self, args):
        self.embedder = triton_embedder(pb_utils, args)
        self.model = TopicModel.load(sibling(args, "umap"), sibling(args, "hdbscan"), device=device(args))
        self.endpoint = Endpoint(pb_utils, args, check=decode, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, texts):
        plan = self.embedder.plan(decode(texts))
        embeddings = self.embedder.run(plan)
        reduced = self.model.umap.transform(embeddings)
        outputs = topic_outputs(self.model.topics, reduced)
        self.endpoint.count_texts(plan)
        self.endpoint.count_topics(outputs["OUT"][:, 0])
        return {**outputs, "REDUCED": reduced, "EMBEDDING": embeddings}
