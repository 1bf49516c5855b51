"""A trained BERTopic becomes a Triton model repository: all of it, or nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from bertopic_embedder import export, require_precision
from bertopic_engine import StorageError, TopicPredictor, UmapTransform
from bertopic_engine.cuml import CumlTransform
from bertopic_engine.repulsion import summarize
from bertopic_engine.storage import FORMAT_VERSION, MANIFEST, read_manifest, require_file, save_json, sha256

from ._exceptions import ConversionError, DimensionMismatch, OutputError, UnsupportedModel
from ._fidelity import measure_on_surrogates, require_consensus
from ._gpu import TENSORRT_CACHE, Network
from ._hdbscan import read_hdbscan
from ._repository import MODELS, Target, write_model
from ._sources import SourceModel, read_source
from ._umap import read_umap, read_umap_for_cuml, require_supported

Backend = Literal["auto", "onnxruntime", "python"]
Device = Literal["cpu", "gpu"]
Precision = Literal["auto", "fp32", "fp16", "int8"]
Layout = Literal["mean_field", "sgd", "cuml"]
Neighbors = Literal["auto", "exact"]
Progress = Callable[[str], None]

_CHOICES = {
    "layout": Layout,
    "neighbors": Neighbors,
    "device": Device,
    "precision": Precision,
    "embedder_backend": Backend,
}
_LIBRARIES = (
    "bertopic",
    "umap-learn",
    "hdbscan",
    "sentence-transformers",
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
)
_SYSTEM_BACKEND = Path("/opt/tritonserver/backends/onnxruntime")
# What is below it is the server's and need not be on this machine.
_ON_SERVER = Path("/opt")


def convert(
    model: Any,
    out: str | Path,
    *,
    embedder: Any,
    name: str = "BERTopic",
    layout: Layout = "mean_field",
    neighbors: Neighbors = "auto",
    device: Device = "cpu",
    precision: Precision = "auto",
    embedder_backend: Backend = "auto",
    tensorrt_cache: str | Path = TENSORRT_CACHE,
    execution_env: str | Path | None = None,
    seeds: int = 8,
    trust_pickle: bool = False,
    progress: Progress = lambda step: None,
) -> Path:
    """Convert a trained BERTopic model into a Triton model repository.

    The repository is written beside `out` and moved there at the end, so a conversion that fails leaves
    what was there untouched. Models already in `out` under other names stay. The same input gives the
    same bytes.

    Parameters
    ----------
    model : BERTopic, str or Path
        A fitted model, its pickle, or a folder with `umap.pickle`, `hdbscan.pickle`, `mappings.pickle`.
    out : path
        The model repository to write.
    embedder : SentenceTransformer, str or Path
        The sentence-transformers model that the topic model was trained with.
    name : str
        Prefix of the Triton models' names.
    layout : "mean_field", "sgd" or "cuml"
        How UMAP lays out new rows; see `bertopic_engine.UmapParameters`. The last is cuML's own transform on a GPU.
    neighbors : "auto" or "exact"
        How near training rows are found: auto takes an index for models large enough to gain from one. A GPU
        needs none.
    device : "cpu" or "gpu"
        What the server computes on; no GPU is needed to convert for one.
    precision : "auto", "fp32", "fp16" or "int8"
        Of the embedder; auto is fp16 on a GPU and fp32 on a CPU, int8 is for the CPU.
    embedder_backend : "auto", "onnxruntime" or "python"
        What runs the embedder's graph in Triton; auto takes the onnxruntime backend for a GPU, and for a CPU
        where a system Triton on this machine has it.
    tensorrt_cache : path
        Folder on the server for the engines that TensorRT builds, as an absolute path; for the onnxruntime backend
        on a GPU only.
    execution_env : path, optional
        The environment that the python models run in, packed or unpacked, where this machine and the server
        have it alike; or a path below /opt, which only the server needs to have. Of letters, digits and _@%+=:,./-
        only, since Triton puts it into a shell command as it is.
    seeds : int
        Runs of BERTopic that the converted model is compared with, for the manifest; none with 0.
    trust_pickle : bool
        Allow reading pickles, which runs code that they hold.
    progress : callable
        Told the name of each step as it starts.

    Returns
    -------
    Path
        `out`

    Raises
    ------
    ConversionError
        See `bertopic_converters` for its kinds.
    bertopic_embedder.EmbedderError
        The embedder cannot be converted faithfully.
    """
    out = Path(out).expanduser()
    _check_name(name)
    _check_choices(
        layout=layout, neighbors=neighbors, device=device, precision=precision, embedder_backend=embedder_backend
    )
    if precision == "auto":
        precision = "fp16" if device == "gpu" else "fp32"
    require_precision(precision, device)
    if (layout == "sgd" and device == "gpu") or (layout == "cuml" and device == "cpu"):
        raise ConversionError(
            f"the layout {layout!r} is not one that a {device.upper()} computes. "
            "Convert with --layout mean_field, or for another --device."
        )
    onnxruntime_backend = _wants_onnxruntime(embedder_backend, device)
    cache = _tensorrt_cache(tensorrt_cache, used=onnxruntime_backend and device == "gpu")
    environment = _environment(execution_env)
    if seeds:
        require_consensus(seeds)
    with _replacing(out, name, progress) as root:
        progress("Reading the model")
        source = read_source(model, trust_pickle=trust_pickle)
        topics = _read_topics(source)
        progress("Converting the embedder and checking it against sentence-transformers")
        embedded = root / "embedder"
        report = export(embedder, embedded, precision=precision, device=device)
        if report.dimension != (dim := source.umap._raw_data.shape[1]):
            raise DimensionMismatch(
                f"the embedder gives {report.dimension} dimensions, UMAP was trained on {dim}. "
                "Give --embedder the model whose embeddings BERTopic was trained on."
            )
        progress("Reading UMAP and indexing its neighbours")
        umap: UmapTransform | CumlTransform
        if layout == "cuml":
            umap = read_umap_for_cuml(source.umap)
        else:
            # A GPU compares with every training row.
            umap = read_umap(source.umap, layout=layout, exact_neighbors=neighbors == "exact" or device == "gpu")
        facts: dict[str, Any] = {"neighbors": {"kind": umap.neighbors.kind, "recall": umap.neighbors.recall}}
        if layout == "mean_field" and isinstance(umap, UmapTransform):
            progress("Summarising the training points for the layout")
            umap, convergence = summarize(umap, source.umap._raw_data)
            facts["convergence"] = convergence._asdict()
        progress("Writing the model repository")
        dims = {
            "EMBEDDING": umap.dim,
            "IN": umap.dim,
            "REDUCED": umap.n_components,
            "MEMBERSHIP": topics.n_topics,
        }
        network = None
        if device == "gpu":
            facts["device"] = device
            network = Network(report.max_length, precision)
        target = Target(onnxruntime_backend, gpu=network, tensorrt_cache=cache, execution_env=environment)
        versions = {model: write_model(root, name, model, dims, target) for model in MODELS}
        for file in sorted(embedded.iterdir()):
            home = "bert" if file.suffix == ".onnx" else "tokenizer"
            file.rename(versions[home] / file.name)
        embedded.rmdir()
        umap.save(versions["umap"])
        topics.save(versions["hdbscan"])
        save_json(versions["topics"] / "topics.json", source.topics)
        if seeds and isinstance(umap, UmapTransform):
            fidelity = measure_on_surrogates(
                source.umap, source.hdbscan, source.mapping, umap, topics, seeds=seeds, progress=progress
            )
            facts["fidelity"] = fidelity.as_dict() if fidelity else None
        _write_manifest(root, name, origin=source.origin, dims=dims, layout=layout, embedder=report.as_dict(), **facts)
    return out


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConversionError(
            f"the name {name!r} cannot be part of a Triton model's name and a URL: use letters, digits, '_', '.', '-'."
        )


def _check_choices(**given: str) -> None:
    for option, value in given.items():
        if value not in (accepted := get_args(_CHOICES[option])):
            raise ConversionError(f"{option} is {value!r}, expected one of {', '.join(accepted)}.")


def _tensorrt_cache(path: str | Path, *, used: bool) -> str:
    cache = os.path.normpath(path)
    if cache != TENSORRT_CACHE and not used:
        raise ConversionError(
            f"the folder for TensorRT's engines, {cache}, is of use on a GPU with the onnxruntime backend only. "
            "Convert with --device gpu, or without --tensorrt-cache."
        )
    if not Path(cache).is_absolute():
        raise ConversionError(
            f"the folder for TensorRT's engines, {cache}, is not an absolute path; it is one on the server. "
            f"Give --tensorrt-cache one like {TENSORRT_CACHE}."
        )
    return cache


def _environment(path: str | Path | None) -> str | None:
    """The path of an environment as Triton finds it; python models that share one path share what is unpacked."""
    if path is None:
        return None
    # Not resolved: what is a link here may be none on the server.
    absolute = str(path) and os.path.normpath(Path(path).expanduser().absolute())
    if not re.fullmatch(r"[\w@%+=:,./-]+", absolute):
        raise ConversionError(
            f"the environment's path {absolute!r} goes into a shell command of Triton's as it is. "
            "Give one of letters, digits and _@%+=:,./- only."
        )
    environment = Path(absolute)
    if not environment.exists():
        if environment.is_relative_to(_ON_SERVER):
            return absolute
        raise ConversionError(
            f"there is no environment {path}. Make one with `bertopic-inference pack-env`; if it is on the server "
            f"only, put it below {_ON_SERVER} there."
        )
    packed = environment.is_file() and tarfile.is_tarfile(environment)
    if not packed and not (environment / "bin" / "activate").is_file():
        raise ConversionError(
            f"{path} is no environment: expected a tar archive, or a folder with bin/activate. "
            "Make one with `bertopic-inference pack-env`."
        )
    return absolute


def _wants_onnxruntime(backend: Backend, device: Device) -> bool:
    # A GPU's server is seldom the machine that converts: NVIDIA's images of it all have the backend.
    return backend == "onnxruntime" or (backend == "auto" and (device == "gpu" or _SYSTEM_BACKEND.is_dir()))


def _read_topics(source: SourceModel) -> TopicPredictor:
    """HDBSCAN and the topics of its clusters, if UMAP is one that can be read and goes with them."""
    require_supported(source.umap)
    hdbscan = read_hdbscan(source.hdbscan)
    if (n_components := source.umap.embedding_.shape[1]) != hdbscan.n_features:
        raise DimensionMismatch(
            f"UMAP reduces to {n_components} components, HDBSCAN was fitted on {hdbscan.n_features}: "
            "these are not of the same model."
        )
    topics = TopicPredictor(hdbscan, source.mapping)
    if topics.n_topics == 0:
        raise UnsupportedModel(
            "the model has no topics: HDBSCAN called every training text an outlier. "
            "Train on more texts or with a smaller min_cluster_size."
        )
    return topics


def _write_manifest(root: Path, name: str, **facts: Any) -> None:
    files = sorted(file for model in MODELS for file in (root / f"{name}-{model}").rglob("*") if file.is_file())
    model = {
        **facts,
        "libraries": {library: _version(library) for library in _LIBRARIES},
        "files": {file.relative_to(root).as_posix(): sha256(file) for file in files},
    }
    save_json(root / MANIFEST, {"format_version": FORMAT_VERSION, "models": {name: model}})


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@contextmanager
def _replacing(out: Path, name: str, progress: Progress) -> Iterator[Path]:
    """A folder that takes the place of `out` if the block succeeds, and vanishes if it does not.

    The models that `out` holds by then under names other than `name` come along.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} exists and is not a converted model repository (it has no {MANIFEST}). "
            "Give another --out, or remove it first."
        )
    if os.path.ismount(out) or out.name in ("", ".."):
        raise OutputError(f"{out} cannot be replaced, for it is a mount point or in use. Give a folder in it.")
    _other_models(out, name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {out.parent} ({error.strerror}). Give another --out.") from error
    try:
        temporary.chmod(0o755)
        yield temporary
        progress("Putting it in its place")
        with _locked(out.parent):
            _keep_other_models(out, temporary, name)
            _swap(temporary, out)
    except OSError as error:
        raise OutputError(
            f"cannot write {error.filename or out} ({error.strerror}). Make room for it, or give another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make other conversions that are to change something in `folder` wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that locks no folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _keep_other_models(out: Path, root: Path, name: str) -> None:
    others = _other_models(out, name)
    for relative in (file for model in others.values() for file in model["files"]):
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(out / relative, root / relative)
    manifest = read_manifest(root)
    save_json(root / MANIFEST, manifest | {"models": others | manifest["models"]})


def _other_models(out: Path, name: str) -> dict[str, Any]:
    """What the manifest of `out` says of models under other names; their files are there."""
    if not (out / MANIFEST).is_file():
        return {}
    try:
        others = {other: model for other, model in read_manifest(out)["models"].items() if other != name}
        for relative in (file for model in others.values() for file in model["files"]):
            require_file(out / relative)
    except StorageError as error:
        # Its last sentence advises to convert again.
        reason = str(error).rsplit(". ", 1)[0]
        raise OutputError(
            f"cannot keep the other models of {out} ({reason}). Remove {out}, or give another --out."
        ) from error
    return others


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _swap(new: Path, out: Path) -> None:
    previous = new.with_name(new.name + "-previous")
    try:
        if out.exists():
            out.replace(previous)
        new.replace(out)
    except OSError as error:
        if previous.exists() and not out.exists():
            previous.replace(out)
        raise OutputError(
            f"cannot put the new repository in the place of {out} ({error.strerror}). Give another --out."
        ) from error
    shutil.rmtree(previous, ignore_errors=True)
