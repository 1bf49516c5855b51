"""From a trained BERTopic to a repository: every source, every refusal, nothing half-done."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import bertopic_engine
import numpy as np
import pytest
from bertopic_converters import (
    ConversionError,
    DimensionMismatch,
    OutputError,
    UnreadableModel,
    UnsupportedModel,
    UntrustedPickle,
    convert,
)
from bertopic_converters._convert import _environment, _replacing, _write_manifest
from bertopic_embedder import Embedder, OnnxEncoder, Tokenizer, UnsupportedEmbedder
from bertopic_engine.neighbors import ExactNeighbors
from bertopic_server._cli import app
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup
from typer.testing import CliRunner

Convert = Callable[..., Path]
MODELS = ["bert", "embedder", "hdbscan", "inference", "text", "tokenizer", "topics", "umap"]


def content(folder: Path) -> dict[str, bytes]:
    """Every file but what Python compiles when a server has run on the repository."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def config(repository: Path, model: str) -> Any:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def topics_of(repository: Path, name: str = "BERTopic") -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((repository / f"{name}-topics" / "1" / "topics.json").read_text())
    return loaded


def agreement(repository: Path, model: Any, embeddings: Any) -> float:
    """Share of rows on which the converted model says what BERTopic's mapping of the same clusters says."""
    converted = bertopic_engine.load(repository)
    labels, _ = converted.topics.hdbscan.predict(converted.umap.transform(embeddings))
    mapping = model.topic_mapper_.get_mappings(original_topics=True)
    expected = [mapping.get(int(label), -1) for label in labels]
    return float(np.mean(converted.predict(embeddings).topics == expected))


@pytest.fixture
def three_pickles(trained: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "pickles"
    folder.mkdir()
    mapping = trained.model.topic_mapper_.get_mappings(original_topics=True)
    parts = {"umap": trained.model.umap_model, "hdbscan": trained.model.hdbscan_model, "mappings": mapping}
    for name, part in parts.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(part))
    return folder


def test_writes_all_models_and_no_pickle(repository: Path) -> None:
    assert sorted(path.name for path in repository.iterdir() if path.is_dir()) == [f"BERTopic-{m}" for m in MODELS]
    endings = {Path(name).suffix for name in content(repository)}
    assert endings <= {".pbtxt", ".py", ".json", ".safetensors", ".onnx", ".faiss", ""}
    manifest = json.loads((repository / "manifest.json").read_text())
    recorded = set(manifest["models"]["BERTopic"]["files"])
    assert recorded == set(content(repository)) - {"manifest.json"}


def test_a_server_that_runs_as_another_user_can_read_all(repository: Path) -> None:
    assert all(path.stat().st_mode & 0o004 for path in repository.rglob("*"))


def test_the_same_input_gives_the_same_bytes(repository: Path, trained: Any, convert_model: Convert, tmp_path: Path):
    assert content(convert_model(trained.model, tmp_path / "again")) == content(repository)


def test_dimensions_are_those_of_the_model(repository: Path, trained: Any) -> None:
    inference = config(repository, "BERTopic-inference")
    dims = {tensor.name: list(tensor.dims) for tensor in [*inference.input, *inference.output]}
    n_topics = len(trained.model.get_topics()) - 1
    assert dims == {"IN": [384], "OUT": [1], "PROBABILITY": [1], "MEMBERSHIP": [n_topics], "REDUCED": [5]}


def test_the_manifest_says_what_was_measured(repository: Path, trained: Any) -> None:
    manifest = json.loads((repository / "manifest.json").read_text())["models"]["BERTopic"]

    assert manifest["layout"] == "mean_field"
    assert manifest["neighbors"] == {"kind": "exact", "recall": 1.0}
    convergence, fidelity = manifest["convergence"], manifest["fidelity"]
    assert 256 <= convergence["n_centers"] <= len(trained.model.topics_)
    assert convergence["displacement"] <= 0.25 * convergence["scatter"]
    assert (fidelity["seeds"], fidelity["measured_on"]) == (2, "surrogates")
    assert fidelity["agreement"]["converted"] > 0.8


def test_layout_neighbors_and_comparison_can_be_chosen(trained: Any, convert_model: Convert, tmp_path: Path) -> None:
    out = convert_model(trained.model, tmp_path / "out", layout="sgd", neighbors="exact", seeds=0)

    manifest = json.loads((out / "manifest.json").read_text())["models"]["BERTopic"]
    umap = bertopic_engine.load(out).umap
    assert umap.parameters.layout == manifest["layout"] == "sgd"
    assert isinstance(umap.neighbors, ExactNeighbors)
    assert not {"convergence", "fidelity"} & manifest.keys()


def test_topics_come_along(repository: Path, trained: Any) -> None:
    for topic in topics_of(repository):
        assert topic["label"] == trained.model.topic_labels_[topic["id"]]
        assert topic["size"] == trained.model.topic_sizes_[topic["id"]]
        expected = [[word, pytest.approx(weight)] for word, weight in trained.model.get_topic(topic["id"])]
        assert topic["keywords"] == [pair for pair in expected if pair[0]]


@pytest.mark.parametrize("change", ["reduce", "merge"])
def test_topics_after_reduction_and_merging(
    fresh_model: Any, trained: Any, convert_model: Convert, tmp_path: Path, change: str
) -> None:
    documents = [f"document {i}" for i in range(len(fresh_model.topics_))]
    if change == "reduce":
        fresh_model.reduce_topics(documents, nr_topics=12)
    else:
        fresh_model.merge_topics(documents, [[1, 2], [3, 4, 5]])
    repository = convert_model(fresh_model, tmp_path / "out")
    known = {topic["id"] for topic in topics_of(repository)}
    assert known == set(fresh_model.get_topics())
    assert agreement(repository, fresh_model, trained.embeddings) == 1.0
    answered = set(bertopic_engine.load(repository).predict(trained.embeddings).topics.tolist())
    assert answered <= known
    assert len(answered) > 5


def test_custom_labels_win(fresh_model: Any, convert_model: Convert, tmp_path: Path) -> None:
    fresh_model.set_topic_labels({0: "Zero", 3: "Three"})
    labels = {topic["id"]: topic["label"] for topic in topics_of(convert_model(fresh_model, tmp_path / "out"))}
    assert labels[0] == "Zero"
    assert labels[3] == "Three"
    assert labels[1] == fresh_model.topic_labels_[1]


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_a_pickle_gives_what_the_object_gives(
    trained: Any, repository: Path, convert_model: Convert, tmp_path: Path, as_folder: bool
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    trained.model.save(str(saved / "model"), serialization="pickle", save_embedding_model=False)
    source = saved if as_folder else saved / "model"
    with pytest.raises(UntrustedPickle, match="--trust-pickle"):
        convert_model(source, tmp_path / "out")
    converted = convert_model(source, tmp_path / "out", trust_pickle=True)
    expected, found = content(repository), content(converted)
    assert {name for name in expected if expected[name] != found[name]} == {"manifest.json"}


def test_three_pickles(trained: Any, three_pickles: Path, repository: Path, minilm: Path, tmp_path: Path) -> None:
    converted = tmp_path / "my [models]"
    with pytest.raises(UntrustedPickle, match="runs whatever code"):
        convert(three_pickles, converted, embedder=str(minilm))
    arguments = ["--embedder", minilm, "--out", converted, "--trust-pickle", "--seeds", 0]
    done = CliRunner().invoke(app, ["convert", *map(str, [three_pickles, *arguments])])
    *_, last_but_one, last = done.stdout.splitlines()
    assert last_but_one.strip()
    assert last == f"Wrote {converted}. Serve it with: bertopic-inference serve '{converted}'"
    expected = bertopic_engine.load(repository).predict(trained.embeddings)
    found = bertopic_engine.load(converted).predict(trained.embeddings)
    np.testing.assert_array_equal(found.topics, expected.topics)
    topics = {topic["id"]: topic for topic in topics_of(converted)}
    assert topics[17]["label"] == "Topic 17"
    assert topics[17]["size"] == trained.model.topic_sizes_[17]


def test_several_models_share_a_repository(
    trained: Any, repository: Path, fresh_model: Any, convert_model: Convert, tmp_path: Path
) -> None:
    out = shutil.copytree(repository, tmp_path / "out")
    before = content(out)
    fresh_model.set_topic_labels({0: "changed"})
    convert_model(fresh_model, out, name="Second", seeds=0)
    assert config(out, "Second-text").name == "Second-text"
    after = content(out)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: before[name] for name in before if name != "manifest.json"
    }
    assert bertopic_engine.load(out).predict(trained.embeddings[:2])
    with pytest.raises(bertopic_engine.StorageError, match="BERTopic, Second"):
        bertopic_engine.load(out, "Third")


def test_converting_again_replaces(repository: Path, fresh_model: Any, convert_model: Convert, tmp_path: Path) -> None:
    out = shutil.copytree(repository, tmp_path / "out")
    fresh_model.set_topic_labels({0: "changed"})
    convert_model(fresh_model, out, seeds=0)
    assert "changed" in [topic["label"] for topic in topics_of(out)]
    bertopic_engine.storage.verify_files(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def written(out: Path, name: str, text: str, together: Callable[[], object] = lambda: None) -> None:
    """A repository with one small file, put in the place of `out` once all writers are done `together`."""
    with _replacing(out, name, lambda step: None) as root:
        (root / f"{name}-text").mkdir()
        (root / f"{name}-text" / "config.pbtxt").write_text(text)
        _write_manifest(root, name)
        together()


def test_models_converted_at_the_same_time_all_stay(tmp_path: Path) -> None:
    out, names = tmp_path / "out", [f"Model{i}" for i in range(8)]
    writers = Barrier(len(names), timeout=60)
    with ThreadPoolExecutor(len(names)) as pool:
        for text in ("before", "after"):
            list(pool.map(lambda name, text=text: written(out, name, text, writers.wait), names))
    written(out, "Model3", "again")
    expected = {f"{name}-text/config.pbtxt": b"again" if name == "Model3" else b"after" for name in names}
    assert {file: data for file, data in content(out).items() if file != "manifest.json"} == expected
    bertopic_engine.storage.verify_files(out)


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_the_embedder_backend_can_be_chosen(trained: Any, convert_model: Convert, tmp_path: Path, backend: str) -> None:
    out = convert_model(trained.model, tmp_path / "out", embedder_backend=backend, seeds=0)
    bert = config(out, "BERTopic-bert")
    assert bert.backend == backend
    assert bert.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert (out / "BERTopic-bert" / "1" / "model.onnx").is_file()
    assert (out / "BERTopic-bert" / "1" / "model.py").is_file() == (backend == "python")
    if backend == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(out / "BERTopic-bert" / "1" / "model.onnx")
        assert {tensor.name for tensor in session.get_inputs()} == {tensor.name for tensor in bert.input}
        assert {tensor.name for tensor in session.get_outputs()} == {tensor.name for tensor in bert.output}


def test_conversion_for_a_gpu_needs_none(trained: Any, convert_model: Convert, minilm: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tarfile.open(tmp_path / "env.tar.gz", "w:gz").close()
    options = {"device": "gpu", "execution_env": tmp_path / "env.tar.gz", "seeds": 0}
    out = convert_model(trained.model, tmp_path / "out", **options)
    manifest = json.loads((out / "manifest.json").read_text())["models"]["BERTopic"]
    assert (manifest["device"], manifest["embedder"]["precision"]) == ("gpu", "fp16")
    assert 0.9999 < manifest["embedder"]["smallest_cosine"] <= manifest["embedder"]["mean_cosine"] < 1
    assert set(manifest["files"]) == set(content(out)) - {"manifest.json"}
    bert, text = config(out, "BERTopic-bert"), config(out, "BERTopic-text")
    assert (bert.backend, bert.instance_group[0].kind) == ("onnxruntime", ModelInstanceGroup.KIND_GPU)
    assert text.parameters["EXECUTION_ENV_PATH"].string_value == str(tmp_path / "env.tar.gz")
    tokenizer = Tokenizer.load(out / "BERTopic-tokenizer" / "1")
    found = Embedder(tokenizer, OnnxEncoder.load(out / "BERTopic-bert" / "1")).encode(trained.texts[:40])
    expected = SentenceTransformer(str(minilm), device="cpu").encode(trained.texts[:40])
    # Both of length 1.
    assert (found * expected).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"execution_env": "nowhere/env.tar.gz"}, r"nowhere/env\.tar\.gz.*pack-env.*/opt", id="environment"
        ),
        pytest.param({"execution_env": ""}, "''.*shell", id="an empty path"),
        pytest.param(
            {"execution_env": "/opt/my env"}, "'/opt/my env'.*shell", id="a path for which a shell needs quotes"
        ),
        pytest.param({"execution_env": "/opt/../etc"}, r"/etc.*bin/activate.*pack-env", id="no environment"),
        pytest.param({"execution_env": __file__}, r"test_convert.*tar archive", id="no archive"),
        pytest.param({"device": "gpu", "layout": "sgd"}, "'sgd'.*--layout mean_field", id="layout for a GPU"),
        pytest.param({"device": "gpu", "precision": "int8"}, "fp32, fp16 for device 'gpu'", id="precision for a GPU"),
        pytest.param({"layout": "x"}, "'x'.*mean_field, sgd, cuml", id="layout"),
        pytest.param({"neighbors": "approx"}, "'approx'.*auto, exact", id="neighbors"),
        pytest.param({"embedder_backend": "tensorrt"}, "'tensorrt'.*auto, onnxruntime, python", id="backend"),
        pytest.param(
            {"device": "gpu", "tensorrt_cache": "engines"}, "engines, is not an absolute", id="engines' folder"
        ),
        pytest.param({"tensorrt_cache": "/engines"}, "/engines.*--device gpu", id="engines without a GPU"),
    ],
)
def test_what_no_server_could_use_is_refused_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConversionError, UnsupportedEmbedder), match=message):
        convert(tmp_path / "no model is read", tmp_path / "out", embedder="", **options)


def test_an_environment_that_only_the_server_has(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel):
        convert(tmp_path / "no model", tmp_path / "out", embedder="", execution_env="/opt/not-here.tar.gz")


def test_an_unpacked_environment_becomes_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "activate").touch()
    monkeypatch.chdir(tmp_path)
    assert _environment("env/../env") == str(tmp_path / "env")


def test_a_failure_leaves_what_was_there(trained: Any, repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(repository, out)
    before = content(out)
    steps: list[str] = []
    with pytest.raises(Exception, match="no-such-model"):
        convert(trained.model, out, embedder=str(tmp_path / "no-such-model"), progress=steps.append)
    assert not any("UMAP" in step for step in steps)
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_is_something_else_is_refused(trained: Any, convert_model: Convert, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"manifest\.json"):
        convert_model(trained.model, tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda out: _file(out, b"{", "manifest.json"), "manifest.json is not readable JSON", id="manifest"
        ),
        pytest.param(lambda out: (out / "Old-text" / "config.pbtxt").unlink(), "config.pbtxt is missing", id="file"),
    ],
)
def test_a_damaged_output_is_refused_before_the_model_is_read(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    written(tmp_path / "out", "Old", "")
    damage(tmp_path / "out")
    with pytest.raises(OutputError, match=rf"{message}[^.]*\. Remove .*out, or give another --out\.$"):
        convert(tmp_path / "no model is read", tmp_path / "out", embedder="")


@pytest.mark.parametrize(
    ("out", "message"),
    [("../file", "file exists and is not"), ("../file/out", r"cannot write to \.\./file"), (".", "cannot be replaced")],
    ids=["a file", "in a file", "the current folder"],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match=message):
        convert(tmp_path / "no model is read", out, embedder="")


def test_embedder_and_umap_must_fit(trained: Any, fresh_model: Any, convert_model: Convert, tmp_path: Path) -> None:
    from umap import UMAP

    rows = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    fresh_model.umap_model = UMAP(n_components=5, metric="cosine", random_state=0).fit(rows)
    with pytest.raises(DimensionMismatch, match=r"384.*20"):
        convert_model(fresh_model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_umap_and_hdbscan_must_fit(fresh_model: Any, convert_model: Convert, tmp_path: Path) -> None:
    from umap import UMAP

    rows = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    fresh_model.umap_model = UMAP(n_components=3, metric="cosine", random_state=0).fit(rows)
    with pytest.raises(DimensionMismatch, match=r"3 components.*5"):
        convert_model(fresh_model, tmp_path / "out")


def test_models_that_cannot_be_served_are_refused_by_name(
    fresh_model: Any, convert_model: Convert, tmp_path: Path
) -> None:
    from bertopic import BERTopic
    from bertopic.dimensionality import BaseDimensionalityReduction

    with pytest.raises(UnsupportedModel, match=r"builtins\.dict"):
        convert_model({}, tmp_path / "out")
    with pytest.raises(UnsupportedModel, match="never fitted"):
        convert_model(BERTopic(), tmp_path / "out")
    fresh_model.umap_model = BaseDimensionalityReduction()
    with pytest.raises(UnsupportedModel, match="BaseDimensionalityReduction"):
        convert_model(fresh_model, tmp_path / "out")


def test_safetensors_without_umap_is_refused(trained: Any, convert_model: Convert, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    trained.model.save(str(saved), serialization="safetensors", save_embedding_model=False)
    with pytest.raises(UnsupportedModel, match="drops the model's UMAP"):
        convert_model(saved, tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: folder / "nothing", "does not exist", id="nothing there"),
        pytest.param(lambda folder: folder / ("long" * 99), "cannot be read", id="a name too long"),
        pytest.param(lambda folder: folder, "no files", id="an empty folder"),
        pytest.param(lambda folder: _file(folder, b"not a pickle"), "could not be unpickled", id="not a pickle"),
        pytest.param(lambda folder: _file(folder, b"", "umap.pickle"), r"hdbscan\.pickle", id="one of three"),
    ],
)
def test_unreadable_sources(convert_model: Convert, tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(UnreadableModel, match=message):
        convert_model(make(source), tmp_path / "out", trust_pickle=True)


def _file(folder: Path, data: bytes, name: str = "model") -> Path:
    (folder / name).write_bytes(data)
    return folder if name != "model" else folder / name


def test_one_run_is_no_consensus(trained: Any, convert_model: Convert, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"seeds is 1; .* at least 2"):
        convert_model(trained.model, tmp_path / "out", seeds=1)


def test_a_name_that_triton_cannot_take(trained: Any, convert_model: Convert, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="a/b"):
        convert_model(trained.model, tmp_path / "out", name="a/b")
