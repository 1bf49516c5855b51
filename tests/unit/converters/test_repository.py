"""What the configs of Triton models say, for a server with a GPU and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bertopic_converters._gpu import TENSORRT_CACHE, Network
from bertopic_converters._repository import MODELS, TEMPLATES, Target, read_config, write_model
from bertopic_embedder import GPU_BATCH, length_buckets
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

DIMS = {"EMBEDDING": 32, "IN": 32, "REDUCED": 5, "MEMBERSHIP": 7}
TOKENS = {"INPUT_IDS", "ATTENTION_MASK"}
# Triton's onnxruntime backend refuses a model whose config has others.
KNOWN_TO_TRITON = {
    "precision_mode",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_layer_norm_fp32_fallback",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
}


def on_gpu(max_length: int = 256, precision: str = "fp16", **options: Any) -> Target:
    return Target(**{"onnxruntime_backend": True, "gpu": Network(max_length, precision)} | options)


def written(root: Path, target: Target) -> dict[str, Any]:
    """The configs of all models, as Triton would read them."""
    folders = {model: write_model(root, "Name", model, DIMS, target).parent for model in MODELS}
    return {
        model: text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
        for model, folder in folders.items()
    }


def tensorrt(config: Any) -> dict[str, str]:
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return dict(accelerator.parameters)


def shape_of(option: str) -> tuple[int, int]:
    """Batch and length, of a profile that gives both inputs the same."""
    shapes = dict(tensor.split(":") for tensor in option.split(","))
    assert shapes.keys() == TOKENS
    (shape,) = set(shapes.values())
    batch, length = map(int, shape.split("x"))
    return batch, length


def test_without_a_gpu_only_names_and_dims_are_changed(tmp_path: Path) -> None:
    for model, config in written(tmp_path, Target()).items():
        expected = read_config(model)
        expected.name = f"Name-{model}"
        for tensor in [*expected.input, *expected.output]:
            tensor.dims[:] = [DIMS[tensor.name]] if tensor.name in DIMS else tensor.dims
        assert config == expected
        folder = TEMPLATES / f"BERTopic-{model}"
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.suffix not in ("", ".pyc")}
        found = {path.relative_to(tmp_path / config.name) for path in (tmp_path / config.name).rglob("*.*")}
        assert found - {Path("1/.gitkeep")} == files


def test_the_network_and_umap_run_on_the_gpu(tmp_path: Path) -> None:
    kinds = {model: config.instance_group[0].kind for model, config in written(tmp_path, on_gpu()).items()}
    gpu = {model for model, kind in kinds.items() if kind == ModelInstanceGroup.KIND_GPU}
    assert gpu == {"bert", "umap", "inference", "text"}
    assert set(kinds.values()) == {ModelInstanceGroup.KIND_GPU, ModelInstanceGroup.KIND_CPU}


@pytest.mark.parametrize("max_length", [24, 256, 512])
def test_one_engine_takes_every_batch_of_every_bucket(tmp_path: Path, max_length: int) -> None:
    bert = written(tmp_path, on_gpu(max_length))["bert"]
    options = tensorrt(bert)
    least, usual, most = (shape_of(options[f"trt_profile_{which}_shapes"]) for which in ("min", "opt", "max"))
    assert most == (bert.max_batch_size, max_length) == (GPU_BATCH, length_buckets(max_length)[-1])
    assert least == (1, 1)
    assert all(low <= middle <= high for low, middle, high in zip(least, usual, most, strict=True))


@pytest.mark.parametrize("max_length", [24, 512])
def test_every_bucket_is_warmed_up_with_the_largest_batch(tmp_path: Path, max_length: int) -> None:
    bert = written(tmp_path, on_gpu(max_length))["bert"]
    inputs = {tensor.name: tensor.data_type for tensor in bert.input}
    lengths = []
    for request in bert.model_warmup:
        assert request.batch_size == bert.max_batch_size
        assert {name: tensor.data_type for name, tensor in request.inputs.items()} == inputs
        ((length,),) = {tuple(tensor.dims) for tensor in request.inputs.values()}
        # What is random would be no token ids.
        assert all(tensor.zero_data for tensor in request.inputs.values())
        lengths.append(length)
    assert lengths == length_buckets(max_length)


@pytest.mark.parametrize(("precision", "mode"), [("fp16", "FP16"), ("fp32", "FP32")])
def test_engines_are_kept_and_of_the_precision_of_the_graph(tmp_path: Path, precision: str, mode: str) -> None:
    options = tensorrt(written(tmp_path, on_gpu(precision=precision, tensorrt_cache="/var/engines"))["bert"])
    assert options["precision_mode"] == mode
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/var/engines"
    assert options.keys() <= KNOWN_TO_TRITON


def test_a_python_model_can_run_the_network_on_the_gpu(tmp_path: Path) -> None:
    bert = written(tmp_path, on_gpu(onnxruntime_backend=False))["bert"]
    assert bert.backend == "python"
    assert bert.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    # It refuses texts without tokens, of which a warm-up would consist.
    assert not bert.model_warmup
    assert not bert.HasField("optimization")
    assert (tmp_path / "Name-bert" / "1" / "model.py").is_file()


def test_more_texts_are_taken_at_once_for_a_gpu(tmp_path: Path) -> None:
    configs = written(tmp_path, on_gpu())
    for model in ("embedder", "text"):
        assert int(configs[model].parameters["capacity"].string_value) >= 4 * GPU_BATCH


@pytest.mark.parametrize("target", [Target(), on_gpu()], ids=["cpu", "gpu"])
def test_the_environment_is_that_of_every_python_model(tmp_path: Path, target: Target) -> None:
    configs = written(tmp_path, replace(target, execution_env="/opt/env.tar.gz"))
    for config in configs.values():
        environment = config.parameters["EXECUTION_ENV_PATH"].string_value
        assert environment == ("/opt/env.tar.gz" if config.backend == "python" else "")


def test_the_command_line_names_the_same_folder_for_engines() -> None:
    from bertopic_server import _cli

    assert str(_cli.TENSORRT_CACHE) == TENSORRT_CACHE
