"""Writes the Triton models: templates from `model_repository/`, made specific to one converted model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._gpu import TENSORRT_CACHE, Network, put_on_gpu

# The models as a person would write them; beside this package in a checkout, inside it in a wheel.
_INSTALLED = Path(__file__).parent / "model_repository"
TEMPLATES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "model_repository"
TEMPLATE_NAME = "BERTopic"
MODELS = ("tokenizer", "bert", "embedder", "umap", "hdbscan", "inference", "text", "topics")


@dataclass(frozen=True)
class Target:
    """The server that a repository is written for."""

    onnxruntime_backend: bool = False
    """`bert` is run by Triton's onnxruntime backend rather than by a python model"""
    gpu: Network | None = None
    """what a GPU is to run; None for a server without one"""
    tensorrt_cache: str = TENSORRT_CACHE
    """folder on the server for what TensorRT builds"""
    execution_env: str | None = None
    """the environment on the server in which python models run; None for Triton's own"""


def read_config(model: str) -> Any:
    """A template's `config.pbtxt` as the ModelConfig protobuf."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    path = TEMPLATES / f"{TEMPLATE_NAME}-{model}" / "config.pbtxt"
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def write_model(root: Path, name: str, model: str, dims: dict[str, int], target: Target) -> Path:
    """Write one Triton model: its config with real names and dims, and its code.

    Parameters
    ----------
    root : Path
        The model repository.
    name : str
        What the converted model is called.
    model : str
        One of MODELS.
    dims : dict
        Size of each tensor that depends on the model, by tensor name.
    target : Target

    Returns
    -------
    Path
        The version folder, for weights.
    """
    from google.protobuf import text_format

    config = read_config(model)
    config.name = f"{name}-{model}"
    for tensor in [*config.input, *config.output]:
        if tensor.name in dims:
            tensor.dims[:] = [dims[tensor.name]]
    version: Path = root / config.name / "1"
    shutil.copytree(TEMPLATES / f"{TEMPLATE_NAME}-{model}" / "1", version, ignore=shutil.ignore_patterns("__pycache__"))
    if model == "bert" and target.onnxruntime_backend:
        _use_onnxruntime_backend(config)
        (version / "model.py").unlink()
    if target.gpu is not None:
        put_on_gpu(config, model, target.gpu, target.tensorrt_cache)
    if target.execution_env is not None and config.backend == "python":
        config.parameters["EXECUTION_ENV_PATH"].string_value = target.execution_env
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return version


def _use_onnxruntime_backend(config: Any) -> None:
    # Same tensors and batching; only what runs the graph differs.
    config.backend = "onnxruntime"
    config.default_model_filename = "model.onnx"
    config.parameters["session.intra_op.allow_spinning"].string_value = "0"
