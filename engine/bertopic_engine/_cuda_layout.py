"""UMAP's layout of new rows on a GPU: the functions of the CPU's layout, spread over the threads of CUDA.

`connect` runs one row per thread, in the very functions of `_fuzzy`. `settle` is the iteration of `_mean_field`, one
row per warp: its lanes share out the training points that push and the neighbours that pull, and every lane moves its
own copy of the row, so that none waits for another's decision.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import cuda

from ._fuzzy import fill_start, fill_strengths, order_by_index
from ._gradients import (
    AT_REST,
    MOST_ITERATIONS,
    STEPS_PER_FORCE,
    attraction,
    bounded,
    cut_off,
    is_visited,
    relaxed,
    repulsion,
)

if TYPE_CHECKING:
    from .umap import UmapTransform

f32 = np.float32

ROWS_PER_BLOCK = 64


class CudaLayout:
    """Places rows whose neighbours are known; see `UmapTransform.layout`.

    Parameters
    ----------
    umap : UmapTransform
    xp : module
        Holds arrays: CuPy, or numpy under numba's simulator.
    most_rows : int
        Of a call.
    lanes : int
        Threads that share one row.
    """

    def __init__(self, umap: UmapTransform, xp: Any, most_rows: int, lanes: int) -> None:
        p, k = umap.parameters, umap.parameters.n_neighbors
        self._kernels = layout_kernels(k, umap.n_components, lanes)
        self._lanes = lanes
        arrays = umap.layout_arrays()
        on_device = {name: view(xp.asarray(array)) for name, array in arrays.items()}
        self._positions = xp.empty((most_rows, umap.n_components), f32)
        self._strengths = view(xp.empty((most_rows, k), f32))
        self._connect = (
            on_device["unplaced"],
            f32(math.inf if p.disconnection_distance is None else p.disconnection_distance),
            on_device["embedding"],
            on_device["outside"],
            float(p.n_neighbors),
            max(0.0, p.local_connectivity - 1.0),
            self._strengths,
            view(self._positions),
        )
        self._settle = (
            self._strengths,
            on_device["embedding"],
            on_device["centers"],
            on_device["weights"],
            on_device["spreads"],
            f32(p.a),
            f32(p.b),
            f32(p.negative_sample_rate),
            f32(p.repulsion_strength),
            p.n_epochs,
            view(self._positions),
        )

    def place(self, n_rows: int, indices: Any, distances: Any) -> Any:
        """Places of the first `n_rows` rows, float32 [n_rows, n_components] on the device until the next call.

        `indices` is int32 [most_rows, n_neighbors], on the device and written to; `distances` float32 likewise.
        """
        self._kernels.connect[-(-n_rows // ROWS_PER_BLOCK), ROWS_PER_BLOCK](n_rows, indices, distances, *self._connect)
        self._kernels.settle[n_rows, self._lanes](indices, *self._settle)
        return self._positions[:n_rows]


def view(array: Any) -> Any:
    """An array as kernels take it, without the waiting for its stream that a foreign array costs at each launch."""
    return cuda.as_cuda_array(array, sync=False) if hasattr(array, "__cuda_array_interface__") else array


class LayoutKernels(NamedTuple):
    """Kernels for one number of neighbours and of components; see `layout_kernels`."""

    connect: Any
    """For the first `n_rows` rows, one a thread: `indices` int32 [m, k], set to -1 for a training row that is unplaced,
    or as far as `farthest`; `distances` float32 [m, k]; `unplaced` bool [n]; `farthest` float32; `embedding` float32
    [n, n_components]; `outside` float32 [n_components]; `n_neighbors`, `local_connectivity` float64. Writes
    `strengths` float32 [m, k] and `positions` float32 [m, n_components]; see `_fuzzy.connect`."""
    settle: Any
    """For every row of a launch, one a block of `lanes` threads: what `_mean_field.settle` takes, with the repulsion
    field as its three arrays. Moves `positions`."""


def shared_bytes(n_neighbors: int, n_components: int, lanes: int) -> int:
    """What the threads of `LayoutKernels.settle` have in common."""
    return 4 * ((n_components + 1) * (lanes + 1) + n_components * n_neighbors + n_neighbors)


@lru_cache
def layout_kernels(n_neighbors: int, n_components: int, lanes: int) -> LayoutKernels:
    """Kernels for `n_neighbors` and `n_components`, known when they are compiled so that a row stays in registers."""
    # A column more than there are lanes, so that sums lie in different banks of the memory.
    sums_shape = n_components + 1, lanes + 1
    neighbors_shape = n_components, n_neighbors
    n_sums = n_components + 1

    @cuda.jit
    def connect(
        n_rows: int,
        indices: Any,
        distances: Any,
        unplaced: Any,
        farthest: Any,
        embedding: Any,
        outside: Any,
        neighbors: Any,
        local_connectivity: Any,
        strengths: Any,
        positions: Any,
    ) -> None:
        row = cuda.grid(1)
        if row >= n_rows:
            return
        order = cuda.local.array(n_neighbors, np.int64)
        for j in range(n_neighbors):
            index = indices[row, j]
            if index >= 0 and (unplaced[index] or distances[row, j] >= farthest):
                indices[row, j] = -1
        fill_strengths(indices[row], distances[row], neighbors, local_connectivity, strengths[row])
        n = order_by_index(indices[row], strengths[row], order)
        # Not as the CPU's descent adds them up, whose seed the last bit decides: nothing is drawn here.
        total = f32(0.0)
        for j in range(n_neighbors):
            total += strengths[row, j]
        fill_start(indices[row], strengths[row], order[:n], total, embedding, outside, positions[row])

    @cuda.jit(device=True)
    def add_up(values: Any, n: int, sums: Any) -> None:
        """Replace every lane's values by their sums over the lanes, added up in the order of the lanes."""
        lane = cuda.threadIdx.x
        for i in range(n):
            sums[i, lane] = values[i]
        cuda.syncthreads()
        for i in range(lane, n, lanes):
            total = f32(0.0)
            for other in range(lanes):
                total += sums[i, other]
            sums[i, 0] = total
        cuda.syncthreads()
        for i in range(n):
            values[i] = sums[i, 0]
        cuda.syncthreads()

    @cuda.jit
    def settle(
        indices: Any,
        strengths: Any,
        embedding: Any,
        centers: Any,
        shares: Any,
        spreads: Any,
        a: Any,
        b: Any,
        negative_sample_rate: Any,
        gamma: Any,
        n_epochs: Any,
        positions: Any,
    ) -> None:
        row, lane = cuda.blockIdx.x, cuda.threadIdx.x
        sums = cuda.shared.array(sums_shape, f32)
        neighbors = cuda.shared.array(neighbors_shape, f32)
        pulls = cuda.shared.array(n_neighbors, f32)
        y = cuda.local.array(n_components, f32)
        proposal = cuda.local.array(n_components, f32)
        residual = cuda.local.array(n_components, f32)
        force = cuda.local.array(n_components, f32)
        moves = cuda.local.array(n_sums, f32)

        strongest = f32(0.0)
        for j in range(n_neighbors):
            strongest = max(strongest, strengths[row, j])
        total = f32(0.0)
        for j in range(n_neighbors):
            if is_visited(strengths[row, j], strongest, n_epochs):
                total += strengths[row, j] / strongest
        if total == f32(0.0):
            return
        for j in range(lane, n_neighbors, lanes):
            visited = is_visited(strengths[row, j], strongest, n_epochs)
            pulls[j] = strengths[row, j] / strongest if visited else f32(0.0)
            for d in range(n_components):
                neighbors[d, j] = embedding[indices[row, j], d] if visited else f32(0.0)
        for d in range(n_components):
            y[d] = positions[row, d]
            residual[d] = f32(0.0)
        pushes = negative_sample_rate * total
        relaxation = f32(1.0)
        cuda.syncthreads()

        for iteration in range(MOST_ITERATIONS):
            for d in range(n_components):
                force[d] = f32(0.0)
            for m in range(lane, shares.shape[0], lanes):
                squared = spreads[m]
                for d in range(n_components):
                    squared += (y[d] - centers[d, m]) * (y[d] - centers[d, m])
                weight = repulsion(squared, a, b, gamma)
                for d in range(n_components):
                    force[d] += shares[m] * cut_off(weight * (y[d] - centers[d, m]))
            add_up(force, n_components, sums)

            for d in range(n_components):
                proposal[d] = y[d]
            for _ in range(STEPS_PER_FORCE):
                for d in range(n_sums):
                    moves[d] = f32(0.0)
                for j in range(lane, n_neighbors, lanes):
                    squared = f32(0.0)
                    for d in range(n_components):
                        squared += (neighbors[d, j] - proposal[d]) * (neighbors[d, j] - proposal[d])
                    q = attraction(pulls[j], squared, a, b)
                    moves[n_components] += q
                    for d in range(n_components):
                        moves[d] += q * (neighbors[d, j] - proposal[d])
                add_up(moves, n_sums, sums)
                for d in range(n_components):
                    proposal[d] += bounded((moves[d] + pushes * force[d]) / moves[n_components])

            along, changed = f32(0.0), f32(0.0)
            for d in range(n_components):
                current = proposal[d] - y[d]
                change = current - residual[d]
                along += residual[d] * change
                changed += change * change
                residual[d] = current
            relaxation = f32(1.0) if iteration == 0 or changed == f32(0.0) else relaxed(relaxation, along, changed)
            largest = f32(0.0)
            for d in range(n_components):
                y[d] += relaxation * residual[d]
                largest = max(largest, abs(residual[d]))
            if largest < AT_REST:
                break
        for d in range(lane, n_components, lanes):
            positions[row, d] = y[d]

    return LayoutKernels(connect, settle)
