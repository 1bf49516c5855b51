"""The processes in which Triton runs python models, as /proc shows them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_IDLE_SECONDS = 15.0
# Of a processor.
_LITTLE = 0.01
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stub:
    """One process, an instance of a python model."""

    pid: int
    model: str
    version: int
    region: str
    """its file in /dev/shm"""

    @property
    def is_stopped(self) -> bool:
        """Whether a signal such as SIGSTOP suspended it."""
        return _status(self.pid)[0] == "T"

    def kill(self) -> None:
        """End it, whatever it does."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Idleness:
    """Tells when processes that should be busy have done next to nothing for a while.

    Triton waits for ever for a new stub that was too slow to report, or that ended instead.
    """

    def __init__(self) -> None:
        self._cpu_seconds = 0.0
        self._since = time.monotonic()

    def lasts(self, pids: Collection[int]) -> bool:
        """Whether processes, which may change from call to call, do nothing; to be asked often."""
        total = sum(map(cpu_seconds, pids))
        if abs(total - self._cpu_seconds) > _LITTLE * _IDLE_SECONDS:
            self._cpu_seconds, self._since = total, time.monotonic()
        return time.monotonic() - self._since > _IDLE_SECONDS


class Stubs:
    """The stubs of the models in one folder.

    Parameters
    ----------
    models : Path
        The model repository that Triton serves.
    """

    def __init__(self, models: Path) -> None:
        self._models = str(models) + os.sep
        self._seen: dict[int, Stub] = {}
        self._replaced: set[int] = set()

    def all(self) -> dict[int, Stub]:
        """Those of all models and versions that run now, by process id."""
        pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
        found = {pid: stub for pid in pids if (stub := self._read(pid))}
        # What a model starts bears the model's command line for a moment.
        alive = {pid: stub for pid, stub in found.items() if _parent(pid) not in found}
        self._seen.update(alive)
        return alive

    def serving(self, version: int) -> dict[int, Stub]:
        """Those of a version that run now and are not replaced, by process id."""
        alive = self.all()
        self._replaced &= alive.keys()
        return {pid: stub for pid, stub in alive.items() if stub.version == version and pid not in self._replaced}

    def loading(self, model: str) -> dict[int, Stub]:
        """Those of a model that run now and were not there at the last `replace`, by process id."""
        alive = self.all()
        return {pid: stub for pid, stub in alive.items() if stub.model == model and pid not in self._replaced}

    def replace(self, model: str) -> list[Stub]:
        """Those of a model that run now; from here on they may end."""
        replaced = [stub for stub in self.all().values() if stub.model == model]
        self._replaced.update(stub.pid for stub in replaced)
        return replaced

    def clear(self) -> None:
        """Kill all, and delete the shared memory of all that were ever seen: for when their tritonserver is gone."""
        deadline = time.monotonic() + 10
        while (alive := self.all()) and time.monotonic() < deadline:
            for stub in alive.values():
                stub.kill()
            time.sleep(0.02)
        for stub in self._seen.values():
            (_SHARED_MEMORY / stub.region).unlink(missing_ok=True)
        self._seen.clear()

    def _read(self, pid: int) -> Stub | None:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        # Empty once it has died, until its parent takes note.
        if len(arguments) < 3 or not (script := os.fsdecode(arguments[1])).startswith(self._models):
            return None
        model, version, _ = script.removeprefix(self._models).split(os.sep, 2)
        return Stub(pid, model, int(version), os.fsdecode(arguments[2]))


def cpu_seconds(pid: int) -> float:
    """Processor time that a process used since it started."""
    fields = _status(pid)
    return sum(map(int, fields[11:13])) / _TICKS_PER_SECOND if len(fields) > 12 else 0.0


def _parent(pid: int) -> int:
    fields = _status(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["gone"]
