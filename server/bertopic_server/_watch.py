"""Notices models that no longer answer, and has them started again.

A python model dies or hangs in a process of its own, and Triton goes on calling itself ready. Two signs tell:
the process itself, as /proc shows it, and canaries, the smallest requests that can be answered. A canary waits
in the queue like any request, so a late one is no sign of a fault as long as the model answers others or computes.

A model that answers with errors is loaded again while Triton runs. One whose process died or hangs takes the whole
tritonserver with it: process and tritonserver share memory and take turns without saying whose turn it is, so one that
was cut off in the midst of a request can leave its peer waiting for ever, or reading what was meant for another.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from ._canary import Outcome, Sung, sing
from ._exceptions import ServerError
from ._models import callee
from ._server import TritonServer
from ._stubs import Stub, cpu_seconds

_LOOK_SECONDS = 0.25
_CANARY_SECONDS = 1.0
# Longer than a request may wait in a queue: a canary that came so late was lost.
_CANARY_TIMEOUT = 12.0
_LATE_SECONDS = 1.0
# Without an answer or computing, and without an answer at all.
_HUNG_SECONDS = 4.0
_ENDLESS_SECONDS = 60.0
# Of a processor: less is what an idle process uses.
_COMPUTING = 0.1
_REFUSALS = 3
# After more reloads than this without an answer, the fault lies in tritonserver itself.
_RELOADS = 3
_DEAF_SECONDS = 30.0


@dataclass
class Health:
    """What is known about one model."""

    up: bool = False
    reason: str = "it was not asked yet"
    """why it is not up"""
    canary_seconds: float = 0.0
    recoveries: int = 0
    generation: int = 0
    """canaries of an earlier one say nothing about the model that runs now"""
    fault: str = ""
    """what Triton says that its process did"""
    waiting_since: float | None = None
    refusals: int = 0
    progressed_at: float = 0.0
    computed_at: float = 0.0
    counts: tuple[int, ...] = ()
    cpu_seconds: float = 0.0
    looked_at: float = 0.0
    reloads: int = 0
    """since it last answered"""

    def forget(self, reason: str) -> None:
        """Begin anew: another process will answer."""
        self.up, self.reason, self.fault = False, reason, ""
        self.waiting_since, self.refusals, self.counts = None, 0, ()
        self.generation += 1

    def waited(self, now: float) -> float:
        """Seconds since the first canary that was not answered yet."""
        return 0.0 if self.waiting_since is None else now - self.waiting_since

    def hear(self, sung: Sung, model: str) -> None:
        """Take note of what became of a canary."""
        if sung.outcome is Outcome.answered:
            self.up, self.reason = True, ""
            self.canary_seconds, self.waiting_since, self.refusals, self.reloads = sung.seconds, None, 0, 0
        elif sung.outcome is Outcome.refused:
            self.up, self.reason, self.waiting_since = False, sung.message, None
            self.refusals += 1
            if f"Stub process '{model}_" in sung.message and "is not healthy" in sung.message:
                self.fault = "its process does not respond to Triton"
        elif sung.outcome is Outcome.unreachable:
            self.reason = sung.message if self.up else self.reason
            self.up, self.waiting_since = False, None

    def see(self, executed: int, answered: int, now: float) -> None:
        """Take note of how often the model was executed, and of what it answered.

        Answers to others are as good as one to a canary, which may be turned away for long where too much is asked.
        """
        if self.counts == (executed, answered):
            return
        if self.counts and answered > self.counts[1] and not self.refusals:
            self.up, self.reason = True, ""
        self.counts, self.progressed_at = (executed, answered), now


class Watch:
    """Watches the models of a server and reloads those that fail.

    Parameters
    ----------
    server : TritonServer
        Started, or about to be.
    change : Lock
        Held by whoever changes what the server runs.
    """

    def __init__(self, server: TritonServer, change: threading.Lock) -> None:
        self._server = server
        self._change = change
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._serving: dict[int, Stub] = {}
        self._heard_at = time.monotonic()
        self.healths: dict[str, Health] = {}

    @property
    def is_ready(self) -> bool:
        """Whether every model answers."""
        return bool(self.healths) and all(health.up for health in self.healths.values())

    def start(self) -> None:
        """Watch from now on."""
        self.healths = {model: Health() for model in self._server.triton_models}
        self._threads = [
            *(threading.Thread(target=self._sing, args=(model,), daemon=True) for model in self.healths),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def forget(self, reason: str) -> None:
        """Begin anew with all models: another tritonserver will answer."""
        self._serving = {}
        self._heard_at = time.monotonic()
        for health in self.healths.values():
            health.forget(reason)

    def _sing(self, model: str) -> None:
        health = self.healths[model]
        config: dict[str, Any] | None = None
        while not self._ended.wait(_CANARY_SECONDS if health.up or health.refusals else _LOOK_SECONDS):
            generation = health.generation
            try:
                config = config or self._server.config(model)
            except (OSError, ValueError):
                continue  # the watch notices when Triton itself does not answer
            health.waiting_since = health.waiting_since or time.monotonic()
            sung = sing(self._server.address.http_url, model, config, _CANARY_TIMEOUT)
            if generation == health.generation:
                health.hear(sung, model)
            if sung.outcome is not Outcome.answered:
                config = None  # another model may be in place, which takes other tensors

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if not self._change.acquire(blocking=False):
                self._serving = {}  # others replace processes now
                continue
            try:
                if self._server.wait(0) is None:
                    self._look()
            finally:
                self._change.release()

    def _look(self) -> None:
        now = time.monotonic()
        serving = self._server.stubs.serving(self._server.version)
        for pid, stub in self._serving.items():
            if pid not in serving and stub.version == self._server.version:
                self._replace(stub.model, f"its process {pid} ended")
                return
        self._serving = serving
        for pid, stub in serving.items():
            # Triton waits a second for it, and is lost after that.
            if stub.is_stopped:
                self._replace(stub.model, f"its process {pid} was stopped")
                return
        for model, health in self.healths.items():
            if health.waited(now) > _LATE_SECONDS:
                # It may be waiting for what it calls.
                working = (model, callee(model))
                self._notice_progress(model, health, [stub for stub in serving.values() if stub.model in working], now)
            if health.fault or self._hangs(model, health, now):
                self._replace(model, health.fault or f"it answered nothing for {health.waited(now):.0f} s")
                return
            if health.refusals >= _REFUSALS:
                self._reload(model, health)
                return
        if min(now - self._heard_at, *(health.waited(now) for health in self.healths.values())) > _DEAF_SECONDS:
            say(f"tritonserver did not answer for {_DEAF_SECONDS:.0f} s: ending it")
            self._server.kill()

    def _notice_progress(self, model: str, health: Health, stubs: list[Stub], now: float) -> None:
        elapsed = now - health.looked_at
        if elapsed < _LATE_SECONDS:
            return
        used = sum(cpu_seconds(stub.pid) for stub in stubs)
        if used - health.cpu_seconds > _COMPUTING * elapsed:
            health.computed_at = now
        health.looked_at, health.cpu_seconds = now, used
        try:
            statistics = self._server.statistics(model)
        except (OSError, ValueError):
            return
        self._heard_at = now
        health.see(statistics["execution_count"], statistics["inference_stats"]["success"]["count"], now)

    def _hangs(self, model: str, health: Health, now: float) -> bool:
        called = callee(model)
        if called is not None and not self.healths[called].up:
            # What it calls has the fault.
            health.refusals, health.computed_at = 0, now
        if health.waiting_since is None or now - self._heard_at > _HUNG_SECONDS / 2:
            return False
        silent = now - max(health.waiting_since, health.progressed_at)
        return min(silent, now - health.computed_at) > _HUNG_SECONDS or silent > _ENDLESS_SECONDS

    def _replace(self, model: str, fault: str) -> None:
        """Have tritonserver started again; whoever waits for an answer is told at once."""
        health = self.healths[model]
        health.up, health.reason = False, fault
        health.recoveries += 1
        say(f"{model}: {fault}; starting tritonserver again")
        self._server.kill()

    def _reload(self, model: str, health: Health) -> None:
        if health.reloads == _RELOADS:
            self._replace(model, f"it answers with errors after {_RELOADS} reloads: {health.reason}")
            return
        say(f"{model}: it answers with errors: {health.reason}; loading it again")
        health.reloads += 1
        health.recoveries += 1
        self._server.workspace.touch(model, self._server.version)
        try:
            self._server.load(model)
        except (ServerError, OSError) as error:
            say(f"{model}: {error}")
        health.forget("loaded again, and not asked yet")


def say(message: str) -> None:
    """Tell whoever reads the standard error of `serve`."""
    sys.stderr.write(f"serve: {message}\n")
    sys.stderr.flush()
