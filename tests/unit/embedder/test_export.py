"""Exported graphs against sentence-transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertopic_embedder import (
    Embedder,
    EmbedderReport,
    UnreadableEmbedder,
    UnsupportedEmbedder,
    VerificationError,
    export,
)
from bertopic_embedder._verify import TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# None of these took part in the export.
UNSEEN = [
    "The quick brown fox jumps over the lazy dog.",
    "tokenisation, punctuation; and (brackets)!",
    "",
    "x" * 300,
    "word " * 500,
    "Ελληνικά, עברית, 한국어",
    "\u200bzero width\u200b and \ufeff BOM",
    "one\0two",
    "🧪" * 40,
    *(" ".join(["length"] * n) for n in range(1, 70, 4)),
]


@pytest.fixture(scope="session")
def exported(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EmbedderReport]:
    folder = tmp_path_factory.mktemp("minilm")
    return folder, export(minilm, folder)


@pytest.fixture(scope="session")
def original(minilm: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu")


def test_minilm_is_exported_without_padding(exported: tuple[Path, EmbedderReport], original: Any) -> None:
    folder, report = exported
    assert (report.dimension, report.max_length, report.pooling) == (384, 256, "mean")
    assert report.padding == "removed"
    assert report.batch_invariant
    assert report.largest_difference < 1e-5
    np.testing.assert_allclose(Embedder.load(folder).encode(UNSEEN), original.encode(UNSEEN), atol=1e-5)


def test_token_ids_are_those_of_sentence_transformers(exported: tuple[Path, EmbedderReport], original: Any) -> None:
    tokens = Embedder.load(exported[0]).tokenizer.tokenize(UNSEEN)
    expected = original.tokenizer(UNSEEN, truncation=True, max_length=original.max_seq_length)["input_ids"]
    for ids, mask, row in zip(*tokens, expected, strict=True):
        assert ids[mask == 1].tolist() == row


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(0, len(UNSEEN) - 1), min_size=1, max_size=40),
    threads=st.sampled_from([1, 2]),
)
def test_an_embedding_never_depends_on_the_batch(
    exported: tuple[Path, EmbedderReport], alone: Any, rows: list[int], threads: int
) -> None:
    together = Embedder.load(exported[0], threads=threads).encode([UNSEEN[row] for row in rows])
    np.testing.assert_array_equal(together, alone[rows])


@pytest.fixture(scope="session")
def alone(exported: tuple[Path, EmbedderReport]) -> Any:
    embedder = Embedder.load(exported[0])
    return np.concatenate([embedder.encode([text]) for text in UNSEEN])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_architectures_and_poolings(
    tiny_model: Callable[..., Any], tmp_path: Path, architecture: str, pooling: str
) -> None:
    model = tiny_model(architecture, pooling=pooling)
    report = export(model, tmp_path)
    assert report.pooling == pooling
    assert report.max_length == 24
    if architecture in ("bert", "roberta"):
        assert report.padding == "removed"
    np.testing.assert_allclose(Embedder.load(tmp_path).encode(UNSEEN), model.encode(UNSEEN), atol=1e-4)


def test_dense_and_normalize(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    import torch
    from sentence_transformers.models import Dense, Normalize

    model = tiny_model(after=(Dense(32, 12, activation_function=torch.nn.Tanh()), Normalize()))
    report = export(model, tmp_path)
    found = Embedder.load(tmp_path).encode(UNSEEN)
    assert report.dimension == 12
    np.testing.assert_allclose(found, model.encode(UNSEEN), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_default_prompt_is_kept(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model()
    model.prompts = {"query": "how do i "}
    model.default_prompt_name = "query"
    export(model, tmp_path)
    np.testing.assert_allclose(Embedder.load(tmp_path).encode(UNSEEN), model.encode(UNSEEN), atol=1e-4)


def test_the_same_model_gives_the_same_bytes(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model()
    for name in ("first", "second"):
        export(model, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["embedder.json", "model.onnx", "tokenizer.json"]
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_pooling_that_is_not_supported_is_named(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedEmbedder, match=r"lasttoken.*mean, cls, max"):
        export(tiny_model(pooling="lasttoken"), tmp_path)


def test_a_module_that_is_not_supported_is_named(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    from sentence_transformers.models import LayerNorm

    with pytest.raises(UnsupportedEmbedder, match="LayerNorm"):
        export(tiny_model(after=(LayerNorm(32),)), tmp_path)


def test_a_graph_that_differs_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """What a subclass does to texts before the tokenizer cannot be seen in its modules."""
    model = tiny_model()
    encode = model.encode
    model.encode = lambda texts, **options: encode([text[::-1] for text in texts], **options)
    with pytest.raises(VerificationError, match="differs from sentence-transformers"):
        export(model, tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableEmbedder, match="nothing-here"):
        export(tmp_path / "nothing-here", tmp_path / "out")


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "embedder.json"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_damaged_export_names_the_file(
    tiny_model: Callable[..., Any], tmp_path: Path, file: str, damage: str
) -> None:
    export(tiny_model(), tmp_path)
    if damage == "missing":
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(b"{ not what it was")
    with pytest.raises(UnreadableEmbedder, match=file):
        Embedder.load(tmp_path)


def test_every_verification_text_is_one_of_a_kind() -> None:
    assert len(set(TEXTS)) == len(TEXTS)


def test_padding_tokens_that_a_text_spells_out(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model("roberta")
    export(model, tmp_path)
    texts = ["a <pad> b", "<pad><pad> the end", "no padding"]
    np.testing.assert_allclose(Embedder.load(tmp_path).encode(texts), model.encode(texts), atol=1e-4)


def test_a_half_precision_model_stays_as_it_was(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    model = tiny_model().half()
    export(model, tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_what_would_be_ignored_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    from sentence_transformers.models import Dense

    model = tiny_model()
    with pytest.raises(UnsupportedEmbedder, match="'bf16', expected one of fp32, fp16, int8 for device 'cpu'"):
        export(model, tmp_path, precision="bf16")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedEmbedder, match="'int8', expected one of fp32, fp16 for device 'gpu'"):
        export(model, tmp_path, precision="int8", device="gpu")
    with pytest.raises(UnsupportedEmbedder, match="device is 'tpu'"):
        export(model, tmp_path, device="tpu")  # type: ignore[arg-type]
    model.truncate_dim = 8
    with pytest.raises(UnsupportedEmbedder, match="8 dimensions"):
        export(model, tmp_path)
    by_token = Dense(32, 32, module_input_name="token_embeddings")
    with pytest.raises(UnsupportedEmbedder, match="token_embeddings"):
        export(tiny_model(after=(by_token,)), tmp_path)
