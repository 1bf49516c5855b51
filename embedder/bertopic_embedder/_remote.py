"""Token ids to sentence embeddings, by another model of the same Triton server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._encoder import Embedder
from ._tokenizer import Tokenizer


def triton_embedder(pb_utils: Any, args: Mapping[str, str]) -> Embedder:
    """The embedder of a python model whose siblings are NAME-tokenizer and NAME-bert.

    Parameters
    ----------
    pb_utils : module
        `triton_python_backend_utils`.
    args : mapping
        What Triton passes to `initialize`; the model's config has the parameter `side_by_side`.

    Raises
    ------
    UnreadableEmbedder
        The tokenizer is missing or damaged.
    """
    name, version = args["model_name"].rpartition("-")[0], args["model_version"]
    tokenizer = Tokenizer.load(Path(args["model_repository"]).parent / f"{name}-tokenizer" / version)
    parameters = json.loads(args["model_config"])["parameters"]
    return Embedder(
        tokenizer,
        TritonEncoder(pb_utils, f"{name}-bert", int(version)),
        side_by_side=int(parameters["side_by_side"]["string_value"]),
    )


class TritonEncoder:
    """Calls a model such as BERTopic-bert from within a python model.

    Parameters
    ----------
    pb_utils : module
        `triton_python_backend_utils`.
    model : str
    version : int
    """

    def __init__(self, pb_utils: Any, model: str, version: int) -> None:
        self._pb_utils = pb_utils
        self._model = model
        self._version = version
        # A network on a GPU leaves its answer there, where numpy cannot read it.
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of tokenised texts, as `OnnxEncoder.encode` gives them.

        Raises
        ------
        TritonModelException
            The model did not answer.
        """
        tensors = {"INPUT_IDS": input_ids, "ATTENTION_MASK": attention_mask}
        response = self._pb_utils.InferenceRequest(
            model_name=self._model,
            model_version=self._version,
            requested_output_names=["EMBEDDING"],
            inputs=[self._pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in tensors.items()],
            preferred_memory=self._memory,
        ).exec()
        if response.has_error():
            raise self._pb_utils.TritonModelException(f"{self._model} did not answer: {response.error().message()}")
        embeddings: NDArray[np.float32] = self._pb_utils.get_output_tensor_by_name(response, "EMBEDDING").as_numpy()
        return embeddings
