"""This engine beside umap-learn + hdbscan: the same models and rows, in one process, and how each grows.

    python benchmarks/engine.py [--out benchmarks/results] [--only SECTION...] [--quick]

Real models are BERTopics trained on Stack Overflow titles (18,000 training rows) and on docstring sentences (all
that installed packages hold), embedded by all-MiniLM-L6-v2. Measured on held-out rows, taking turns:

- the layout alone. umap-learn's is `UMAP.transform` with its index replaced by one that hands out the
  neighbours found beforehand, and with an input of one column, so that what is left is exactly what follows the
  neighbour query: membership strengths, start, descent;
- neighbours, HDBSCAN's prediction and membership alone;
- embeddings to topics: `TopicModel.predict` and `BERTopic.transform(documents, embeddings)`, in one batch and
  row by row;
- memory and start-up, each in processes of its own, from the start of the interpreter to the first answer;
  files on disk: all of the repository but the embedder and its tokenizer, and BERTopic's pickle without its.

BERTopic's UMAP has no `random_state`, so that its descent runs on all cores, and whatever the libraries compile
is compiled before a clock starts.

Growth is measured on synthetic models: no UMAP is fitted for them, its arrays are made (see `_models.py`); their
indexes are built and their HDBSCANs fitted as usual.

Stack Overflow titles (jacoxu/StackOverflow) and, for fidelity, banking77 (PolyAI-LDN/task-specific-datasets) are read
from `stackoverflow.jsonl` and `banking77.jsonl` in --texts-folder, one {"text": ...} a line; left out where missing.
Models are made once and kept in --folder; remove one there to make it anew.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import (
    Compared,
    Fresh,
    Latency,
    Timing,
    affordable,
    bytes_in,
    compare,
    fresh,
    in_turn,
    machine,
    single_rows,
)
from _models import (
    BANKING77,
    DOCSTRINGS,
    N_NEIGHBORS,
    STACKOVERFLOW,
    RealModel,
    SyntheticModel,
    make_synthetic,
    real_models,
)
from _plots import plot_growth, plot_speed_ups
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

SYNTHETIC, FIDELITY = "synthetic", "fidelity"
SECTIONS = (STACKOVERFLOW, DOCSTRINGS, SYNTHETIC, FIDELITY)
MEAN_FIELD = "mean_field"
TOGETHER, PREDICTION, MEMBERSHIP = "embeddings to topics", "HDBSCAN prediction", "membership"
LAYOUT, ALONE = "layout", "one row"
# What the slower side of a comparison may take, once.
_SECONDS = 4.0
_REPEATS_OF_LONG_CALLS = 3
_REPOSITORY = Path(__file__).parents[1]
console = Console(width=120)


class Sizes(NamedTuple):
    """How large everything is."""

    training_rows: int | None
    """Of real models, at most."""
    growing_rows: tuple[int, ...]
    topics_of_growing_rows: int
    growing_topics: tuple[int, ...]
    rows_of_growing_topics: int
    topics_for_membership: int
    components: int
    repeats: int
    single_rows: int
    seeds: int


FULL = Sizes(
    training_rows=None,
    growing_rows=(18_000, 60_000, 200_000, 1_000_000),
    topics_of_growing_rows=250,
    growing_topics=(250, 1_400, 4_000, 12_000),
    rows_of_growing_topics=200_000,
    topics_for_membership=1_400,
    components=12,
    repeats=5,
    single_rows=300,
    seeds=24,
)
QUICK = Sizes(
    training_rows=1_500,
    growing_rows=(1_500, 6_000),
    topics_of_growing_rows=20,
    growing_topics=(20, 150),
    rows_of_growing_topics=6_000,
    topics_for_membership=20,
    components=12,
    repeats=2,
    single_rows=30,
    seeds=2,
)


@dataclass(frozen=True)
class Measured:
    """One real model."""

    training_rows: int
    topics: int
    layout: str
    """That the model was converted with, and serves by."""
    recall: float
    """Share of the true nearest training rows that the neighbours hold."""
    batches: dict[str, Compared]
    """By task."""
    ours_alone: Latency
    theirs_alone: Latency
    ours_fresh: Fresh
    theirs_fresh: Fresh
    ours_bytes: int
    theirs_bytes: int
    same_topics: float
    """Share of the held-out rows; umap-learn's own runs differ from each other, too."""


@dataclass(frozen=True)
class Cost:
    """What a row costs in one synthetic model."""

    training_rows: int
    topics: int
    """As intended."""
    clusters: int
    """As HDBSCAN found them."""
    recall: float
    parts: dict[str, Timing]
    alone: Latency

    @property
    def us_per_row(self) -> float:
        """All parts in one call."""
        return self.parts[TOGETHER].us_per_row


@dataclass(frozen=True)
class Clustering:
    """HDBSCAN's prediction or membership in one synthetic model, beside the library's."""

    training_rows: int
    clusters: int
    compared: Compared
    same_labels: float | None
    largest_difference: float
    """Of probabilities or memberships."""


@dataclass(frozen=True)
class Fidelity:
    """Agreement with the consensus of BERTopic's runs."""

    rows: int
    ours: float
    single_run: float
    bertopic_with_itself: float
    """Two of its runs with each other."""
    our_outliers: float
    their_outliers: float
    our_recall: float
    """Of true neighbours, on these rows."""
    their_recall: float
    made_rows: int
    """What `convert` measured, on rows made from training embeddings."""
    made_ours: float
    made_single_run: float


@dataclass(frozen=True)
class Target:
    """One row of the table of targets."""

    what: str
    measured: float | None
    """None where the section was left out."""
    bound: float
    unit: str = "x"
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


class Results(NamedTuple):
    """All that was measured; empty where a section was left out."""

    models: dict[str, Measured]
    growth: dict[str, list[Cost]]
    """By what grows: "training rows" or "topics"."""
    clustering: dict[str, Clustering]
    """By task, PREDICTION and MEMBERSHIP."""
    fidelity: dict[str, Fidelity]


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sizes = QUICK if arguments.quick else FULL
    folder = arguments.folder / "quick" if arguments.quick else arguments.folder
    sections = tuple(arguments.only or SECTIONS)
    names = (*(name for name in (STACKOVERFLOW, DOCSTRINGS) if name in sections or FIDELITY in sections),)
    names += (BANKING77,) if FIDELITY in sections else ()
    models = real_models(names, folder, arguments.texts_folder, sizes.training_rows, console)
    rows_grid, topics_grid = _grids(sizes, folder)
    if SYNTHETIC in sections:
        make_synthetic(list(dict.fromkeys([*rows_grid, *topics_grid])), console)

    started = time.perf_counter()
    results = Results({}, {}, {}, {})
    for name, model in models.items():
        if name in sections:
            console.print(f"measuring {name}")
            results.models[name] = measure_real(model, sizes)
            _report_real(name, results.models[name])
    if SYNTHETIC in sections:
        costs = {model: measure_synthetic(model, sizes) for model in dict.fromkeys([*rows_grid, *topics_grid])}
        results.growth["training rows"] = [costs[model] for model in rows_grid]
        results.growth["topics"] = [costs[model] for model in topics_grid]
        _report_growth(results.growth)
        for_membership = next(model for model in topics_grid if model.topics == sizes.topics_for_membership)
        results.clustering[PREDICTION] = compare_prediction(topics_grid[-1], sizes)
        results.clustering[MEMBERSHIP] = compare_membership(for_membership, sizes)
        _report_clustering(results.clustering)
    if FIDELITY in sections:
        for name, model in models.items():
            console.print(f"fidelity on {name}")
            results.fidelity[name] = measure_fidelity(model, sizes.seeds)
        _report_fidelity(results.fidelity)
    targets = list_targets(results)
    described = machine()
    if arguments.quick:
        console.print("--quick: the models are far smaller than those that the targets are meant for")
    _report_targets(targets)
    console.print(_sentence(described), highlight=False)
    console.print(f"measured in {(time.perf_counter() - started) / 60:.1f} minutes", highlight=False)
    if arguments.out is not None:
        _write(arguments.out, described, results, targets)


def measure_real(model: RealModel, sizes: Sizes) -> Measured:
    """Everything about one real model, ours and theirs on its held-out rows."""
    from bertopic import BERTopic
    from bertopic_engine import load
    from bertopic_engine.umap import LAYOUTS
    from hdbscan import approximate_predict, membership_vector

    ours, theirs = load(model.repository), BERTopic.load(str(model.pickle))
    umap, clusterer = theirs.umap_model, theirs.hdbscan_model
    embeddings = np.load(model.held_out)
    n, repeats = len(embeddings), sizes.repeats
    indices, distances = ours.umap.neighbors.query(embeddings, N_NEIGHBORS)
    reduced = ours.umap.transform(embeddings)

    def transform(rows: NDArray[np.float32]) -> Any:
        return theirs.transform([""] * len(rows), embeddings=rows)

    layouts = {layout: partial(ours.umap.replaced(layout=layout).layout, indices, distances) for layout in LAYOUTS}
    timings = in_turn(n, repeats, layouts | {"theirs": _their_layout(umap, indices, distances)})
    batches = {f"{LAYOUT}, {layout}": Compared(timings[layout], timings["theirs"]) for layout in LAYOUTS}
    if not umap._small_data:
        batches["neighbours"] = compare(
            n,
            repeats,
            lambda: ours.umap.neighbors.query(embeddings, N_NEIGHBORS),
            lambda: umap._knn_search_index.query(embeddings, N_NEIGHBORS, epsilon=0.24),
        )
    batches[PREDICTION] = compare(
        n, repeats, lambda: ours.topics.hdbscan.predict(reduced), lambda: approximate_predict(clusterer, reduced)
    )
    few = affordable(lambda rows: membership_vector(clusterer, reduced[:rows]), n, _SECONDS)
    batches[MEMBERSHIP] = compare(
        few,
        _REPEATS_OF_LONG_CALLS,
        lambda: ours.topics.hdbscan.membership(reduced[:few]),
        lambda: membership_vector(clusterer, reduced[:few]),
    )
    batches[TOGETHER] = compare(n, repeats, lambda: ours.predict(embeddings), lambda: transform(embeddings))
    repository = model.repository
    embedder = {repository / f"BERTopic-{part}" for part in ("tokenizer", "bert", "embedder")}
    return Measured(
        training_rows=len(umap._raw_data),
        topics=ours.topics.n_topics,
        layout=ours.umap.parameters.layout,
        recall=ours.umap.neighbors.recall,
        batches=batches,
        ours_alone=single_rows(ours.predict, embeddings, 10 * sizes.single_rows),
        theirs_alone=single_rows(transform, embeddings, sizes.single_rows),
        ours_fresh=fresh(_OURS, repository, model.held_out, repeats=_REPEATS_OF_LONG_CALLS),
        theirs_fresh=fresh(_THEIRS, model.pickle, model.held_out, repeats=_REPEATS_OF_LONG_CALLS),
        ours_bytes=bytes_in(*(path for path in repository.iterdir() if path not in embedder)),
        theirs_bytes=model.pickle.stat().st_size,
        same_topics=float(np.mean(ours.predict(embeddings).topics == np.array(transform(embeddings)[0]))),
    )


def measure_synthetic(model: SyntheticModel, sizes: Sizes) -> Cost:
    """A row's cost in one synthetic model, together and in parts."""
    console.print(f"measuring {model.folder.name}", highlight=False)
    loaded = model.load()
    rows = np.load(model.held_out)
    indices, distances = loaded.umap.neighbors.query(rows, N_NEIGHBORS)
    reduced = loaded.umap.layout(indices, distances)
    calls = {
        "neighbours": lambda: loaded.umap.neighbors.query(rows, N_NEIGHBORS),
        "layout": lambda: loaded.umap.layout(indices, distances),
        "HDBSCAN": lambda: loaded.topics.predict(reduced),
        TOGETHER: lambda: loaded.predict(rows),
    }
    return Cost(
        model.training_rows,
        model.topics,
        clusters=loaded.topics.n_topics,
        recall=loaded.umap.neighbors.recall,
        parts=in_turn(len(rows), sizes.repeats, calls),
        alone=single_rows(loaded.predict, rows, 10 * sizes.single_rows),
    )


def compare_prediction(model: SyntheticModel, sizes: Sizes) -> Clustering:
    """HDBSCAN's prediction in one synthetic model beside the library's."""
    from hdbscan import approximate_predict

    ours, clusterer = model.load(), model.clusterer()
    reduced = ours.umap.transform(np.load(model.held_out))
    n = affordable(lambda rows: approximate_predict(clusterer, reduced[:rows]), len(reduced), _SECONDS)
    some = reduced[:n]
    labels, probabilities = ours.topics.hdbscan.predict(some)
    their_labels, their_probabilities = approximate_predict(clusterer, some)
    return Clustering(
        model.training_rows,
        ours.topics.hdbscan.n_clusters,
        compare(
            n, sizes.repeats, lambda: ours.topics.hdbscan.predict(some), lambda: approximate_predict(clusterer, some)
        ),
        same_labels=float(np.mean(labels == their_labels)),
        largest_difference=float(np.abs(probabilities - their_probabilities).max()),
    )


def compare_membership(model: SyntheticModel, sizes: Sizes) -> Clustering:
    """Membership in one synthetic model beside the library's."""
    from hdbscan import membership_vector

    ours, clusterer = model.load(), model.clusterer()
    reduced = ours.umap.transform(np.load(model.held_out))
    n = affordable(lambda rows: membership_vector(clusterer, reduced[:rows]), len(reduced), _SECONDS)
    some = reduced[:n]
    difference = ours.topics.hdbscan.membership(some) - membership_vector(clusterer, some)
    return Clustering(
        model.training_rows,
        ours.topics.hdbscan.n_clusters,
        compare(
            n,
            _REPEATS_OF_LONG_CALLS,
            lambda: ours.topics.hdbscan.membership(some),
            lambda: membership_vector(clusterer, some),
        ),
        same_labels=None,
        largest_difference=float(np.nanmax(np.abs(difference))),
    )


def measure_fidelity(model: RealModel, seeds: int) -> Fidelity:
    """Agreement with the consensus of BERTopic's runs, as `bertopic-inference verify` measures it."""
    from bertopic_converters import verify
    from bertopic_server._demo import _embedder

    found = verify(
        model.repository, model.pickle, model.texts(), embedder=str(_embedder()), seeds=seeds, trust_pickle=True
    )
    made = json.loads((model.repository / "manifest.json").read_text())["models"]["BERTopic"]["fidelity"]
    return Fidelity(
        found.rows,
        ours=found.agreement.converted,
        single_run=found.agreement.single_run,
        bertopic_with_itself=1 - found.disagreement.two_runs,
        our_outliers=found.outliers.converted,
        their_outliers=found.outliers.bertopic,
        our_recall=found.neighbor_recall.converted,
        their_recall=found.neighbor_recall.umap,
        made_rows=made["rows"],
        made_ours=made["agreement"]["converted"],
        made_single_run=made["agreement"]["single_run"],
    )


def list_targets(results: Results) -> list[Target]:
    """Targets, and what of them was measured."""
    stackoverflow, docstrings = results.models.get(STACKOVERFLOW), results.models.get(DOCSTRINGS)

    def of(measured: Any, figure: Callable[[Any], float]) -> float | None:
        return None if measured is None else figure(measured)

    def batch(task: str) -> Callable[[Measured], float]:
        return lambda measured: measured.batches[task].ratio

    def growth(what: str) -> float | None:
        costs = results.growth.get(what)
        return costs[-1].us_per_row / costs[0].us_per_row if costs else None

    def alone(measured: Measured) -> float:
        return measured.theirs_alone.p50_ms / measured.ours_alone.p50_ms

    def ratio(clustering: Clustering) -> float:
        return clustering.compared.ratio

    field = f"{LAYOUT}, {MEAN_FIELD}"
    targets = [
        Target(f"{field}, {STACKOVERFLOW}", of(stackoverflow, batch(field)), 40),
        Target(f"{TOGETHER}, {STACKOVERFLOW}", of(stackoverflow, batch(TOGETHER)), 10),
        Target(f"{TOGETHER}, {DOCSTRINGS}", of(docstrings, batch(TOGETHER)), 15),
    ]
    for name, measured, bound in ((STACKOVERFLOW, stackoverflow, 10), (DOCSTRINGS, docstrings, 30)):
        p50 = of(measured, lambda m: m.ours_alone.p50_ms)
        targets.append(Target(f"{ALONE}, {name}", p50, 0.2, "ms", at_least=False))
        targets.append(Target(f"{ALONE}, {name}", of(measured, alone), bound))
    for task, bound in ((PREDICTION, 30), (MEMBERSHIP, 300)):
        targets.append(Target(f"{task}, {SYNTHETIC}", of(results.clustering.get(task), ratio), bound))
    for name in (STACKOVERFLOW, BANKING77, DOCSTRINGS):
        above = of(results.fidelity.get(name), lambda f: 100 * (f.ours - f.single_run))
        targets.append(Target(f"fidelity above a single run's, {name}", above, 0, "points"))
    targets += [
        Target("a row's cost, most training rows over fewest", growth("training rows"), 3, at_least=False),
        Target("a row's cost, most topics over fewest", growth("topics"), 1.2, at_least=False),
    ]
    for name, measured in ((STACKOVERFLOW, stackoverflow), (DOCSTRINGS, docstrings)):
        share = of(measured, lambda m: m.ours_bytes / m.theirs_bytes)
        targets.append(Target(f"bytes on disk over the pickle's, {name}", share, 0.5, at_least=False))
    warm = of(docstrings, lambda m: float(np.median(m.ours_fresh.warm_seconds)))
    return [*targets, Target(f"start-up to first answer, warm, {DOCSTRINGS}", warm, 2, "s", at_least=False)]


_OURS = """
import numpy as np
from bertopic_engine import load
row = np.load(sys.argv[2], mmap_mode="r")[:1].copy()
model = load(sys.argv[1])
loaded()
model.predict(row)
answered()
"""
_THEIRS = """
import numpy as np
from bertopic import BERTopic
row = np.load(sys.argv[2], mmap_mode="r")[:1].copy()
model = BERTopic.load(sys.argv[1])
loaded()
model.transform([""], embeddings=row)
answered()
"""


class _Known:
    """Takes the place of umap-learn's index and hands out neighbours that are known."""

    _angular_trees = True

    def __init__(self, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
        self._found = indices, distances

    def query(self, rows: Any, k: int, epsilon: float) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        indices, distances = self._found
        return indices.copy(), distances.copy()


def _their_layout(umap: Any, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> Callable[[], Any]:
    """umap-learn's `transform` without its neighbour query."""
    known = copy(umap)
    known._small_data, known._knn_search_index = False, _Known(indices, distances)
    # `transform` checks and hashes its input; of one column, that is next to nothing.
    rows = np.arange(len(indices), dtype=np.float32)[:, np.newaxis]
    return lambda: known.transform(rows)


def _grids(sizes: Sizes, folder: Path) -> tuple[list[SyntheticModel], list[SyntheticModel]]:
    rows = [SyntheticModel(n, sizes.topics_of_growing_rows, sizes.components, folder) for n in sizes.growing_rows]
    topics = [SyntheticModel(sizes.rows_of_growing_topics, n, sizes.components, folder) for n in sizes.growing_topics]
    return rows, topics


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--texts-folder", type=Path, default=_REPOSITORY / ".bench" / "texts", help="*.jsonl")
    parser.add_argument("--folder", type=Path, default=_REPOSITORY / ".bench" / "engine", help="keeps models")
    parser.add_argument("--out", type=Path, help="folder for engine.json and plots")
    return parser.parse_args()


def _report_real(name: str, measured: Measured) -> None:
    table = Table(
        "µs a row",
        "rows a call",
        "this engine",
        "umap-learn + hdbscan",
        "ratio (repeats)",
        title=f"{name}: {measured.training_rows:,} training rows, {measured.topics:,} topics, "
        f"layout {measured.layout}, neighbours' recall {measured.recall:.3f}",
    )
    for task, compared in measured.batches.items():
        low, high = compared.ratios
        table.add_row(
            task,
            f"{compared.ours.rows:,}",
            f"{compared.ours.us_per_row:,.1f}",
            f"{compared.theirs.us_per_row:,.1f}",
            f"{compared.ratio:,.1f}x ({low:,.1f} to {high:,.1f})",
        )
    console.print(table)
    table = Table("", "this engine", "BERTopic", "ratio")
    ours, theirs = measured.ours_alone, measured.theirs_alone
    table.add_row(
        "one row, p50 / p99 ms",
        f"{ours.p50_ms:.3f} / {ours.p99_ms:.3f}",
        f"{theirs.p50_ms:.2f} / {theirs.p99_ms:.2f}",
        f"{theirs.p50_ms / ours.p50_ms:,.1f}x / {theirs.p99_ms / ours.p99_ms:,.1f}x",
    )
    fresh_ours, fresh_theirs = measured.ours_fresh, measured.theirs_fresh
    for what, a, b in (
        ("start to first answer, cold compile cache, s", fresh_ours.cold_seconds, fresh_theirs.cold_seconds),
        (
            "the same, warm, s",
            float(np.median(fresh_ours.warm_seconds)),
            float(np.median(fresh_theirs.warm_seconds)),
        ),
        ("resident once loaded, MiB", fresh_ours.loaded_mib, fresh_theirs.loaded_mib),
        ("resident after the first answer, MiB", fresh_ours.answered_mib, fresh_theirs.answered_mib),
        ("on disk, MiB", measured.ours_bytes / 2**20, measured.theirs_bytes / 2**20),
    ):
        table.add_row(what, f"{a:,.1f}", f"{b:,.1f}", f"{b / a:,.1f}x")
    console.print(table)
    console.print(f"the same topic for {measured.same_topics:.1%} of the rows", highlight=False)


def _report_growth(growth: dict[str, list[Cost]]) -> None:
    for what, costs in growth.items():
        parts = list(costs[0].parts)
        table = Table(
            "training rows", "topics", "recall", *parts, "growth", "one row p50 / p99 ms",
            title=f"µs a row in batches of {costs[0].parts[TOGETHER].rows:,} (largest over smallest repeat): {what}",
        )  # fmt: skip
        for cost in costs:
            table.add_row(
                f"{cost.training_rows:,}",
                f"{cost.clusters:,}",
                f"{cost.recall:.3f}",
                *(f"{cost.parts[part].us_per_row:,.1f} ({cost.parts[part].spread:.2f})" for part in parts),
                f"{cost.us_per_row / costs[0].us_per_row:.2f}x",
                f"{cost.alone.p50_ms:.3f} / {cost.alone.p99_ms:.3f}",
            )
        console.print(table)


def _report_clustering(clustering: dict[str, Clustering]) -> None:
    table = Table(
        "µs a row", "training rows", "clusters", "rows a call", "this engine", "hdbscan", "ratio (repeats)", "answers"
    )
    for what, measured in clustering.items():
        compared, (low, high) = measured.compared, measured.compared.ratios
        same = "" if measured.same_labels is None else f"{measured.same_labels:.1%} same labels, "
        table.add_row(
            what,
            f"{measured.training_rows:,}",
            f"{measured.clusters:,}",
            f"{compared.ours.rows:,}",
            f"{compared.ours.us_per_row:,.1f}",
            f"{compared.theirs.us_per_row:,.0f}",
            f"{compared.ratio:,.0f}x ({low:,.0f} to {high:,.0f})",
            f"{same}within {measured.largest_difference:.0e}",
        )
    console.print(table)


def _report_fidelity(fidelity: dict[str, Fidelity]) -> None:
    table = Table("", *fidelity)
    for what, figures in (
        ("held-out rows", lambda f: f"{f.rows:,}"),
        ("agreement with BERTopic's consensus: this engine", lambda f: f"{f.ours:.1%}"),
        ("one BERTopic run", lambda f: f"{f.single_run:.1%}"),
        ("two BERTopic runs with each other", lambda f: f"{f.bertopic_with_itself:.1%}"),
        ("outliers: this engine, BERTopic", lambda f: f"{f.our_outliers:.1%}, {f.their_outliers:.1%}"),
        ("neighbours found: this engine, umap-learn", lambda f: f"{f.our_recall:.1%}, {f.their_recall:.1%}"),
        ("agreement on made rows: this engine, one run", lambda f: f"{f.made_ours:.1%}, {f.made_single_run:.1%}"),
    ):
        table.add_row(what, *map(figures, fidelity.values()))
    console.print(table)


def _report_targets(targets: list[Target]) -> None:
    table = Table("target", "wanted", "measured", "")
    for target in targets:
        digits = ",.1f" if target.measured is not None and abs(target.measured) >= 10 else ".3g"
        table.add_row(
            target.what,
            f"{'>=' if target.at_least else '<='} {target.bound:g} {target.unit}",
            "not measured" if target.measured is None else f"{target.measured:{digits}} {target.unit}",
            {True: "met", False: "[bold]missed[/bold]", None: ""}[target.met],
        )
    console.print(table)


def _sentence(described: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {number}" for name, number in described["libraries"].items())
    return (
        f"{described['cpu']}, {described['cores']} cores, {described['memory_gib']} GiB; Python {described['python']}, "
        f"{libraries}; threads: {described['engine_threads']} here, {described['library_threads']} in numba"
    )


def _write(out: Path, described: dict[str, Any], results: Results, targets: list[Target]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": described,
        "models": {name: asdict(measured) for name, measured in results.models.items()},
        "growth": {what: [asdict(cost) for cost in costs] for what, costs in results.growth.items()},
        "clustering": {what: asdict(measured) for what, measured in results.clustering.items()},
        "fidelity": {name: asdict(found) for name, found in results.fidelity.items()},
        "targets": [asdict(target) | {"met": target.met} for target in targets],
    }
    (out / "engine.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if results.models or results.clustering:
        plot_speed_ups(_speed_ups(results, targets), out / "engine.png")
    if results.growth:
        plot_growth(
            {
                what: (
                    [getattr(cost, what.replace(" ", "_")) for cost in costs],
                    {part: [cost.parts[part].us_per_row for cost in costs] for part in costs[0].parts},
                )
                for what, costs in results.growth.items()
            },
            out / "engine_growth.png",
        )


def _speed_ups(results: Results, targets: list[Target]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """By model, then by task: how many times faster, and the target."""
    bounds = {target.what: target.bound for target in targets if target.unit == "x" and target.at_least}
    speed_ups = {}
    for name, measured in results.models.items():
        ratios = {task: compared.ratio for task, compared in measured.batches.items()}
        ratios[ALONE] = measured.theirs_alone.p50_ms / measured.ours_alone.p50_ms
        speed_ups[f"{name}, {measured.training_rows:,} training rows"] = {
            task: (ratio, bounds.get(f"{task}, {name}")) for task, ratio in ratios.items()
        }
    for task, measured in results.clustering.items():
        model = f"synthetic, {measured.training_rows:,} training rows"
        speed_ups.setdefault(model, {})[task] = (measured.compared.ratio, bounds.get(f"{task}, {SYNTHETIC}"))
    return speed_ups


if __name__ == "__main__":
    main()
