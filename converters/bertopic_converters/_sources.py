"""Where a trained model comes from: an object in memory, a pickle, or a folder of three pickles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._cuml import cuml_version, from_cuml
from ._exceptions import UnreadableModel, UnsupportedModel, UntrustedPickle

THREE_PICKLES = ("umap.pickle", "hdbscan.pickle", "mappings.pickle")


@dataclass
class SourceModel:
    """The parts of a trained model, as their libraries hold them; those of cuML as `from_cuml` makes them."""

    umap: Any
    hdbscan: Any
    mapping: Mapping[int, int]
    """topic of each HDBSCAN cluster, after merges and reductions"""
    topics: list[dict[str, Any]]
    """one record a topic: id, label, keywords with weights, size"""
    origin: dict[str, str] = field(default_factory=dict)
    """what the manifest says of it"""
    embedding_model: Any = None
    """as BERTopic holds it; None from three pickles"""


def read_source(model: Any, *, trust_pickle: bool = False) -> SourceModel:
    """Take a trained model apart.

    Parameters
    ----------
    model : BERTopic, str or Path
        A fitted object, a file that `BERTopic.save(serialization="pickle")` wrote (or a folder that holds
        one such file), or a folder with `umap.pickle`, `hdbscan.pickle` and `mappings.pickle`.
    trust_pickle : bool
        Allow code in the files to run, which reading a pickle does.

    Raises
    ------
    UntrustedPickle, UnreadableModel, UnsupportedModel
    """
    if not isinstance(model, str | Path):
        return _from_bertopic(model, {"kind": "object", "class": _class_name(model)})
    path = Path(model).expanduser()
    try:
        return _from_path(path, trust_pickle)
    except OSError as error:
        raise UnreadableModel(
            f"{path} cannot be read ({error.strerror}). Give a model that this user may read."
        ) from error


def _from_path(path: Path, trust_pickle: bool) -> SourceModel:
    if not path.exists():
        raise UnreadableModel(f"{path} does not exist. Give a pickled BERTopic model or a folder that holds one.")
    if path.is_dir() and any((path / name).is_file() for name in THREE_PICKLES):
        return _from_three_pickles(path, trust_pickle)
    file = _single_pickle(path) if path.is_dir() else path
    loaded = _unpickle(file, trust_pickle)
    return _from_bertopic(loaded, {"kind": "pickle", "file": file.name})


def _single_pickle(folder: Path) -> Path:
    if (folder / "topics.json").is_file():
        raise UnsupportedModel(
            f"{folder} was saved with safetensors or pytorch serialization, which drops the model's UMAP and HDBSCAN. "
            'Save the trained model with `topic_model.save(path, serialization="pickle")` and convert that.'
        )
    candidates = sorted(file for file in folder.iterdir() if file.is_file())
    if len(candidates) != 1:
        names = ", ".join(file.name for file in candidates[:5]) or "no files"
        raise UnreadableModel(
            f"{folder} holds {names}; expected one pickled BERTopic model or the three files "
            f"{', '.join(THREE_PICKLES)}."
        )
    return candidates[0]


def _from_three_pickles(folder: Path, trust_pickle: bool) -> SourceModel:
    missing = [name for name in THREE_PICKLES if not (folder / name).is_file()]
    if missing:
        raise UnreadableModel(f"{folder} lacks {', '.join(missing)}; expected {', '.join(THREE_PICKLES)}.")
    umap, hdbscan, mapping = (_unpickle(folder / name, trust_pickle) for name in THREE_PICKLES)
    if not isinstance(mapping, Mapping):
        raise UnreadableModel(
            f"{folder / 'mappings.pickle'} holds a {_class_name(mapping)}; expected the dict that "
            "`topic_model.topic_mapper_.get_mappings(original_topics=True)` returns."
        )
    clusterer = from_cuml(hdbscan)
    return SourceModel(
        umap=from_cuml(umap),
        hdbscan=clusterer,
        mapping=mapping,
        topics=_unnamed_topics(mapping, clusterer),
        origin={"kind": "three pickles", "files": ", ".join(THREE_PICKLES), **cuml_version(umap, hdbscan)},
    )


def _unpickle(path: Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise UntrustedPickle(
            f"{path} is a pickle: reading it runs whatever code its author put there. "
            "If you trust where it came from, try again with --trust-pickle (trust_pickle=True in Python)."
        )
    import joblib

    try:
        with path.open("rb") as file:
            return joblib.load(file)
    except Exception as error:  # a pickle can raise anything
        raise UnreadableModel(
            f"{path} could not be unpickled ({type(error).__name__}: {error}). {_advice(error)}"
        ) from error


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "cuml":
        return (
            "The model was trained with cuML, whose pickles open nowhere else: convert it on a machine with an NVIDIA "
            "GPU and `pip install 'bertopic-inference[convert,cuml]'`. What that writes is served anywhere."
        )
    if "cuda" in str(error).lower():
        return (
            "It holds what lives on a GPU, and none can be used here: convert it on a machine with one. "
            "What that writes is served anywhere."
        )
    return (
        "Unpickle it with the Python and library versions that wrote it, or save the model again with those "
        "installed here."
    )


def _from_bertopic(model: Any, origin: dict[str, str]) -> SourceModel:
    if not all(hasattr(model, name) for name in ("umap_model", "hdbscan_model", "topic_mapper_")):
        raise UnsupportedModel(
            f"expected a fitted bertopic.BERTopic, got a {_class_name(model)}. Give a trained model or its pickle."
        )
    if model.topic_mapper_ is None or getattr(model, "topics_", None) is None:
        raise UnsupportedModel("this BERTopic was never fitted. Call fit_transform on it first.")
    return SourceModel(
        umap=from_cuml(model.umap_model),
        hdbscan=from_cuml(model.hdbscan_model),
        mapping=model.topic_mapper_.get_mappings(original_topics=True),
        topics=_named_topics(model),
        origin=origin | cuml_version(model.umap_model, model.hdbscan_model),
        embedding_model=getattr(model, "embedding_model", None),
    )


def _named_topics(model: Any) -> list[dict[str, Any]]:
    sizes = {int(topic): int(size) for topic, size in model.topic_sizes_.items()}
    labels = {int(topic): str(label) for topic, label in model.topic_labels_.items()}
    # BERTopic keeps custom labels as a list in the order of the sorted topic ids.
    if model.custom_labels_ is not None:
        labels.update(zip(sorted(sizes), map(str, model.custom_labels_), strict=True))
    words = model.topic_representations_
    return [
        {
            "id": topic,
            "label": labels.get(topic, _unnamed(topic)),
            "keywords": [[str(word), float(weight)] for word, weight in words.get(topic, []) if word],
            "size": sizes.get(topic, 0),
        }
        for topic in _with_outliers(sizes)
    ]


def _unnamed_topics(mapping: Mapping[int, int], hdbscan: Any) -> list[dict[str, Any]]:
    sizes = dict.fromkeys(map(int, mapping.values()), 0)
    for label in getattr(hdbscan, "labels_", []):
        topic = int(mapping.get(int(label), -1))
        sizes[topic] = sizes.get(topic, 0) + 1
    return [
        {"id": topic, "label": _unnamed(topic), "keywords": [], "size": sizes.get(topic, 0)}
        for topic in _with_outliers(sizes)
    ]


def _with_outliers(topics: Iterable[int]) -> list[int]:
    # A new text can be an outlier even where no training text was.
    return sorted({-1, *topics})


def _unnamed(topic: int) -> str:
    return "Outliers" if topic == -1 else f"Topic {topic}"


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
