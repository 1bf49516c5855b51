"""What `serve` runs: a tritonserver that is watched, started again when it ends, and given new models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from ._control import Control
from ._exceptions import KeepsEnding, ReloadFailed, ServerError, StartFailed
from ._operations import Metric, Operations
from ._rollout import roll_out
from ._server import Address, TritonServer, free_ports
from ._tls import Tls
from ._watch import Watch, say

# Seconds to wait before each start that follows an end, unless the server was ready in between.
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
# As many as wait when the models turn the first away.
_ENOUGH_ANSWERS = 4096


class Service:
    """A tritonserver over one converted repository that heals itself; a context manager.

    Parameters
    ----------
    repository : path
        What `convert` wrote, or a link to it, which `reload` follows anew.
    address : Address
        Its metrics port answers `/metrics`, `/health/live` and `/health/ready`.
    tls : Tls, optional
        For gRPC.
    verbose : bool
        Pass Triton's whole log on to standard error.
    ready_timeout : float
        Seconds until every model must have answered.

    Raises
    ------
    ServerError
        From `start`, which the context manager calls.

    Notes
    -----
    Tritonserver ends with the thread that started it, which is the one that calls `start` and `run`.
    """

    def __init__(
        self,
        repository: str | Path,
        address: Address | None = None,
        *,
        tls: Tls | None = None,
        ready_timeout: float = 300.0,
        verbose: bool = False,
    ) -> None:
        self.repository = Path(repository).expanduser().absolute()
        address = address or Address()
        # Nothing listens on the three of `address` yet, so that they look free too.
        taken = (address.http_port, address.grpc_port, address.metrics_port)
        metrics_port = next(port for port in free_ports(4) if port not in taken)
        self.server = TritonServer(
            repository, address, tls=tls, metrics_port=metrics_port, ready_timeout=ready_timeout, verbose=verbose
        )
        self.address = self.server.address
        self._change = threading.Lock()
        self._watch = Watch(self.server, self._change)
        self._operations: Operations | None = None
        self._control: Control | None = None
        self._stopping = False
        self._restarts = 0
        self._starts_in_a_row = 0

    def start(self) -> None:
        """Start the server, and return when every model has answered."""
        try:
            self._operations = Operations(
                self.address.host,
                self.address.metrics_port,
                triton_metrics=f"http://127.0.0.1:{self.server.metrics_port}/metrics",
                metrics=self.metrics,
                troubles=self.troubles,
            )
            self.server.start()
            self._control = Control(self.address.http_port, self.reload)
            self._watch.start()
            self._await_answers()
            if self.server.answers_held < _ENOUGH_ANSWERS:
                say(
                    f"with more than {self.server.answers_held} HTTP requests at once answers may be lost, since this "
                    "user cannot enlarge Triton's buffers: use gRPC, or see docs/operations.md."
                )
        except BaseException:
            self.stop()
            raise

    def run(self) -> NoReturn:
        """Keep the server up, until an exception such as KeyboardInterrupt.

        Raises
        ------
        KeepsEnding
            Tritonserver ended again each time that it was started.
        """
        while True:
            code = self.server.wait(0.2)
            if code is not None:
                self._restart(code)
            elif self._watch.is_ready:
                self._starts_in_a_row = 0

    def stop(self) -> None:
        """End the server: no new requests, those in flight are answered."""
        self._stopping = True
        self._watch.stop()
        if self._control is not None:
            self._control.stop()
        # A change under way ends at its next step.
        changed = self._change.acquire(timeout=10)
        self.server.stop()
        if changed:
            self._change.release()
        if self._operations is not None:
            self._operations.stop()

    def reload(self, repository: str | Path | None = None, progress: Callable[[str], None] = lambda step: None) -> str:
        """Put a retrained model in place while the old one goes on answering.

        Parameters
        ----------
        repository : path, optional
            What `convert` wrote; by default the folder that is served, read again.
        progress : callable
            Called with each step.

        Returns
        -------
        str
            What was put in place.

        Raises
        ------
        ServerError
            Says why; the old model serves on.
        """

        def step(what: str) -> None:
            if self._stopping:
                raise ReloadFailed("the server is stopping.")
            progress(what)

        given = self.repository if repository is None else Path(repository).expanduser().absolute()
        with self._change:
            roll_out(self.server, given.resolve(), step)
            self.repository = given
            return f"{', '.join(self.server.models)} from {given}, as version {self.server.version}"

    def reload_later(self) -> None:
        """Put what the served folder holds now in place, in a thread of its own, and log how it went."""

        def run() -> None:
            try:
                say(f"in place: {self.reload(progress=say)}")
            except ServerError as error:
                say(f"error: {error}")

        threading.Thread(target=run, daemon=True).start()

    def troubles(self) -> dict[str, str]:
        """Why the service is not ready, by model; empty if it is."""
        if self._stopping:
            return {"tritonserver": "it is stopping"}
        if not self._watch.healths:
            return {"tritonserver": "it is starting"}
        return {model: health.reason for model, health in self._watch.healths.items() if not health.up}

    def metrics(self) -> list[Metric]:
        """The watch's metrics."""
        healths = self._watch.healths

        def by_model(name: str, kind: str, help: str, values: dict[str, float]) -> Metric:
            return Metric(name, kind, help, [({"model": model}, value) for model, value in values.items()])

        return [
            Metric("bertopic_ready", "gauge", "Whether every model answers.", [({}, not self.troubles())]),
            by_model(
                "bertopic_canary_up",
                "gauge",
                "Whether the model answered its last canary.",
                {model: health.up for model, health in healths.items()},
            ),
            by_model(
                "bertopic_canary_seconds",
                "gauge",
                "How long the last answered canary took.",
                {model: health.canary_seconds for model, health in healths.items()},
            ),
            by_model(
                "bertopic_recoveries_total",
                "counter",
                "How often the model was loaded again because it failed.",
                {model: health.recoveries for model, health in healths.items()},
            ),
            Metric(
                "bertopic_server_restarts_total",
                "counter",
                "How often tritonserver was started again.",
                [({}, self._restarts)],
            ),
            Metric(
                "bertopic_model_version",
                "gauge",
                "Triton's version of the models that requests without a version go to.",
                [({"name": name}, self.server.version) for name in self.server.models],
            ),
        ]

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _await_answers(self) -> None:
        deadline = time.monotonic() + self.server.ready_timeout
        while self.troubles():
            if (code := self.server.wait(0.05)) is not None:
                self._restart(code)
            if time.monotonic() > deadline:
                reasons = "; ".join(f"{model}: {reason}" for model, reason in self.troubles().items())
                raise StartFailed(f"not every model answered within {self.server.ready_timeout:.0f} s. {reasons}")

    def _restart(self, code: int) -> None:
        say(f"tritonserver ended with code {code}; starting it again")
        with self._change:
            self._watch.forget("tritonserver is being started again")
            reason = f"code {code}"
            for pause in _PAUSES[self._starts_in_a_row :]:
                time.sleep(pause)
                self._starts_in_a_row += 1
                self._restarts += 1
                try:
                    self.server.restart()
                except StartFailed as error:
                    reason = str(error)
                    say(reason)
                else:
                    self._watch.forget("tritonserver was started again, and the model was not asked yet")
                    return
        raise KeepsEnding(
            f"tritonserver ended {len(_PAUSES) + 1} times in a row, and was given up. The last time: {reason} "
            "Start with --verbose to see why."
        )
