"""UMAP's transform on a GPU: the CPU's answers, from batch to batch without leaving the device.

Of everything that `UmapTransform` computes here are the neighbours, found by comparing with every training row, and
the layout "mean_field". Memory: six bytes for each number of the training data (half precision for the tensor cores,
single precision for the exact distances), and some 270 bytes for each training row while rows are answered.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from . import _cuda_layout, _cuda_neighbors
from ._cuda_layout import CudaLayout
from ._cuda_neighbors import CudaNeighbors
from ._exceptions import DeviceUnavailable, UnsupportedOnDevice
from .umap import UmapTransform, check_embeddings

MOST_SHARED_BYTES = 49_152
"""That the threads of a block have in common, on GPUs of any kind."""

# A lone row cannot fill a GPU, and need not.
warnings.filterwarnings("ignore", message="Grid size .* will likely result in GPU under-utilization")

_ROWS = 1_024
# 128 MiB of scores in half precision.
_TILE = 65_536
_THREADS = 512
_WARP = 32


class CudaUmapTransform:
    """A UmapTransform on a GPU.

    One thread at a time uses the device; others wait.

    Parameters
    ----------
    umap : UmapTransform
        With the layout "mean_field".
    device : int
    xp : module, optional
        What computes matrix products and holds arrays: CuPy; numpy under numba's simulator.
    rows, tile, threads, lanes : int
        Rows that are answered together, training rows of a matrix product, and threads of a block for the search
        and for the layout. Answers depend on `lanes` by rounding only, on the others not at all.

    Raises
    ------
    UnsupportedOnDevice
        Another layout, or more neighbours and components than MOST_SHARED_BYTES have room for.
    DeviceUnavailable
        CuPy or the device is missing, or has no room for the training data.
    """

    def __init__(
        self,
        umap: UmapTransform,
        device: int = 0,
        *,
        xp: Any = None,
        rows: int = _ROWS,
        tile: int = _TILE,
        threads: int = _THREADS,
        lanes: int = _WARP,
    ) -> None:
        if umap.parameters.layout != "mean_field":
            raise UnsupportedOnDevice(
                f"the layout is {umap.parameters.layout!r}, and a GPU computes 'mean_field' only. "
                "Convert the model with --layout mean_field, or serve it on the CPU."
            )
        p = self.parameters = umap.parameters
        self.dim, self.n_components = umap.dim, umap.n_components
        _require_shared_memory(p.n_neighbors, self.n_components, lanes)
        self._metric = umap.neighbors.metric
        self._lock = threading.Lock()
        self._device = device
        self._xp = xp or _cupy(device)
        self._rows = rows
        try:
            with self._on_device():
                self._neighbors = CudaNeighbors(
                    umap.neighbors.rows(),
                    self._metric,
                    p.n_neighbors,
                    self._xp,
                    half_precision=umap.neighbors.half_precision,
                    most_rows=rows,
                    tile=tile,
                    threads=threads,
                )
                self._layout = CudaLayout(umap, self._xp, rows, lanes)
        except MemoryError as error:
            raise DeviceUnavailable(
                f"GPU {device} has no room for the training data ({error}). Each model that runs UMAP holds its own. "
                "Take a GPU with more memory, or convert the model with --device cpu."
            ) from error

    def check(self, embeddings: NDArray[Any]) -> None:
        """Raise InvalidInput unless `transform` has an answer; see `check_embeddings`."""
        check_embeddings(embeddings, self.dim, self._metric)

    def transform(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place embeddings; see `UmapTransform.transform`.

        Parameters
        ----------
        embeddings : float32 [m, dim]

        Returns
        -------
        float32 [m, n_components]
        """
        self.check(embeddings)
        with self._lock, self._on_device():
            positions = self._xp.empty((len(embeddings), self.n_components), np.float32)
            for start in range(0, len(embeddings), self._rows):
                some = embeddings[start : start + self._rows]
                places = self._layout.place(len(some), *self._neighbors.query(some))
                positions[start : start + len(some)] = places
            return self._to_host(positions)

    def _to_host(self, array: Any) -> NDArray[np.float32]:
        host: NDArray[np.float32] = array if self._xp is np else self._xp.asnumpy(array)
        return host

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Make the device that of the calling thread, for CuPy and for numba."""
        if self._xp is np:
            yield
            return
        with self._xp.cuda.Device(self._device), cuda.gpus[self._device]:
            yield


def _require_shared_memory(n_neighbors: int, n_components: int, lanes: int) -> None:
    needed = max(_cuda_neighbors.shared_bytes(n_neighbors), _cuda_layout.shared_bytes(n_neighbors, n_components, lanes))
    if needed > MOST_SHARED_BYTES:
        raise UnsupportedOnDevice(
            f"UMAP has n_neighbors = {n_neighbors} and n_components = {n_components}, for which threads share "
            f"{needed:,} bytes, and a GPU has {MOST_SHARED_BYTES:,}. Serve the model on the CPU."
        )


def _cupy(device: int) -> Any:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        # CuPy up to 13 does not look where pip installs them.
        for library in ("nvrtc", "cublas"):
            load_nvidia_dynamic_lib(library)
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # the module or a library is missing, or the driver has no device
        raise DeviceUnavailable(
            f"GPU {device} cannot be used ({type(error).__name__}: {error}). Install the GPU's libraries with "
            "`pip install 'bertopic-inference[gpu]' 'onnxruntime-gpu[cuda,cudnn]'` on a machine with an NVIDIA driver, "
            "or take the CPU: leave out `device` in process, convert with --device cpu for a server."
        ) from error
    if not 0 <= device < n_devices:
        raise DeviceUnavailable(
            f"GPU {device} was asked for, and this machine has {n_devices}, counted from 0. Give one of those."
        )
    return cupy
