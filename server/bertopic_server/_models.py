"""What the server must know about the models of one conversion: who calls whom, and in what order they change."""

from __future__ import annotations

# As they are put in place: what is called before what calls it, what clients call last.
_IN_LOAD_ORDER = ("bert", "tokenizer", "umap", "hdbscan", "embedder", "inference", "text", "topics")
_CALLS = {"embedder": "bert", "text": "bert"}
# Callers of an older version still ask for it, or clients for the labels of the topics that it answered.
_KEPT_BESIDE = ("bert", "topics")


def models_of(names: list[str]) -> list[str]:
    """The Triton models of conversions, in the order in which they are put in place."""
    return [f"{name}-{kind}" for kind in _IN_LOAD_ORDER for name in names]


def is_called(model: str) -> bool:
    """Whether other models call this one."""
    return _kind(model) in _CALLS.values()


def callee(model: str) -> str | None:
    """The model that this one calls."""
    called = _CALLS.get(_kind(model))
    return None if called is None else f"{model.rpartition('-')[0]}-{called}"


def keeps_previous(model: str) -> bool:
    """Whether the version before the newest one stays loadable."""
    return _kind(model) in _KEPT_BESIDE


def _kind(model: str) -> str:
    return model.rpartition("-")[2]
