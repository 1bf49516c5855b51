"""The GPU's answers are the CPU's: its kernels under numba's simulator everywhere, and on a GPU where there is one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from bertopic_engine import DeviceUnavailable, UmapTransform, UnsupportedOnDevice
from bertopic_engine.cuda import CudaUmapTransform
from bertopic_engine.neighbors import ExactNeighbors, Neighbors, build_index
from bertopic_engine.repulsion import centroids
from bertopic_engine.umap import UmapParameters

# Layouts stop when they would move by 0.002 at most, and sums are added up in another order.
CLOSE = 4e-3
SIMULATED = Path(__file__).with_name("_simulated.py")


@dataclass
class Case:
    metric: str = "cosine"
    n: int = 60
    dim: int = 6
    n_neighbors: int = 2
    spread: float = 0.125
    """Of the rows of a cluster; clusters are about 1 apart."""
    origin: float = 0.0
    index: bool = False
    disconnection_distance: float | None = None
    unplaced: bool = False


CASES = {
    "cosine": Case(),
    "euclidean": Case("euclidean"),
    "close together": Case(n=300, dim=16, spread=0.02),
    "far from the origin": Case("euclidean", n=300, dim=16, origin=1e4),
    "tree of several levels and tiles": Case(n=1_300, dim=16),
    "fewer rows than neighbours": Case(n=2, n_neighbors=3),
    "rows of an index": Case(index=True),
    "euclidean rows of an index": Case("euclidean", index=True),
    "disconnected and unplaced": Case("euclidean", disconnection_distance=0.5, unplaced=True),
}


def transform(case: Case) -> tuple[UmapTransform, Any]:
    """A UMAP of clusters that do not overlap, and rows near them, one far from all."""
    generator = np.random.default_rng(case.n)
    centers, places = generator.normal(size=(5, case.dim)), 6 * generator.normal(size=(5, 3))

    def rows(n: int) -> tuple[Any, Any]:
        cluster = np.arange(n) % 5
        return case.origin + centers[cluster] + case.spread * generator.normal(size=(n, case.dim)), places[cluster]

    data, embedding = (array.astype(np.float32) for array in rows(case.n))
    embedding += generator.normal(size=embedding.shape).astype(np.float32) / 4
    x = rows(3)[0].astype(np.float32)
    x[1], x[2] = data[2 % case.n], 50.0
    if case.metric == "cosine":
        data[1] = 0
    if case.unplaced:
        embedding[::7] = np.nan
    neighbors: Neighbors = ExactNeighbors(data, case.metric)
    if case.index:
        neighbors = build_index(data, case.metric, k=case.n_neighbors, recall=1.0)
        faiss.downcast_index(neighbors._index.index).hnsw.efSearch = case.n
    parameters = UmapParameters(
        case.n_neighbors, 1.58, 0.9, 100, (1, 2, 3), disconnection_distance=case.disconnection_distance
    )
    placed = embedding[np.isfinite(embedding).all(axis=1)]
    return UmapTransform(embedding, neighbors, parameters, centroids(placed, min(8, case.n))), x


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, case in CASES.items():
        folders[name] = tmp_path_factory.mktemp("case")
        umap, x = transform(case)
        umap.save(folders[name])
        np.save(folders[name] / "rows.npy", x)
    subprocess.run([sys.executable, str(SIMULATED), *map(str, folders.values())], check=True)
    return folders


@pytest.mark.parametrize("name", CASES)
def test_places_are_those_of_the_cpu(simulated: dict[str, Path], name: str) -> None:
    umap, x = transform(CASES[name])
    np.testing.assert_allclose(np.load(simulated[name] / "places.npy"), umap.transform(x), atol=CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_a_row_does_not_depend_on_its_batch(simulated: dict[str, Path], name: str) -> None:
    places, alone = (np.load(simulated[name] / f"{array}.npy") for array in ("places", "alone"))
    assert places[[1]].tobytes() == alone.tobytes()


def test_rows_of_an_index_are_what_it_compares() -> None:
    exact, indexed = (transform(Case(index=index))[0].neighbors.rows() for index in (False, True))
    assert exact.shape == indexed.shape
    assert np.isinf(exact[1]).all()
    assert np.isinf(indexed[1]).all()
    np.testing.assert_allclose(np.delete(exact, 1, axis=0), np.delete(indexed, 1, axis=0), atol=1e-3)


def test_a_cpu_imports_nothing_for_gpus(tmp_path: Path) -> None:
    umap, x = transform(Case())
    umap.save(tmp_path)
    np.save(tmp_path / "rows.npy", x)
    code = """if True:
        import sys, pathlib, numpy, bertopic_converters, bertopic_embedder, bertopic_engine.serving
        folder = pathlib.Path(sys.argv[1])
        bertopic_engine.load_transform(folder).transform(numpy.load(folder / "rows.npy"))
        for_gpus = ("cupy", "cuml", "numba.cuda", "bertopic_engine._cuda")
        print(*[name for name in sys.modules if name.startswith(for_gpus)])
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match=r"GPU 99.*"):
        CudaUmapTransform(transform(Case())[0], device=99)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"layout": "sgd"}, "'sgd'.*--layout mean_field"), ({"n_neighbors": 342}, "n_neighbors = 342.*49,248 .*49,152")],
    ids=lambda value: str(value),
)
def test_what_a_gpu_cannot_compute_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedOnDevice, match=words):
        CudaUmapTransform(transform(Case())[0].replaced(**changes), xp=np)


@pytest.mark.gpu
@pytest.mark.parametrize(("metric", "n_neighbors"), [("cosine", 15), ("euclidean", 15), ("cosine", 200)])
def test_on_a_gpu(metric: str, n_neighbors: int) -> None:
    generator = np.random.default_rng(0)
    centers, places = generator.normal(size=(40, 96)), 10 * generator.normal(size=(40, 5))
    cluster = generator.integers(0, 40, 90_000)
    data = (centers[cluster] + generator.normal(size=(90_000, 96)) / 2).astype(np.float32)
    embedding = (places[cluster] + generator.normal(size=(90_000, 5)) / 2).astype(np.float32)
    x = (centers[cluster[:3_000]] + generator.normal(size=(3_000, 96)) / 2).astype(np.float32)
    umap = UmapTransform(
        embedding,
        ExactNeighbors(data, metric),
        UmapParameters(n_neighbors, 1.58, 0.9, 100, (1, 2, 3)),
        centroids(embedding, 512),
    )
    on_gpu = CudaUmapTransform(umap)
    # Before any full batch, and no whole number of blocks.
    few = on_gpu.transform(x[:100])
    places_of_gpu = on_gpu.transform(x)
    close = np.abs(places_of_gpu - umap.transform(x)).max(axis=1) < CLOSE
    assert close.mean() >= 0.999
    assert few.tobytes() == places_of_gpu[:100].tobytes()
    assert on_gpu.transform(x[::-1])[::-1].tobytes() == places_of_gpu.tobytes()
    assert on_gpu.transform(x[1_500:1_501]).tobytes() == places_of_gpu[1_500:1_501].tobytes()
