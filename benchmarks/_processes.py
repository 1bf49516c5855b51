"""What the processes of a running `bertopic-inference serve` hold in memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy import stats

TRITONSERVER, SHARED = "tritonserver", "/dev/shm"
# Samples next to each other tell the same; means of so many stretches of time do not.
# MiB an hour.
_VISIBLE = 0.1
_STRETCHES = 20


@dataclass(frozen=True)
class Process:
    """One of the processes below `serve`."""

    pid: int
    name: str
    """tritonserver, or the model that a stub runs"""
    region: str
    """a stub's file in /dev/shm, or nothing"""


@dataclass(frozen=True)
class Slope:
    """How memory changes with time, by least squares."""

    mib_per_hour: float
    low: float
    """of the 95% confidence interval"""
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether no growth is within the interval, or none that a day would show."""
        return not self.low > _VISIBLE


def processes(serve: int) -> list[Process]:
    """Tritonserver and its stubs, for the process id of `serve`."""
    return [process for pid in _children(serve) for process in [_process(pid), *map(_process, _children(pid))]]


def slope(seconds: list[float], mib: list[float]) -> Slope | None:
    """The change in memory over time, from the means of stretches of equal numbers of samples; None for too few."""
    if len(seconds) < 2 * _STRETCHES:
        return None
    times, values = (
        np.array([part.mean() for part in np.array_split(np.array(samples), _STRETCHES)]) for samples in (seconds, mib)
    )
    fit = stats.linregress(times / 3600, values)
    margin = float(stats.t.ppf(0.975, _STRETCHES - 2) * fit.stderr)
    return Slope(float(fit.slope), float(fit.slope) - margin, float(fit.slope) + margin)


@dataclass
class Memory:
    """Samples of resident memory in MiB, by process name, while the block runs; a context manager.

    Several stubs of one model count together.
    """

    serve: int
    every: float = 1.0
    seconds: list[float] = field(default_factory=list)
    mib: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def after(self, share: float) -> Iterator[tuple[str, list[float], list[float]]]:
        """Name, seconds and MiB of each process, without the first `share` of the time."""
        first = int(share * len(self.seconds))
        for name, mib in self.mib.items():
            yield name, self.seconds[first:], mib[first:]

    def _sample(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(self.every):
            found = _resident(processes(self.serve))
            for name in found.keys() - self.mib.keys():
                self.mib[name] = [0.0] * len(self.seconds)
            self.seconds.append(time.monotonic() - begun)
            for name, mib in self.mib.items():
                mib.append(found.get(name, 0.0))


def _resident(found: list[Process]) -> dict[str, float]:
    mib: dict[str, float] = {}
    for process in found:
        mib[process.name] = mib.get(process.name, 0.0) + _status_mib(process.pid)
        if process.region:
            mib[SHARED] = mib.get(SHARED, 0.0) + _file_mib(Path(SHARED) / process.region)
    return mib


def _process(pid: int) -> Process:
    arguments = _command_line(pid)
    if len(arguments) > 2 and arguments[1].endswith("/model.py"):
        return Process(pid, Path(arguments[1]).parents[1].name, arguments[2])
    return Process(pid, TRITONSERVER, "")


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [other for other in pids if _parent(other) == pid]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _status_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def _file_mib(path: Path) -> float:
    try:
        return path.stat().st_blocks * 512 / 2**20
    except OSError:
        return 0.0
