"""Runs the kernels of a GPU under numba's simulator: `python _simulated.py FOLDER...`.

In each folder: what `UmapTransform.save` wrote, and `rows.npy`. Writes `places.npy`, and `alone.npy`, the place of the
second row without the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Before numba is imported. Functions that kernels call are then plain Python, too.
os.environ |= {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}

import numpy as np
from bertopic_engine import _cuda_layout
from bertopic_engine.cuda import CudaUmapTransform
from bertopic_engine.umap import UmapTransform

_cuda_layout.ROWS_PER_BLOCK = 2
empty = np.empty


def used(shape: Any, dtype: Any = float) -> Any:
    """An empty array as a GPU's memory pool gives it: with what was there before, which is no index of anything."""
    array = empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = 0x3D
    return array


for folder in map(Path, sys.argv[1:]):
    x = np.load(folder / "rows.npy")
    on_cpu = UmapTransform.load(folder)
    np.empty = used
    umap = CudaUmapTransform(on_cpu, xp=np, rows=2, tile=512, threads=4, lanes=2)
    # First, so that nothing but the one row was ever written, beside which a block has room for another.
    np.save(folder / "alone.npy", umap.transform(x[1:2]))
    np.save(folder / "places.npy", umap.transform(x))
    np.empty = empty
