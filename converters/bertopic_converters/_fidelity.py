"""How close a converted model is to BERTopic: its topics beside those of BERTopic's own runs.

UMAP's transform draws random numbers, so BERTopic gives some texts another topic with every seed. What it
"says" of a text is therefore the consensus (mode) of many runs, and what agreement can be expected is measured
on BERTopic itself: each run against the consensus of all other runs. The converted model stands against the
very same consensuses, one for each run left out, and the mean is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from bertopic_engine.topics import OUTLIER
from numpy.typing import NDArray

from ._exceptions import ConversionError, DimensionMismatch
from ._hdbscan import read_hdbscan
from ._sources import SourceModel, read_source
from ._umap import _check_class

if TYPE_CHECKING:
    from bertopic_embedder import Embedder
    from bertopic_engine import TopicModel, TopicPredictor, UmapTransform
    from bertopic_engine.cuml import CumlTransform
    from bertopic_engine.neighbors import ExactNeighbors, Neighbors

Progress = Callable[[str], None]

# Share of runs on their consensus, from the least stable rows to those on which all runs agree.
_STABILITY = (("under 50%", 0.0), ("50 to 74%", 0.5), ("75 to 99%", 0.75), ("all", 1.0))
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Agreement:
    """Shares of rows that have the consensus topic; where topics tie for it, each of t counts 1/t."""

    converted: float
    """Of the converted model, mean over the consensuses that leave out one run."""
    single_run: float
    """Of BERTopic's runs, each against the consensus of the others: their mean."""
    lowest_run: float
    highest_run: float
    runs: tuple[float, ...]
    """By `transform_seed`."""
    on_unanimous_rows: float | None
    """Of the converted model, on rows on which all runs agree; None if there are none."""


@dataclass(frozen=True)
class Disagreement:
    """How much BERTopic disagrees with itself, in shares of rows."""

    any_run: float
    """On which not all runs agree."""
    two_runs: float
    """On which two runs differ, mean over all pairs."""


@dataclass(frozen=True)
class Stability:
    """Rows of which a like share of runs gives the consensus, and the agreement there."""

    runs_on_consensus: str
    rows: int
    converted: float | None
    """As `Agreement.converted`; None without rows."""
    single_run: float | None


@dataclass(frozen=True)
class NeighborRecall:
    """Share of the true nearest training rows that are found (ties are as good)."""

    converted: float
    umap: float
    """Of umap-learn's index, or of its comparison with all rows where it has none."""


@dataclass(frozen=True)
class Outliers:
    """Shares of rows without a topic."""

    converted: float
    bertopic: float
    """Mean over runs."""
    training: float
    """As the clusterer was fitted."""


@dataclass(frozen=True)
class EmbeddingDifference:
    """The converted embedder beside sentence-transformers."""

    largest: float
    """Of any component, absolute."""
    smallest_cosine: float
    mean_cosine: float
    changed_topics: float
    """Share of rows to which the converted model gives another topic for it."""


@dataclass(frozen=True)
class Fidelity:
    """A converted model beside BERTopic, on rows that neither was trained on."""

    rows: int
    seeds: int
    measured_on: Literal["texts", "surrogates"]
    agreement: Agreement
    disagreement: Disagreement
    stability: tuple[Stability, ...]
    neighbor_recall: NeighborRecall
    outliers: Outliers
    relabeled_training_rows: float
    """Share of training rows that HDBSCAN's prediction puts into another cluster than its fit did."""
    embedding: EmbeddingDifference | None
    """None where only embeddings were measured on."""

    def as_dict(self) -> dict[str, Any]:
        """All figures as JSON can hold them."""
        figures = asdict(self)
        return figures | {
            "agreement": figures["agreement"] | {"runs": list(self.agreement.runs)},
            "stability": list(figures["stability"]),
        }

    def plot(self, path: str | Path) -> None:
        """Draw the agreement and where it comes from; the ending of `path` says which format (PNG, SVG, PDF).

        Raises
        ------
        ModuleNotFoundError
            matplotlib is not installed.
        """
        from ._plot import plot

        plot(self, Path(path))


def verify(
    repository: str | Path,
    model: Any,
    texts: Sequence[str],
    *,
    embedder: Any = None,
    name: str = "BERTopic",
    seeds: int = 24,
    trust_pickle: bool = False,
    progress: Progress = lambda step: None,
) -> Fidelity:
    """Measure a converted model against the BERTopic that it was converted from, on held-out texts.

    BERTopic transforms all texts as one batch, once with each `transform_seed` from 0 to `seeds` - 1. Its
    objects stay as they are.

    Parameters
    ----------
    repository : path
        What `convert` wrote.
    model : BERTopic, str or Path
        What `convert` read: a fitted model, its pickle, or a folder with three pickles.
    texts : sequence of str
        Texts that the model was not trained on.
    embedder : SentenceTransformer, str or Path, optional
        The model that BERTopic embeds with; by default the one that it holds.
    name : str
        The name it was converted under.
    seeds : int
        Runs of BERTopic, at least 2.
    trust_pickle : bool
        Allow reading pickles, which runs code that they hold.
    progress : callable
        Told the name of each step as it starts.

    Raises
    ------
    ConversionError
        Too few seeds, no texts, a model other than the one that was converted, or no embedder; and what
        reading the model raises.
    bertopic_engine.EngineError, bertopic_embedder.EmbedderError
        The repository is damaged, or an embedder cannot be read.
    """
    from bertopic_embedder import load_sentence_transformer
    from bertopic_engine import load

    require_consensus(seeds)
    if not texts:
        raise ConversionError("there are no texts to measure on; at least one is needed. Give held-out texts.")
    progress("Reading both models")
    converted = load(repository, name)
    source = read_source(model, trust_pickle=trust_pickle)
    _require_same_model(converted, source, name)
    reference = load_sentence_transformer(_embedding_model(source) if embedder is None else embedder)
    progress("Embedding the texts with both embedders")
    theirs = reference.encode(list(texts), convert_to_numpy=True, show_progress_bar=False).astype(np.float32)
    _require_dimensions(theirs, source.umap)
    ours = _converted_embedder(Path(repository), name).encode(list(texts))
    topics = converted.predict(ours).topics
    # As a model is loaded without a device.
    neighbors = cast("UmapTransform | CumlTransform", converted.umap).neighbors
    return _measure(
        _Pair(source.umap, source.hdbscan, source.mapping, converted, neighbors),
        theirs,
        topics,
        seeds=seeds,
        embedding=_embedding_difference(ours, theirs, changed=topics != converted.predict(theirs).topics),
        progress=progress,
    )


def measure_on_surrogates(
    umap_model: Any,
    hdbscan_model: Any,
    mapping: Mapping[int, int],
    umap: UmapTransform,
    topics: TopicPredictor,
    *,
    n_rows: int = 500,
    seeds: int = 8,
    progress: Progress = lambda step: None,
) -> Fidelity | None:
    """Measure where there are no held-out texts: on rows made from the training embeddings.

    The same input gives the same figures. The models stay as they are.

    Parameters
    ----------
    umap_model : umap.UMAP
    hdbscan_model : hdbscan.HDBSCAN
        Fitted, and supported by `read_umap` and `read_hdbscan`.
    mapping : mapping of int to int
        Topic of each cluster.
    umap : UmapTransform
    topics : TopicPredictor
        What became of them.
    n_rows : int
    seeds : int
        Runs of umap-learn and hdbscan, at least 2.
    progress : callable
        Told the name of each step as it starts.

    Returns
    -------
    Fidelity or None
        None for a UMAP that cannot transform (it was fitted on precomputed neighbours without their index).
    """
    from bertopic_engine import TopicModel

    require_consensus(seeds)
    if getattr(umap_model, "_knn_search_index", True) is None:
        return None
    converted = TopicModel(umap, topics)
    pair = _Pair(umap_model, hdbscan_model, mapping, converted, umap.neighbors)
    embeddings = surrogates(umap_model._raw_data, pair.exact, umap.parameters.n_neighbors, n_rows)
    return _measure(
        pair, embeddings, converted.predict(embeddings).topics, seeds=seeds, embedding=None, progress=progress
    )


def surrogates(data: NDArray[np.float32], neighbors: Neighbors, n_neighbors: int, n_rows: int) -> NDArray[np.float32]:
    """Rows that lie among others as new texts do: a smoothed bootstrap, with the same result each time.

    A training row x_i drawn at random becomes x_i + (x_j - x_k) / sqrt(2), with x_j and x_k drawn from its
    nearest neighbours; the square root makes the spread of what is added that of the neighbours.

    Parameters
    ----------
    data : float32 [n, dim]
        Zero rows, which have no neighbours under cosine, are not drawn.
    neighbors : Neighbors
        Of `data`.
    n_neighbors : int
    n_rows : int

    Returns
    -------
    float32 [n_rows, dim]
    """
    generator = np.random.default_rng(0)
    rows = generator.choice(np.flatnonzero(data.any(axis=1)), n_rows)
    # The first is the row itself or its equal.
    near = neighbors.query(data[rows], max(n_neighbors, 3))[0][:, 1:]
    n_near = near.shape[1]
    first = generator.integers(n_near, size=n_rows)
    # Never the same twice, which would give the training row itself.
    second = (first + generator.integers(1, n_near, size=n_rows)) % n_near
    j, k = near[np.arange(n_rows), first], near[np.arange(n_rows), second]
    made = data[rows] + (data[j] - data[k]) * np.float32(np.sqrt(0.5))
    has_direction = made.any(axis=1, keepdims=True)
    result: NDArray[np.float32] = np.where(has_direction, made, data[rows])
    return result


@dataclass(frozen=True)
class _Pair:
    """A model of umap-learn and hdbscan, what became of it, and the truth about neighbours."""

    umap_model: Any
    hdbscan_model: Any
    mapping: Mapping[int, int]
    converted: TopicModel
    neighbors: Neighbors
    """Of the converted model."""

    @cached_property
    def exact(self) -> ExactNeighbors:
        """All of them."""
        from bertopic_engine.neighbors import ExactNeighbors

        return ExactNeighbors(self.umap_model._raw_data, self.neighbors.metric)


def _measure(
    pair: _Pair,
    embeddings: NDArray[np.float32],
    topics: NDArray[np.int32],
    *,
    seeds: int,
    embedding: EmbeddingDifference | None,
    progress: Progress,
) -> Fidelity:
    """Compare the converted model's `topics` with BERTopic's of `embeddings`."""
    progress(f"Running BERTopic with {seeds} seeds")
    runs = bertopic_runs(pair.umap_model, pair.hdbscan_model, pair.mapping, embeddings, seeds)
    progress("Comparing")
    votes = _votes(runs)
    others = [np.delete(runs, run, axis=0) for run in range(seeds)]
    converted = np.mean([credit(topics, rest) for rest in others], axis=0)
    single = np.array([credit(run, rest) for run, rest in zip(runs, others, strict=True)])
    of_runs = single.mean(axis=1)
    unanimous = votes[0] == seeds
    return Fidelity(
        rows=len(embeddings),
        seeds=seeds,
        measured_on="surrogates" if embedding is None else "texts",
        agreement=Agreement(
            converted=float(converted.mean()),
            single_run=float(of_runs.mean()),
            lowest_run=float(of_runs.min()),
            highest_run=float(of_runs.max()),
            runs=tuple(of_runs.tolist()),
            on_unanimous_rows=_mean(converted[unanimous]),
        ),
        disagreement=Disagreement(
            any_run=float(1 - unanimous.mean()),
            two_runs=float(1 - np.mean((votes - 1) / (seeds - 1))),
        ),
        stability=_by_stability(votes.max(axis=0) / seeds, converted, single.mean(axis=0)),
        neighbor_recall=_neighbor_recall(pair, embeddings),
        outliers=Outliers(
            converted=float(np.mean(topics == OUTLIER)),
            bertopic=float(np.mean(runs == OUTLIER)),
            training=float(np.mean(_topics_of(pair.hdbscan_model.labels_, pair.mapping) == OUTLIER)),
        ),
        relabeled_training_rows=_relabeled(pair),
        embedding=embedding,
    )


def bertopic_runs(
    umap_model: Any, hdbscan_model: Any, mapping: Mapping[int, int], embeddings: NDArray[np.float32], seeds: int
) -> NDArray[np.int32]:
    """BERTopic's topics with each `transform_seed` from 0 on, all rows in one batch.

    Parameters
    ----------
    umap_model : umap.UMAP
        Stays as it is.
    hdbscan_model : hdbscan.HDBSCAN
    mapping : mapping of int to int
        Topic of each cluster.
    embeddings : float32 [m, dim]
    seeds : int

    Returns
    -------
    int32 [seeds, m]
        -1 also where umap-learn connects a row to nothing and gives it no place.
    """
    from hdbscan import approximate_predict

    reseeded = copy(umap_model)
    # With a random state one thread lays out all rows, so that none race; the numbers drawn are transform_seed's.
    reseeded.random_state = 0
    # Rows that equal the training data would be answered from memory.
    reseeded._input_hash = None
    runs = np.full((seeds, len(embeddings)), OUTLIER, np.int32)
    for seed, topics in enumerate(runs):
        reseeded.transform_seed = seed
        reduced = reseeded.transform(embeddings)
        placed = np.isfinite(reduced).all(axis=1)
        if placed.any():
            topics[placed] = _topics_of(approximate_predict(hdbscan_model, reduced[placed])[0], mapping)
    return runs


def _topics_of(labels: NDArray[Any], mapping: Mapping[int, int]) -> NDArray[np.int32]:
    return np.array([mapping.get(int(label), OUTLIER) for label in labels], np.int32)


def _votes(runs: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many runs say what each run says, int64 [runs, m]."""
    return np.array([(runs == run).sum(axis=0) for run in runs])


def credit(topics: NDArray[np.int32], runs: NDArray[np.int32]) -> NDArray[np.float64]:
    """Agreement of each row's topic with the runs' consensus.

    Where t topics tie for the consensus, each of them counts 1 / t: what breaking the tie at random would
    give on average, without favouring large topics or outliers.

    Parameters
    ----------
    topics : int32 [m]
    runs : int32 [n, m]

    Returns
    -------
    float64 [m]
        1 for the consensus, 1 / t for one of t, else 0.
    """
    votes = _votes(runs)
    most = votes.max(axis=0)
    wins = votes == most
    n_tied = wins.sum(axis=0) // most
    result: NDArray[np.float64] = (wins & (runs == topics)).any(axis=0) / n_tied
    return result


def _by_stability(
    on_consensus: NDArray[np.float64], converted: NDArray[np.float64], single: NDArray[np.float64]
) -> tuple[Stability, ...]:
    bins = np.digitize(on_consensus, [start for _, start in _STABILITY]) - 1
    return tuple(
        Stability(name, int((bins == i).sum()), _mean(converted[bins == i]), _mean(single[bins == i]))
        for i, (name, _) in enumerate(_STABILITY)
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _relabeled(pair: _Pair) -> float:
    points = pair.hdbscan_model.prediction_data_.raw_data.astype(np.float32)
    return float(np.mean(pair.converted.topics.hdbscan.predict(points)[0] != pair.hdbscan_model.labels_))


def _neighbor_recall(pair: _Pair, embeddings: NDArray[np.float32]) -> NeighborRecall:
    k = pair.converted.umap.parameters.n_neighbors
    farthest = pair.exact.query(embeddings, k)[1][:, -1]
    found = {"converted": pair.neighbors.query(embeddings, k)[0]}
    if not pair.umap_model._small_data:
        index = pair.umap_model._knn_search_index
        # As in UMAP.transform.
        found["umap"] = index.query(embeddings, k, epsilon=0.24 if index._angular_trees else 0.12)[0]
    data, metric = pair.umap_model._raw_data, pair.exact.metric
    recall = {name: _share_within(embeddings, data, rows, farthest, metric) for name, rows in found.items()}
    return NeighborRecall(**{"umap": 1.0} | recall)


def _share_within(
    queries: NDArray[np.float32],
    data: NDArray[np.float32],
    found: NDArray[Any],
    farthest: NDArray[np.float32],
    metric: str,
) -> float:
    """Share of the found rows (-1: none) that are no farther than the true last neighbour, but for rounding."""
    n_within = 0
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        a, b = queries[rows, np.newaxis].astype(np.float64), data[found[rows]].astype(np.float64)
        if metric == "cosine":
            norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            distances = 1 - (a * b).sum(axis=-1) / norms
        else:
            distances = np.linalg.norm(a - b, axis=-1)
        within = distances <= farthest[rows, np.newaxis] * 1.00001 + 1e-6
        n_within += int((within & (found[rows] >= 0)).sum())
    return n_within / found.size


def _embedding_difference(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], changed: NDArray[np.bool_]
) -> EmbeddingDifference:
    from bertopic_embedder import cosines

    similarity = cosines(ours.astype(np.float64), theirs.astype(np.float64))
    return EmbeddingDifference(
        largest=float(np.abs(ours - theirs).max()),
        smallest_cosine=float(similarity.min()),
        mean_cosine=float(similarity.mean()),
        changed_topics=float(changed.mean()),
    )


def _converted_embedder(repository: Path, name: str) -> Embedder:
    from bertopic_embedder import Embedder, OnnxEncoder, Tokenizer
    from bertopic_engine.threads import available_threads

    return Embedder(
        Tokenizer.load(repository / f"{name}-tokenizer" / "1"),
        OnnxEncoder.load(repository / f"{name}-bert" / "1", threads=available_threads()),
    )


def _embedding_model(source: SourceModel) -> Any:
    from sentence_transformers import SentenceTransformer

    # BERTopic wraps what it was given in a backend of its own.
    model = getattr(source.embedding_model, "embedding_model", source.embedding_model)
    if not isinstance(model, SentenceTransformer):
        held = "no embedding model" if model is None else f"a {type(model).__name__} as its embedding model"
        raise ConversionError(
            f"the BERTopic model holds {held}, and comparing takes the sentence-transformers model that it was "
            "trained with. Give that with --embedder (embedder=... in Python)."
        )
    return model


def require_consensus(seeds: int) -> None:
    """Raise ConversionError if there are too few runs to agree."""
    if seeds < 2:
        raise ConversionError(f"seeds is {seeds}; a consensus of BERTopic's runs takes at least 2. Give 24, say.")


def _require_same_model(converted: TopicModel, source: SourceModel, name: str) -> None:
    """Raise ConversionError if the repository holds another model than the source."""
    _check_class(source.umap)
    hdbscan = read_hdbscan(source.hdbscan)
    sizes = {
        "embedding dimensions": (converted.umap.dim, source.umap._raw_data.shape[1]),
        "UMAP components": (converted.umap.n_components, source.umap.embedding_.shape[1]),
        "HDBSCAN clusters": (converted.topics.hdbscan.n_clusters, hdbscan.n_clusters),
    }
    advice = "Give the model that was converted, or convert this one again."
    for what, (found, expected) in sizes.items():
        if found != expected:
            raise ConversionError(f"{name} was converted from another model: {found} {what}, not {expected}. {advice}")
    theirs = {int(cluster): int(topic) for cluster, topic in source.mapping.items()}
    ours = converted.topics.mapping
    moved = sum(ours.get(cluster) != theirs.get(cluster) for cluster in {*ours, *theirs})
    if moved:
        raise ConversionError(
            f"{name} was converted from another model or before its topics changed: {moved} of {len(theirs)} "
            f"clusters map to other topics. {advice}"
        )


def _require_dimensions(embeddings: NDArray[np.float32], umap_model: Any) -> None:
    given, expected = embeddings.shape[1], umap_model._raw_data.shape[1]
    if given != expected:
        raise DimensionMismatch(
            f"the embedder gives {given} dimensions, UMAP was trained on {expected}. "
            "Give --embedder the model whose embeddings BERTopic was trained on."
        )
