"""One running tritonserver: started, awaited, stopped with in-flight requests answered."""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from bertopic_engine import StorageError
from bertopic_engine.storage import read_manifest, verify_files

from ._exceptions import BadRepository, LoadFailed, PortInUse, StartFailed, Unservable
from ._loopback import open_url
from ._models import keeps_previous, models_of
from ._sockets import make_room_for_answers
from ._stubs import Idleness, Stubs
from ._tls import Tls
from ._triton import Triton, find_triton
from ._workspace import Workspace

_ADMIN_HEADER = "admin-key"
_DESCRIPTORS = 512
_RESTRICTED = "model-repository,shared-memory,trace,logging"
_LOG_LINE = re.compile(r'^(?P<level>[IWEF])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] "?(?P<message>.*?)"?$')
# Where a python model raised what it did: all in one line of the log, in lines of their own over HTTP.
_TRACEBACK = re.compile(r"\\n\\nAt:.*|\n\nAt:\n(?:  .*\n)*")
# What a machine without a GPU makes Triton complain of.
_HARMLESS = re.compile(r" (pinned_memory_manager|metrics)\.cc:|CudaDriverHelper", re.ASCII)
# Becomes tritonserver, with the kernel told (PR_SET_PDEATHSIG) to end it (SIGTERM) should this process be killed.
_LAUNCHER = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(1, 15)
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
resource.setrlimit(resource.RLIMIT_STACK, (2**30 if hard == resource.RLIM_INFINITY else min(2**30, hard), hard))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# For what is left to do once nothing is in flight.
_EXIT_SECONDS = 1.0
_POLL_SECONDS = 0.05
_STARTS = 3


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    @property
    def http_url(self) -> str:
        return f"http://{self._reachable}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"grpc://{self._reachable}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._reachable}:{self.metrics_port}/metrics"

    @property
    def _reachable(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host

    @classmethod
    def on_free_ports(cls) -> Address:
        """Three ports of the loopback interface that nothing listens on right now."""
        return cls("127.0.0.1", *free_ports(3))


def free_ports(n: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def converted_names(repository: Path) -> list[str]:
    """The names of the models in a converted repository, whose files are as they were written.

    Raises
    ------
    BadRepository
        Names the file that is missing or differs.
    """
    try:
        names = sorted(read_manifest(repository)["models"])
        verify_files(repository)
    except StorageError as error:
        raise BadRepository(str(error)) from error
    return names


class TritonServer:
    """A tritonserver over one converted repository; a context manager.

    Parameters
    ----------
    repository : path
        What `convert` wrote. Its files are checked against the manifest first, and only read.
    address : Address
    tls : Tls, optional
        For gRPC.
    metrics_port : int, optional
        Where Triton's metrics go, on the loopback interface, if somebody else answers at the address's metrics port.
    ready_timeout : float
        Seconds until every model must be loaded.
    verbose : bool
        Pass Triton's whole log on to standard error, rather than its warnings and errors.

    Raises
    ------
    ServerError
        From `start`, which the context manager calls.

    Notes
    -----
    Tritonserver ends with the thread that started it.
    """

    def __init__(
        self,
        repository: str | Path,
        address: Address | None = None,
        *,
        tls: Tls | None = None,
        metrics_port: int | None = None,
        ready_timeout: float = 300.0,
        verbose: bool = False,
    ) -> None:
        self.repository = Path(repository).expanduser().resolve()
        self.address = address or Address()
        self.tls = tls
        self.metrics_port = metrics_port
        self.ready_timeout = ready_timeout
        self.verbose = verbose
        self.models: list[str] = []
        self._versions = count(1)
        self.version = self.next_version()
        """Triton's newest version of every model"""
        self.answers_held = 0
        """how many answers may wait for one thread of the HTTP front before others are lost"""
        self.workspace = Workspace()
        self.stubs = Stubs(self.workspace.models)
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        # Nobody is told it: what it guards is closed to clients.
        self._admin_key = secrets.token_hex(16)
        self._log: deque[str] = deque(maxlen=400)
        self._log_reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def triton_models(self) -> list[str]:
        """The models that Triton knows, in the order in which they are put in place."""
        return models_of(self.models)

    def next_version(self) -> int:
        """A number that no version of these models has had."""
        return next(self._versions)

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.models = converted_names(self.repository)
        _check_descriptors()
        for port in (self.address.http_port, self.address.grpc_port):
            _check_port(self.address.host, port)
        if self.metrics_port is None:
            _check_port(self.address.host, self.address.metrics_port)
        triton = find_triton()
        try:
            self.workspace.create()
            for model in self.triton_models:
                self.workspace.place(model, self.repository, self.version)
            self._command = self._tritonserver(triton)
            self._environment = triton.environment
            self._launch()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Start again after tritonserver ended, with the models that are in place.

        Raises
        ------
        StartFailed
            And may be called again.
        """
        self.kill()
        self._launch()

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until tritonserver ends; its exit code, or None if it still runs after `timeout` seconds."""
        assert self._process is not None, "the server was not started"
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End tritonserver and its stubs at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.stubs.clear()

    def stop(self, timeout: float = 40.0) -> None:
        """End the server: no new requests, those in flight are answered."""
        if self._process is not None and self._process.poll() is None:
            self._drain(time.monotonic() + timeout)
            self._process.send_signal(signal.SIGTERM)
            self.wait(_EXIT_SECONDS)
        self.kill()
        if self._log_reader is not None:
            self._log_reader.join(timeout=5)
        self.workspace.remove()
        self._process = None

    def load(self, model: str) -> None:
        """Make Triton load what the workspace holds of a model; the old serves until the new can.

        Raises
        ------
        LoadFailed
            The old serves on, if there is one.
        OSError
            Tritonserver does not answer.
        """
        self.stubs.replace(model)
        idleness = Idleness()
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self._admin, f"repository/models/{model}/load", self.ready_timeout)
            while not wait([answer], _POLL_SECONDS).done:
                if self.workspace.is_python(model) and idleness.lasts(self.stubs.loading(model)):
                    # It fails once this process ends, or else Triton itself must.
                    self._end_loading(model)
        try:
            answer.result()
        except urllib.error.HTTPError as error:
            raise LoadFailed(f"Triton cannot load {model}: {_message(error)}") from error

    def config(self, model: str) -> dict[str, Any]:
        """A model's config, as Triton completed it."""
        config: dict[str, Any] = self._get(f"models/{model}/config")
        return config

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's statistics of one model's newest version: counts and batch sizes since it was loaded."""
        versions: list[dict[str, Any]] = self._get(f"models/{model}/stats")["model_stats"]
        return max(versions, key=lambda statistics: int(statistics["version"]))

    def is_ready(self) -> bool:
        """Whether every model is loaded."""
        try:
            with open_url(f"{self.address.http_url}/v2/health/ready", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        if missing := self.workspace.missing_file():
            raise StartFailed(f"{missing} is gone. Keep the folder that is served where it is, or serve another.")
        for _ in range(_STARTS):
            if self._becomes_ready(self._spawn()):
                self.answers_held = make_room_for_answers(self.pid)
                return
            self.kill()
        raise StartFailed(f"tritonserver stopped short of being ready {_STARTS} times. {self._reason()}")

    def _spawn(self) -> subprocess.Popen[str]:
        self._log.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self._command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A terminal's Ctrl-C goes to the whole group and would kill the python stubs mid-request.
            start_new_session=True,
        )
        self._log_reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._log_reader.start()
        return self._process

    def _becomes_ready(self, process: subprocess.Popen[str]) -> bool:
        """Wait until the server is ready, or has come to a standstill."""
        deadline = time.monotonic() + self.ready_timeout
        idleness = Idleness()
        while time.monotonic() < deadline:
            if (code := self.wait(_POLL_SECONDS)) is not None:
                if self._log_reader is not None:
                    self._log_reader.join(timeout=5)
                raise StartFailed(f"tritonserver ended with code {code}. {self._reason()}")
            if self.is_ready():
                return True
            if idleness.lasts([process.pid, *self.stubs.all()]):
                return False
        raise StartFailed(f"tritonserver was not ready after {self.ready_timeout:.0f} s. {self._reason()}")

    def _end_loading(self, model: str) -> None:
        loading = self.stubs.loading(model)
        for stub in loading.values():
            stub.kill()
        if not loading:
            self.kill()

    def _drain(self, deadline: float) -> None:
        """Take the models out of service, and wait until the requests that they hold are answered."""
        # Callers need what they call, and clients the topics that their answers name.
        needed = [model for model in self.triton_models if keeps_previous(model)]
        try:
            self._unload([model for model in self.triton_models if model not in needed], deadline)
            self._unload(needed, deadline)
        except OSError:
            return  # not answering, so there is nothing to wait for

    def _unload(self, models: Sequence[str], deadline: float) -> None:
        for model in models:
            self._admin(f"repository/models/{model}/unload")
        while time.monotonic() < deadline:
            states = {(model["name"], model.get("state")) for model in self._admin("repository/index")}
            if not states & {(model, state) for model in models for state in ("READY", "UNLOADING")}:
                return
            time.sleep(0.02)

    def _admin(self, path: str, timeout: float = 10.0) -> Any:
        request = urllib.request.Request(
            f"{self.address.http_url}/v2/{path}", data=b"{}", headers={_ADMIN_HEADER: self._admin_key}, method="POST"
        )
        with open_url(request, timeout=timeout) as response:
            return json.loads(response.read() or b"null")

    def _get(self, path: str) -> Any:
        with open_url(f"{self.address.http_url}/v2/{path}", timeout=3) as response:
            return json.load(response)

    def _tritonserver(self, triton: Triton) -> list[str]:
        backends = triton.assemble_backends(self.workspace.backends)
        key = f"{_ADMIN_HEADER}={self._admin_key}"
        address, own = self.address, self.metrics_port
        metrics = (address.host, address.metrics_port) if own is None else ("127.0.0.1", own)
        return [
            str(triton.binary),
            f"--model-repository={self.workspace.models}",
            *([f"--backend-directory={backends}"] if backends else []),
            f"--http-address={address.host}",
            f"--grpc-address={address.host}",
            f"--metrics-address={metrics[0]}",
            f"--http-port={address.http_port}",
            f"--grpc-port={address.grpc_port}",
            f"--metrics-port={metrics[1]}",
            "--model-control-mode=explicit",
            "--load-model=*",
            "--exit-timeout-secs=30",
            "--disable-auto-complete-config",
            "--metrics-config=summary_latencies=true",
            "--metrics-config=summary_quantiles=0.5:0.05,0.99:0.001",
            f"--grpc-restricted-protocol={_RESTRICTED}:{key}",
            f"--http-restricted-api={_RESTRICTED}:{key}",
            *(self.tls.arguments if self.tls else []),
        ]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._log.append(line.rstrip("\n"))
            if self.verbose:
                sys.stderr.write(line)
            elif (entry := _LOG_LINE.match(line)) and entry["level"] in "WEF" and not _HARMLESS.search(line):
                sys.stderr.write(f"tritonserver: {_without_traceback(entry['message'])}\n")

    def _reason(self) -> str:
        errors = [
            _without_traceback(entry["message"])
            for line in [*self._log]
            if (entry := _LOG_LINE.match(line)) and entry["level"] in "EF" and not _HARMLESS.search(line)
        ]
        return "It said: " + (errors[0] if errors else "\n".join([*self._log][-5:]) or "nothing")


def _without_traceback(message: str) -> str:
    return _TRACEBACK.sub("", message)


def _message(error: urllib.error.HTTPError) -> str:
    body = error.read().decode(errors="replace")
    try:
        return _without_traceback(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body or str(error)


def _check_descriptors() -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < _DESCRIPTORS:
        raise Unservable(
            f"this process may open {allowed} files and connections, and tritonserver needs {_DESCRIPTORS}, and "
            "one for each client. Raise the limit with `ulimit -n 4096`."
        )


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise PortInUse(
            f"cannot listen on {host}:{port} ({error.strerror}). Stop what uses it, or give another port with "
            "--http-port, --grpc-port and --metrics-port."
        ) from error
