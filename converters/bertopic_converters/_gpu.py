"""What the configs of Triton models say on a GPU: where they run, TensorRT for the embedder, and warm-up."""

from __future__ import annotations

from typing import Any, NamedTuple

from bertopic_embedder import GPU_BATCH, length_buckets

TENSORRT_CACHE = "/var/cache/bertopic-inference/tensorrt"
# HDBSCAN's prediction walks a tree, which a GPU does no faster.
_ON_GPU = ("bert", "umap", "inference", "text")
# Several calls of the network, so that one waits while another is computed.
_TEXTS_AT_ONCE = 16 * GPU_BATCH
# As many as Triton hands over at once.
_ROWS_AT_ONCE = 65_536
_AT_ONCE = {
    "embedder": _TEXTS_AT_ONCE,
    "text": _TEXTS_AT_ONCE,
    "umap": _ROWS_AT_ONCE,
    "hdbscan": _ROWS_AT_ONCE,
    "inference": _ROWS_AT_ONCE,
}
_USUAL_LENGTH = 64
_TOKENS = ("INPUT_IDS", "ATTENTION_MASK")


class Network(NamedTuple):
    """The embedder's graph, as far as the config of `bert` depends on it."""

    max_length: int
    """tokens of a text"""
    precision: str
    """fp32 or fp16"""


def put_on_gpu(config: Any, model: str, network: Network, tensorrt_cache: str) -> None:
    """Change the config of a model so that a GPU serves it.

    Parameters
    ----------
    config : ModelConfig
        As for the CPU.
    model : str
        One of `_repository.MODELS`.
    network : Network
    tensorrt_cache : str
        Folder on the server for what TensorRT builds.
    """
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    if model in _ON_GPU:
        config.instance_group[0].kind = ModelInstanceGroup.KIND_GPU
    if model in _AT_ONCE:
        config.parameters["capacity"].string_value = str(_AT_ONCE[model])
    if model == "bert":
        config.max_batch_size = GPU_BATCH
    if config.backend == "onnxruntime":
        _use_tensorrt(config, network, tensorrt_cache)
        _warm_up(config, network.max_length)


def _warm_up(config: Any, max_length: int) -> None:
    """Have a batch of each length computed before the first request."""
    from tritonclient.grpc.model_config_pb2 import TYPE_INT64

    for length in length_buckets(max_length):
        request = config.model_warmup.add(name=f"length {length}", batch_size=GPU_BATCH)
        for name in _TOKENS:
            tensor = request.inputs[name]
            tensor.data_type = TYPE_INT64
            tensor.dims[:] = [length]
            tensor.zero_data = True


def _use_tensorrt(config: Any, network: Network, cache: str) -> None:
    """Have ONNX Runtime hand the graph to TensorRT; what that cannot take in goes to CUDA."""
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters["precision_mode"] = network.precision.upper()
    accelerator.parameters.update(tensorrt_options(network, cache))


def tensorrt_options(network: Network, cache: str) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider, but for the precision: one engine for all batches.

    Parameters
    ----------
    network : Network
    cache : str
        Folder for what TensorRT builds.
    """
    options = {
        # Of several profiles ONNX Runtime uses the first only.
        "trt_profile_min_shapes": _shapes(1, 1),
        "trt_profile_opt_shapes": _shapes(GPU_BATCH, min(_USUAL_LENGTH, network.max_length)),
        "trt_profile_max_shapes": _shapes(GPU_BATCH, network.max_length),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
    }
    if network.precision == "fp16":
        options["trt_layer_norm_fp32_fallback"] = "1"
    return options


def _shapes(batch: int, length: int) -> str:
    return ",".join(f"{name}:{batch}x{length}" for name in _TOKENS)
