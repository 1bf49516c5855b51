"""Timings that can be compared: alternating repeats in one process, single calls, and fresh processes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], Any]

# A repeat of a call that is over sooner is made of several.
_SHORTEST_REPEAT = 0.1
# Threads of one library that wait actively for more work have gone to sleep after this.
_PAUSE = 0.2
_LIBRARIES = ("bertopic", "umap-learn", "pynndescent", "hdbscan", "scikit-learn", "numba", "faiss-cpu", "numpy")


@dataclass(frozen=True)
class Timing:
    """Repeated calls over the same rows."""

    rows: int
    seconds: tuple[float, ...]
    """Of a call, by repeat."""

    @property
    def us_per_row(self) -> float:
        """Median."""
        return float(np.median(self.seconds)) / self.rows * 1e6

    @property
    def spread(self) -> float:
        """Largest over smallest."""
        return max(self.seconds) / min(self.seconds)


@dataclass(frozen=True)
class Compared:
    """Two ways to the same answer, measured in turn."""

    ours: Timing
    theirs: Timing

    @property
    def ratio(self) -> float:
        """How many times faster this engine is, by medians."""
        return self.theirs.us_per_row / self.ours.us_per_row

    @property
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest of the repeats."""
        each = np.array(self.theirs.seconds) / np.array(self.ours.seconds)
        return float(each.min()), float(each.max())


@dataclass(frozen=True)
class Latency:
    """Single rows, one call each."""

    calls: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Fresh:
    """A new process from its start to its first answer."""

    cold_seconds: float
    """With an empty compile cache."""
    warm_seconds: tuple[float, ...]
    """With the cache that the cold start filled."""
    loaded_mib: float
    """Resident with the model loaded, before the first answer."""
    answered_mib: float


def in_turn(rows: int, repeats: int, calls: dict[str, Call]) -> dict[str, Timing]:
    """Time each call `repeats` times, taking turns so that whatever else the machine does meets all of them.

    Every call is made once beforehand, uncounted: compilers run then.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(_PAUSE)
            seconds[name].append(_seconds(call))
    return {name: Timing(rows, tuple(values)) for name, values in seconds.items()}


def compare(rows: int, repeats: int, ours: Call, theirs: Call) -> Compared:
    """See `in_turn`."""
    return Compared(**in_turn(rows, repeats, {"ours": ours, "theirs": theirs}))


def affordable(call: Callable[[int], Any], most: int, seconds: float) -> int:
    """How many rows, up to `most`, a call takes in about `seconds`."""
    few = min(8, most)
    call(1)
    started = time.perf_counter()
    call(few)
    return int(np.clip(few * seconds / (time.perf_counter() - started), few, most))


def single_rows(call: Callable[[NDArray[np.float32]], Any], rows: NDArray[np.float32], calls: int) -> Latency:
    """Latency of one row a call; the first calls, a tenth, are not counted."""
    milliseconds = []
    time.sleep(_PAUSE)
    for i in range(-(calls // 10), calls):
        row = rows[i % len(rows)][np.newaxis]
        started = time.perf_counter()
        call(row)
        if i >= 0:
            milliseconds.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Latency(calls, float(p50), float(p99))


def fresh(program: str, *arguments: Path, repeats: int) -> Fresh:
    """Start `program` in new interpreters: once with an empty compile cache, then `repeats` times with what it left.

    Parameters
    ----------
    program : str
        Python code that calls `loaded()` and `answered()`.
    arguments : Path
        Its `sys.argv[1:]`.
    """
    with tempfile.TemporaryDirectory() as cache:
        runs = [_start(program, arguments, cache) for _ in range(repeats + 1)]
    warm = runs[1:]
    return Fresh(
        cold_seconds=runs[0][0],
        warm_seconds=tuple(seconds for seconds, _, _ in warm),
        loaded_mib=float(np.median([loaded for _, loaded, _ in warm])),
        answered_mib=float(np.median([answered for _, _, answered in warm])),
    )


def bytes_in(*folders: Path) -> int:
    """Bytes of all files below, but for what Python compiled."""
    files = (file for folder in folders for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file() and "__pycache__" not in file.parts)


def processor() -> str:
    """The processor's name."""
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import numba
    from bertopic_engine.threads import available_threads

    versions = {distribution.name: distribution.version for distribution in distributions()}
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int((_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) / 2**20, 1),
        "engine_threads": available_threads(),
        "library_threads": numba.get_num_threads(),
        "python": platform.python_version(),
        "libraries": {name: versions[name] for name in _LIBRARIES if name in versions},
    }


_PRELUDE = """
import json, sys
def resident():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
def loaded():
    global before
    before = resident()
def answered():
    print(json.dumps([before, resident()]), flush=True)
"""


def _start(program: str, arguments: tuple[Path, ...], cache: str) -> tuple[float, float, float]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    # An installed package has its bytecode beside it.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + program, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a fresh process failed: {errors}")
    before, after = json.loads(line)
    return seconds, before, after


def _seconds(call: Call) -> float:
    """Mean over as many calls as a repeat takes."""
    calls = 0
    started = time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - started
        if elapsed >= _SHORTEST_REPEAT:
            return elapsed / calls


def _field(path: Path, name: str) -> str | None:
    if not path.is_file():
        return None
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)
