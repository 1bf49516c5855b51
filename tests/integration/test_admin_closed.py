"""What changes a server is closed to clients, and nothing that they send is opened as a file or unpickled."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bertopic_embedder
import bertopic_engine
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

Call = Callable[..., Any]

ADMINISTRATION: dict[str, Call] = {
    "repository index": lambda client, **kw: client.get_model_repository_index(**kw),
    "load": lambda client, **kw: client.load_model("BERTopic-text", **kw),
    "load a config": lambda client, **kw: client.load_model("BERTopic-text", config="{}", **kw),
    "load files": lambda client, **kw: client.load_model(
        "intruder", config="{}", files={"file:1/model.py": b"raise SystemExit"}, **kw
    ),
    "unload": lambda client, **kw: client.unload_model("BERTopic-text", **kw),
    "shared memory status": lambda client, **kw: client.get_system_shared_memory_status(**kw),
    "register shared memory": lambda client, **kw: client.register_system_shared_memory("r", "/r", 8, **kw),
    "unregister shared memory": lambda client, **kw: client.unregister_system_shared_memory(**kw),
    "CUDA memory status": lambda client, **kw: client.get_cuda_shared_memory_status(**kw),
    "register CUDA memory": lambda client, **kw: client.register_cuda_shared_memory("r", b"AAAA", 0, 8, **kw),
    "unregister CUDA memory": lambda client, **kw: client.unregister_cuda_shared_memory(**kw),
    "log settings": lambda client, **kw: client.get_log_settings(**kw),
    "change log settings": lambda client, **kw: client.update_log_settings({"log_verbose_level": 1}, **kw),
    "write a log file": lambda client, **kw: client.update_log_settings({"log_file": "/tmp/log"}, **kw),
    "trace settings": lambda client, **kw: client.get_trace_settings(**kw),
    "change trace settings": lambda client, **kw: client.update_trace_settings(settings={"trace_rate": "1"}, **kw),
    "trace one model": lambda client, **kw: client.update_trace_settings(
        model_name="BERTopic-text", settings={"trace_level": ["TENSORS"]}, **kw
    ),
}
OPEN: dict[str, Call] = {
    "live": lambda client: client.is_server_live(),
    "ready": lambda client: client.is_server_ready(),
    "model ready": lambda client: client.is_model_ready("BERTopic-text"),
    "server metadata": lambda client: client.get_server_metadata(),
    "model metadata": lambda client: client.get_model_metadata("BERTopic-text"),
    "model config": lambda client: client.get_model_config("BERTopic-text"),
    "statistics": lambda client: client.get_inference_statistics("BERTopic-text"),
}


@pytest.fixture(params=["grpc", "http"])
def triton(request: pytest.FixtureRequest, server: Any) -> Iterator[Any]:
    module, url = (triton_grpc, server.grpc_url) if request.param == "grpc" else (triton_http, server.http_url)
    with module.InferenceServerClient(url.split("://")[1]) as client:
        yield client


# Over gRPC Triton reads the key from a header of the longer name.
GUESS = {"admin-key": "guess", "triton-grpc-protocol-admin-key": "guess"}


@pytest.mark.parametrize("headers", [None, GUESS], ids=["no key", "wrong key"])
@pytest.mark.parametrize("call", ADMINISTRATION.values(), ids=ADMINISTRATION)
def test_administration_is_closed(triton: Any, call: Call, headers: dict[str, str] | None) -> None:
    with pytest.raises(InferenceServerException, match="restricted"):
        call(triton, headers=headers)


@pytest.mark.parametrize("call", OPEN.values(), ids=OPEN)
def test_what_only_tells_is_open(triton: Any, call: Call) -> None:
    assert call(triton)


class Watched:
    """A file that the kernel reports every opening of."""

    _NONBLOCKING, _OPENED = os.O_NONBLOCK, 0x20

    def __init__(self, path: Path) -> None:
        path.write_text("secret")
        libc = ctypes.CDLL(None, use_errno=True)
        self.path = path
        self._queue = libc.inotify_init1(self._NONBLOCKING)
        assert libc.inotify_add_watch(self._queue, os.fsencode(path), self._OPENED) >= 0

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._queue)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    file = Watched(tmp_path / "secret.txt")
    yield file
    file.close()


def post(url: str, body: bytes | dict[str, Any]) -> None:
    """Send, whatever the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as got:
        got.read()


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_no_path_in_a_request_is_opened(server: Any, watched: Watched) -> None:
    path, models = str(watched.path), f"{server.http_url}/v2/models"
    parameters = dict.fromkeys(("file", "path", "model", "log_file", "trace_file", "pickle"), path)
    for text in (path, f"file://{path}", f"@{path}", f"../../../../../..{path}", f"$(cat {path})", f"{{{{{path}}}}}"):
        tensor = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        output = {"name": "OUT", "parameters": {"classification": 0} | parameters}
        post(f"{models}/BERTopic-text/infer", {"id": path, "inputs": [tensor], "parameters": parameters})
        post(f"{models}/BERTopic-text/infer", {"inputs": [tensor | {"parameters": parameters}], "outputs": [output]})
    for region in (path, f"/../..{path}"):
        shared = {"shared_memory_region": region, "shared_memory_byte_size": 6, "shared_memory_offset": 0}
        mapped = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "parameters": shared}
        post(f"{models}/BERTopic-text/infer", {"inputs": [mapped]})
        post(f"{server.http_url}/v2/systemsharedmemory/region/r/register", {"key": region, "offset": 0, "byte_size": 6})
    for model in (path, f"../..{path}", f"BERTopic-text/versions/..{path}"):
        post(f"{models}/{quote(model, safe='')}/infer", b"")
        post(f"{models}/{quote(model)}/infer", b"")
        post(f"{server.http_url}/v2/repository/models/{quote(model, safe='')}/load", {"parameters": parameters})
    post(f"{server.http_url}/v2/logging", {"log_file": path})
    post(f"{server.http_url}/v2/trace/setting", {"trace_file": path})
    with triton_grpc.InferenceServerClient(server.grpc_url.split("://")[1]) as client:
        text = triton_grpc.InferInput("TEXT", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[path]], dtype=np.object_))
        client.infer("BERTopic-text", [text], request_id=path, parameters=parameters, headers=parameters)
    assert not watched.was_opened()

    watched.path.read_text()
    assert watched.was_opened(), "the watch sees nothing"


UNPICKLING = {"pickle", "cPickle", "_pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve"}


def imported(source: str) -> set[str]:
    """The top-level packages that a module's source imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in names}


def test_no_code_that_serves_can_unpickle(repository: Path) -> None:
    packages = [Path(str(package.__file__)).parent for package in (bertopic_engine, bertopic_embedder)]
    files = [*repository.glob("*/*/model.py"), *(file for package in packages for file in package.rglob("*.py"))]
    assert len(files) > 20
    for file in files:
        source = file.read_text()
        assert not imported(source) & UNPICKLING, file
        # numpy's and torch's own readers of files unpickle.
        assert not re.search(r"allow_pickle|(np|numpy|torch)\.load\b", source), file


def test_no_model_holds_a_pickle(repository: Path) -> None:
    """A pickle starts with its protocol's number, and a ZIP is how torch and numpy wrap several."""
    starts = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    files = json.loads((repository / "manifest.json").read_text())["models"]["BERTopic"]["files"]
    assert len(files) > 10
    for file in files:
        assert not (repository / file).read_bytes().startswith(starts), file
