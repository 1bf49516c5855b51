"""Weights and activations in half precision, for GPUs, by ONNX Runtime's own converter.

Layer normalisation stays in single precision, which halves the error, and so do pooling and all that follows it.
Softmax does not: its kernels sum in single precision whatever goes in and comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._encoder import GRAPH, Embedder, OnnxEncoder
from ._exceptions import VerificationError
from ._tokenizer import Tokenizer
from ._verify import TEXTS, cosines

SMALLEST_MEAN_COSINE = 0.999


def halve(folder: Path, expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn the fp32 graph in `folder` into an fp16 one, in place; what goes in and comes out keeps its type.

    Parameters
    ----------
    folder : Path
        As `export` writes it; the tokenizer is needed as well.
    expected : float32 [len(TEXTS), dim]
        Embeddings of TEXTS.

    Returns
    -------
    float64 [len(TEXTS)]
        Cosine of each embedding to the expected one, where every intermediate result is rounded as on a GPU.

    Raises
    ------
    UnreadableEmbedder
        The graph or the tokenizer is missing or damaged.
    VerificationError
        The mean cosine is below 0.999; the fp32 graph stays.
    """
    import onnx

    path = folder / GRAPH
    half = _converted(onnx.load(path))
    embedder = Embedder(Tokenizer.load(folder), OnnxEncoder(_rounding_session(half)))
    similarity = cosines(embedder.encode(list(TEXTS)), expected)
    if not similarity.mean() >= SMALLEST_MEAN_COSINE:
        raise VerificationError(
            f"fp16 embeddings have a mean cosine of {similarity.mean():.4f} to sentence-transformers'; at least "
            f"{SMALLEST_MEAN_COSINE} is accepted (nan: a number grew beyond 65,504). Export this model with "
            "precision='fp32'."
        )
    path.write_bytes(half.SerializeToString(deterministic=True))
    return similarity


def _converted(model: Any) -> Any:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST
    from onnxruntime.transformers.onnx_model import OnnxModel

    # Tracing names a node after the modules that it is in.
    outside = [node.name for node in model.graph.node if not node.name.startswith("/transformer/")]
    converter = OnnxModel(model)
    converter.convert_float_to_float16(
        use_symbolic_shape_infer=False,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "LayerNormalization"],
        node_block_list=outside,
    )
    converter.topological_sort(is_deterministic=True)
    return converter.model


def _rounding_session(model: Any) -> Any:
    """Runs a graph such that every result is rounded to its type.

    On a CPU most operators compute in fp32, and ONNX Runtime leaves out what roundings it can in between. It
    cannot where operators without arithmetic follow; of a single one it makes one in fp32 too.
    """
    import onnxruntime
    from onnx import ModelProto, helper

    rounding = ModelProto()
    rounding.CopyFrom(model)
    nodes = rounding.graph.node
    del nodes[:]
    for node in model.graph.node:
        nodes.add().CopyFrom(node)
        nodes[-1].output[:] = [f"{output}/exact" for output in node.output]
        for output in node.output:
            nodes.append(helper.make_node("Identity", [f"{output}/exact"], [f"{output}/rounded"]))
            nodes.append(helper.make_node("Identity", [f"{output}/rounded"], [output]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(rounding.SerializeToString(), options, providers=["CPUExecutionProvider"])
