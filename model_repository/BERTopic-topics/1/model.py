"""The topics themselves, each as one JSON object; all of them for an empty request."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

# Each id is answered with a whole record: nobody is to have gigabytes of them written.
_MAX_IDS = 1024


class TritonPythonModel:
    def initialize(self, args):
        path = Path(args["model_repository"]) / args["model_version"] / "topics.json"
        topics = json.loads(path.read_text(encoding="utf-8"))
        self.topics = {topic["id"]: json.dumps(topic, ensure_ascii=False).encode() for topic in topics}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        everything = "An empty TOPIC asks for all."
        ids = pb_utils.get_input_tensor_by_name(request, "TOPIC").as_numpy().tolist() or list(self.topics)
        if len(ids) > max(_MAX_IDS, len(self.topics)):
            return _refused(f"the request has {len(ids)} topics, expected at most {_MAX_IDS}. {everything}")
        unknown = [topic for topic in ids if topic not in self.topics]
        if unknown:
            known = f"{min(self.topics)} to {max(self.topics)}"
            return _refused(f"no topic {unknown[0]}: this model's topics are {known}. {everything}")
        records = np.array([self.topics[topic] for topic in ids], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("JSON", records)])


def _refused(error):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
