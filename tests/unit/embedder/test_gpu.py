"""Graphs for a GPU: plain and masked, padded to few lengths, in half precision; and what serves them on one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bertopic_embedder._half as half
import numpy as np
import onnx
import onnxruntime
import pytest
from bertopic_embedder import (
    Embedder,
    OnnxEncoder,
    Tokenizer,
    UnavailableDevice,
    VerificationError,
    export,
    length_buckets,
)

CUDA = "CUDAExecutionProvider"
# None of these took part in the export.
UNSEEN = [
    "how do i reset my password",
    "a sentence of some words",
    "",
    "the end",
    *(" ".join(["words that repeat and the end"] * n) for n in range(1, 8)),
]
# TensorRT has kernels for none of these, or only for shapes that it knows beforehand.
UNSUITABLE = {"NonZero", "ScatterND", "IsNaN", "Loop", "If"}


def _cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "mpnet"])
def test_the_masked_graph_gives_the_embeddings_of_the_original(
    tiny_model: Callable[..., Any], tmp_path: Path, architecture: str
) -> None:
    model = tiny_model(architecture)
    report = export(model, tmp_path, device="gpu")
    assert (report.padding, report.precision, report.batch_invariant) == ("masked", "fp32", None)
    np.testing.assert_allclose(Embedder.load(tmp_path).encode(UNSEEN), model.encode(UNSEEN), atol=1e-4)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert not UNSUITABLE & operators or architecture == "mpnet"


def test_embeddings_do_not_depend_on_the_bucket(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    export(tiny_model(limit=60), tmp_path, device="gpu")
    encoder = OnnxEncoder.load(tmp_path)
    (ids,), (mask,) = Tokenizer.load(tmp_path).tokenize(["how do i reset"])
    n_tokens = mask.sum()
    unpadded = encoder.encode(ids[None, :n_tokens], mask[None, :n_tokens])
    for length in length_buckets(60):
        padding = (0, length - n_tokens)
        padded = encoder.encode(np.pad(ids[:n_tokens], padding)[None], np.pad(mask[:n_tokens], padding)[None])
        np.testing.assert_allclose(padded, unpadded, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_half_precision_stays_close_and_keeps_its_inputs_and_outputs(
    tiny_model: Callable[..., Any], tmp_path: Path, pooling: str
) -> None:
    model = tiny_model(pooling=pooling)
    report = export(model, tmp_path, precision="fp16", device="gpu")
    assert 0.999 < report.smallest_cosine <= report.mean_cosine < 0.9999999
    found = Embedder.load(tmp_path).encode(UNSEEN)
    assert found.dtype == np.float32
    assert _cosines(found, model.encode(UNSEEN)).min() > 0.999
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert [tensor.type.tensor_type.elem_type for tensor in graph.graph.input] == [int64, int64]
    assert [tensor.type.tensor_type.elem_type for tensor in graph.graph.output] == [float32]


def test_normalisation_and_pooling_stay_in_single_precision(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    from sentence_transformers.models import Normalize

    export(tiny_model(after=(Normalize(),)), tmp_path, precision="fp16", device="gpu")
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"), strict_mode=True).graph
    types = {item.name: item.type.tensor_type.elem_type for item in [*graph.value_info, *graph.output]}
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    precisions = {(node.op_type, types.get(node.output[0])) for node in graph.node}
    assert {("LayerNormalization", float32), ("ReduceSum", float32), ("ReduceL2", float32)} <= precisions
    assert {("LayerNormalization", float16), ("Softmax", float32)}.isdisjoint(precisions)
    products = Counter(types[node.output[0]] for node in graph.node if node.op_type == "MatMul")
    # Eight in each of the two layers, and the mean of the tokens.
    assert products == {float16: 16, float32: 1}


def test_the_cosine_is_measured_with_every_result_rounded() -> None:
    """As a GPU rounds; left to itself, ONNX Runtime computes all of this in single precision on a CPU."""
    from onnx import helper, numpy_helper

    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    constants = {"little": np.float16(2**-12), "one": np.float16(1)}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["half"], to=float16),
            helper.make_node("Add", ["half", "little"], ["more"]),
            helper.make_node("Sub", ["more", "one"], ["difference"]),
            helper.make_node("Cast", ["difference"], ["y"], to=float32),
        ],
        "rounding",
        [helper.make_tensor_value_info("x", float32, [1])],
        [helper.make_tensor_value_info("y", float32, [1])],
        [numpy_helper.from_array(np.array([value]), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = {"x": np.ones(1, np.float32)}
    assert half._rounding_session(model).run(None, feed)[0] == 0
    assert onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0] == 2**-12


def test_numbers_beyond_half_precision_are_refused_and_leave_the_graph(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    model = tiny_model()
    with torch.no_grad():
        model[0].auto_model.encoder.layer[0].intermediate.dense.weight *= 1e5
    report = export(model, tmp_path, device="gpu")
    before = (tmp_path / "model.onnx").read_bytes()
    assert report.smallest_cosine > 0.9999
    with pytest.raises(VerificationError, match=r"beyond 65,504.*precision='fp32'"):
        half.halve(tmp_path, model.encode(list(half.TEXTS)))
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_the_same_model_gives_the_same_bytes_and_another_another_name(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """By its name ONNX Runtime tells whether the engine that it built last time is that of a graph."""
    model = tiny_model()
    for name in ("first", "second"):
        export(model, tmp_path / name, precision="fp16", device="gpu")
    model[0].auto_model.embeddings.LayerNorm.bias.data[0] += 1
    export(model, tmp_path / "other", precision="fp16", device="gpu")
    first, second, other = (tmp_path / name / "model.onnx" for name in ("first", "second", "other"))
    assert first.read_bytes() == second.read_bytes()
    names = {onnx.load(path).graph.name for path in (first, other)}
    assert len(names) == 2
    assert all(re.fullmatch(r"\w+", name) for name in names)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_gpu_without_cuda_is_refused_rather_than_left_to_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UnavailableDevice, match=r"CUDA device 3 .* has .*CPUExecutionProvider only.*onnxruntime-gpu"):
        OnnxEncoder.load(tmp_path, gpu=3)


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is not installed")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_a_gpu_gives_the_embeddings_of_the_cpu(minilm: Path, tmp_path: Path, precision: Any, tolerance: float) -> None:
    export(minilm, tmp_path, precision=precision, device="gpu")
    on_gpu, on_cpu = (Embedder.load(tmp_path, gpu=gpu).encode(UNSEEN) for gpu in (0, None))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=tolerance)
    assert _cosines(on_gpu, on_cpu).min() > 0.9999
