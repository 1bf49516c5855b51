"""Token ids to sentence embeddings, by ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from bertopic_embedder import OnnxEncoder


class TritonPythonModel:
    def initialize(self, args):
        # The engine has a function for this, which is all that this process would import and keep the engine for.
        on_gpu = args["model_instance_kind"] == "GPU"
        self.encoder = OnnxEncoder.load(
            Path(args["model_repository"]) / args["model_version"],
            threads=len(os.sched_getaffinity(0)),
            gpu=int(args["model_instance_device_id"]) if on_gpu else None,
        )

    def execute(self, requests):
        # Triton batches requests of one length only, so they stack as they are.
        input_ids, attention_mask = (
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in ("INPUT_IDS", "ATTENTION_MASK")
        )
        try:
            embeddings = self.encoder.encode(np.concatenate(input_ids), np.concatenate(attention_mask))
        except ValueError as error:
            if len(requests) > 1:
                return [self.execute([request])[0] for request in requests]
            return [_refused(error)]
        stops = np.cumsum([len(rows) for rows in input_ids])
        return [_answer(part) for part in np.split(embeddings, stops[:-1])]


def _answer(embeddings):
    return pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", embeddings)])


def _refused(error):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
