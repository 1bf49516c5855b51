"""The command `verify`: from files to a table, JSON and a picture."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bertopic_server._cli import app
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def model_file(trained: Any, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickle that holds its embedding model."""
    from bertopic.backend._utils import select_backend
    from sentence_transformers import SentenceTransformer

    model = copy.deepcopy(trained.model)
    model.embedding_model = select_backend(SentenceTransformer(str(minilm), device="cpu"))
    path = tmp_path_factory.mktemp("model") / "model.pickle"
    model.save(str(path), serialization="pickle")
    return path


@pytest.fixture
def texts_file(trained: Any, tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in trained.texts[:60]), encoding="utf-8")
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_prints_a_table_and_writes_figures_and_a_picture(
    repository: Path, model_file: Path, texts_file: Path, tmp_path: Path
) -> None:
    figures, picture = tmp_path / "fidelity.json", tmp_path / "fidelity.png"
    options = ["--column", "body", "--limit", 40, "--seeds", 3, "--trust-pickle", "--json", figures, "--plot", picture]
    result = run(repository, model_file, "--texts", texts_file, *options)
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    assert (written["rows"], written["seeds"], written["measured_on"]) == (40, 3, "texts")
    assert len(written["agreement"]["runs"]) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "40 texts, 3 runs of BERTopic" in result.output
    assert f"{written['agreement']['converted']:.2%}" in result.output
    assert "The converted model is" in result.output


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        pytest.param(["--seeds", "1"], 2, "Invalid value for '--seeds'", id="one seed"),
        pytest.param(["--limit", "0"], 2, "Invalid value for '--limit'", id="no texts"),
        pytest.param(["--texts", "missing.txt"], 1, "missing.txt does not exist", id="no such texts"),
        pytest.param(["--column", "title"], 1, "no field 'title'", id="no such column"),
        pytest.param(["--json", "nowhere/a.json"], 1, "folder of nowhere/a.json does not exist", id="no folder"),
        pytest.param(["--plot", "a.bmp"], 1, "ends in '.bmp'", id="unknown picture"),
        pytest.param(["--name", "Other"], 1, "holds no model 'Other'", id="no such name"),
        pytest.param([], 1, "--trust-pickle", id="untrusted pickle"),
    ],
)
def test_complains_in_a_sentence(
    repository: Path, model_file: Path, texts_file: Path, options: list[str], code: int, complaint: str
) -> None:
    result = run(repository, model_file, "--texts", texts_file, "--column", "body", *options)
    assert result.exit_code == code
    assert complaint in " ".join(result.output.split())


def test_names_matplotlib_before_measuring(
    repository: Path, model_file: Path, texts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    result = run(repository, model_file, "--texts", texts_file, "--plot", "a.png")
    assert result.exit_code == 1
    assert "package matplotlib" in result.output
