"""Converted models in a tritonserver that is started by hand and knows nothing but the archive of `pack-env`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bertopic_engine
import numpy as np
import pytest
from bertopic_client import TopicClient
from bertopic_converters._repository import MODELS, Target, write_model
from bertopic_server import Address
from bertopic_server._packing import pack_environment
from bertopic_server._triton import find_triton
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig


@pytest.fixture(scope="module")
def write(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path | None], Path]:
    """The session's converted model, as if it had been converted with an `execution_env`."""

    def run(execution_env: Path | None) -> Path:
        models = tmp_path_factory.mktemp("models")
        shutil.copy(repository / "manifest.json", models)
        for model in MODELS:
            converted = repository / f"BERTopic-{model}"
            config = text_format.Parse((converted / "config.pbtxt").read_text(), ModelConfig())
            dims = {tensor.name: tensor.dims[0] for tensor in [*config.input, *config.output]}
            target = Target(execution_env=None if execution_env is None else str(execution_env))
            version = write_model(models, "BERTopic", model, dims, target)
            for file in (converted / "1").iterdir():
                if not (version / file.name).exists():
                    (version / file.name).symlink_to(file)
        return models

    return run


@contextmanager
def tritonserver(models: Path, folder: Path, *options: str) -> Iterator[tuple[Address, subprocess.Popen[bytes], Path]]:
    """One that reaches no package of this environment, once it is ready or has ended; and its log."""
    triton, address, log = find_triton(), Address.on_free_ports(), folder / "tritonserver.log"
    venv.create(folder / "bare", symlinks=True)
    backends = triton.assemble_backends(folder / "backends")
    command = [
        str(triton.binary),
        f"--model-repository={models}",
        *([f"--backend-directory={backends}"] if backends else []),
        f"--http-port={address.http_port}",
        f"--grpc-port={address.grpc_port}",
        f"--metrics-port={address.metrics_port}",
        "--disable-auto-complete-config",
        "--http-restricted-api=model-repository,shared-memory,trace,logging:admin-key=SECRET",
        "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:admin-key=SECRET",
        *options,
    ]
    environment = {
        "PATH": f"{folder / 'bare' / 'bin'}{os.pathsep}{os.defpath}",
        "LD_LIBRARY_PATH": triton.environment.get("LD_LIBRARY_PATH", ""),
    }
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            while process.poll() is None and not _is_ready(address):
                time.sleep(0.1)
            yield address, process, log
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()


def _is_ready(address: Address) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address.http_url}/v2/health/ready", timeout=2).status == 200)
    except OSError:
        return False


def test_without_the_archive_there_are_no_packages(write: Any, tmp_path: Path) -> None:
    one_model = ("--model-control-mode=explicit", "--load-model=BERTopic-topics")
    with tritonserver(write(None), tmp_path, *one_model) as (_, process, log):
        assert process.poll() is not None
        assert "No module named 'numpy'" in log.read_text()


def test_with_the_archive_topics_are_those_of_the_engine(
    write: Any, repository: Path, trained: Any, tmp_path: Path
) -> None:
    models = write(pack_environment(tmp_path / "env.tar.gz"))
    texts, embeddings = trained.texts[:200], trained.embeddings[:200]
    engine = bertopic_engine.load(repository)
    with tritonserver(models, tmp_path) as (address, process, log):
        assert process.poll() is None, log.read_text()
        # The first request compiles what was not packed compiled.
        with TopicClient(address.grpc_url, timeout=240, attempt_timeout=240) as client:
            from_texts = client.predict(texts, outputs=["embeddings"])
            from_embeddings = client.predict(embeddings)
            assert {topic.id for topic in client.topics()} >= set(from_texts.topics.tolist())
    np.testing.assert_array_equal(from_embeddings.topics, engine.predict(embeddings).topics)
    np.testing.assert_array_equal(from_texts.topics, engine.predict(from_texts.embeddings).topics)
