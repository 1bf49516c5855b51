"""What is called is in place before what calls it."""

from __future__ import annotations

from bertopic_server._models import callee, is_called, keeps_previous, models_of


def test_callers_come_after_what_they_call() -> None:
    models = models_of(["A", "B"])
    assert len(models) == len(set(models)) == 16
    for model in models:
        called = callee(model)
        if called is not None:
            assert models.index(called) < models.index(model)
            assert is_called(called)


def test_versions_that_are_still_asked_for_are_kept() -> None:
    assert [model for model in models_of(["A"]) if keeps_previous(model)] == ["A-bert", "A-topics"]


def test_names_with_a_hyphen() -> None:
    assert callee("news-2024-text") == "news-2024-bert"
