"""Runs the kernels of a GPU under numba's simulator: `python _simulated.py FOLDER...`.

In each folder: what `UmapTransform.save` wrote, and `rows.npy`. Writes `places.npy`, and `alone.npy`, the place of the
second row without the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before numba is imported. Functions that kernels call are then plain Python, too.
os.environ |= {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}

import numpy as np
from bertopic_engine.cuda import CudaUmapTransform
from bertopic_engine.umap import UmapTransform

for folder in map(Path, sys.argv[1:]):
    x = np.load(folder / "rows.npy")
    umap = CudaUmapTransform(UmapTransform.load(folder), xp=np, rows=3, tile=512, threads=4, lanes=2)
    np.save(folder / "places.npy", umap.transform(x))
    np.save(folder / "alone.npy", umap.transform(x[1:2]))
