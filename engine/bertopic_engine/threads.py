"""Rows over threads: kernels release the GIL, so plain threads keep every core busy.

Rows are independent, so how they are split never changes an answer. Plain threads rather than numba's
own layers because those are not safe to call from several threads (workqueue) or depend on a system
library (OpenMP, TBB).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


def available_threads() -> int:
    """Threads to use: `BERTOPIC_ENGINE_THREADS`, else the processors this process may run on."""
    configured = os.environ.get("BERTOPIC_ENGINE_THREADS")
    return max(1, int(configured)) if configured else len(os.sched_getaffinity(0))


@lru_cache(maxsize=8)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="bertopic-engine")


def for_rows(work: Callable[[int, int], None], n_rows: int, *, smallest: int = 1) -> None:
    """Call `work(start, stop)` over consecutive ranges that cover `n_rows`, in parallel.

    Parameters
    ----------
    work : callable
        Must release the GIL to gain anything, and write only to its own rows.
    n_rows : int
    smallest : int
        A thread gets no fewer rows than this: they are not worth waking it.
    """
    n_ranges = min(available_threads(), n_rows // smallest)
    if n_ranges <= 1:
        work(0, n_rows)
        return
    bounds = [n_rows * i // n_ranges for i in range(n_ranges + 1)]
    # The calling thread takes the first range itself: one hand-over less.
    others = [_pool(n_ranges).submit(work, *bounds[i : i + 2]) for i in range(1, n_ranges)]
    work(bounds[0], bounds[1])
    for other in others:
        other.result()
