"""The command line `bertopic-inference`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from enum import Enum
from functools import wraps
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from ._exceptions import ServerError
from ._predict import plan, predict_file
from ._progress import steps
from ._tables import STANDARD_STREAM, Format
from ._texts import read_texts

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="bertopic-inference",
    help="Serve a trained BERTopic model: raw text or embeddings in, topics out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Where the output is no terminal (a file, a log), 80 columns would break every table.
console = Console(width=None if sys.stdout.isatty() else 140)

Urls = Annotated[
    list[str],
    typer.Option("--url", help="The server: grpc://host:port, http://host:port, grpcs:// or https://. Repeatable."),
]
Headers = Annotated[
    list[str] | None, typer.Option("--header", help="'name: value' to send along, or @FILE of such lines. Repeatable.")
]
Authorities = Annotated[Path | None, typer.Option("--ca", help="Certificates of the authorities to trust, in PEM.")]
Certificate = Annotated[Path | None, typer.Option("--certificate", help="To identify oneself with, in PEM.")]
Key = Annotated[Path | None, typer.Option("--key", help="Of --certificate, in PEM.")]
Model = Annotated[str, typer.Option("--name", help="The name the model was converted under.")]
LOCAL = ["grpc://127.0.0.1:8001"]
TENSORRT_CACHE = Path("/var/cache/bertopic-inference/tensorrt")


class Backend(str, Enum):
    """What runs the embedder's graph."""

    auto = "auto"
    onnxruntime = "onnxruntime"
    python = "python"


class Device(str, Enum):
    """What a server computes on."""

    cpu = "cpu"
    gpu = "gpu"


class Precision(str, Enum):
    """Of the embedder."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Layout(str, Enum):
    """How UMAP lays out new rows."""

    mean_field = "mean_field"
    sgd = "sgd"
    cuml = "cuml"


class Neighbors(str, Enum):
    """How near training rows are found."""

    auto = "auto"
    exact = "exact"


class Needs(str, Enum):
    """What the models need, as an extra of this package."""

    runtime = "runtime"
    gpu = "gpu"
    cuml = "cuml"


def _in_a_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a user can do something about into one sentence and exit code 1."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from bertopic_client import TopicClientError
        from bertopic_converters import ConversionError
        from bertopic_embedder import EmbedderError
        from bertopic_engine import EngineError

        try:
            return command(*args, **kwargs)
        except (ServerError, TopicClientError, ConversionError, EmbedderError, EngineError) as error:
            _complain(str(error))
            raise typer.Exit(1) from error
        except OSError as error:
            _complain(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            _complain(
                f"this needs the package {error.name}. Install it with `pip install 'bertopic-inference[convert]'`, "
                "or [demo] for the demo."
            )
            raise typer.Exit(1) from error

    return wrapper


def _complain(message: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True, highlight=False)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


@app.command()
@_in_a_sentence
def convert(
    model: Annotated[Path, typer.Argument(help="A pickled BERTopic model, or a folder with three pickles.")],
    embedder: Annotated[str, typer.Option(help="The sentence-transformers model it was trained with.")],
    out: Annotated[Path, typer.Option(help="The model repository to write.")],
    name: Annotated[str, typer.Option(help="Prefix of the Triton models' names.")] = "BERTopic",
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Allow the model's file to run code, which reading it does."),
    ] = False,
    layout: Annotated[
        Layout,
        typer.Option(
            help="How UMAP lays out new rows: where its descent is expected to end, by descending (sgd), or as cuML "
            "transforms (on a GPU)."
        ),
    ] = Layout.mean_field,
    neighbors: Annotated[
        Neighbors, typer.Option(help="How near training rows are found: auto takes an index for large models.")
    ] = Neighbors.auto,
    device: Annotated[Device, typer.Option(help="What the server computes on.")] = Device.cpu,
    precision: Annotated[
        Precision, typer.Option(help="Of the embedder: auto is fp16 on a GPU and fp32 on a CPU.")
    ] = Precision.auto,
    embedder_backend: Annotated[Backend, typer.Option(help="What runs the embedder in Triton.")] = Backend.auto,
    tensorrt_cache: Annotated[
        Path, typer.Option(help="Folder on a GPU's server for the engines that TensorRT builds: an absolute path.")
    ] = TENSORRT_CACHE,
    execution_env: Annotated[
        Path | None,
        typer.Option(help="What `pack-env` wrote, for the python models to run in; below /opt it is the server's."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of BERTopic to compare with: 0 (not measured), or at least 2.")] = 8,
) -> None:
    """Turn a trained BERTopic model into a Triton model repository."""
    from bertopic_converters import convert

    from ._fidelity_table import in_short

    with steps(console) as progress:
        out = convert(
            model,
            out,
            embedder=embedder,
            name=name,
            layout=layout.value,
            neighbors=neighbors.value,
            device=device.value,
            precision=precision.value,
            embedder_backend=embedder_backend.value,
            tensorrt_cache=tensorrt_cache,
            execution_env=execution_env,
            seeds=seeds,
            trust_pickle=trust_pickle,
            progress=progress,
        )
    if measured := in_short(out, name):
        console.print(measured, highlight=False)
    console.print(
        f"Wrote {_escaped(str(out))}. Serve it with: [bold]bertopic-inference serve {_escaped(quote(str(out)))}[/]",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
@_in_a_sentence
def verify(
    repository: Annotated[Path, typer.Argument(help="What convert wrote.")],
    model: Annotated[Path, typer.Argument(help="What convert read: a pickled BERTopic, or a folder with pickles.")],
    texts: Annotated[Path, typer.Option(help="Texts that it was not trained on: .txt, .jsonl, .csv or .parquet.")],
    column: Annotated[str, typer.Option(help="The field of --texts that holds the text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first of them only.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of BERTopic to compare with.")] = 24,
    embedder: Annotated[
        str | None,
        typer.Option(help="The sentence-transformers model it was trained with, if its pickle holds none."),
    ] = None,
    name: Model = "BERTopic",
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Allow the model's file to run code, which reading it does."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them here: .png, .svg or .pdf.")] = None,
) -> None:
    """Measure how close a converted model is to BERTopic, beside how close BERTopic is to itself."""
    from bertopic_converters import verify

    from ._fidelity_table import fidelity_table, require_writable, verdict

    require_writable(json_file, plot)
    given = read_texts(texts, column)[:limit]
    with steps(console) as progress:
        fidelity = verify(
            repository,
            model,
            given,
            embedder=embedder,
            name=name,
            seeds=seeds,
            trust_pickle=trust_pickle,
            progress=progress,
        )
    console.print(fidelity_table(fidelity))
    console.print(verdict(fidelity), highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(fidelity.as_dict(), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        fidelity.plot(plot)


@app.command()
@_in_a_sentence
def serve(
    repository: Annotated[Path, typer.Argument(help="What `convert --out` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="HTTP/REST.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics.")] = 8002,
    tls_certificate: Annotated[Path | None, typer.Option(help="gRPC over TLS: the server's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM, not encrypted.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Let in only clients whose certificates one of these signed, PEM.")
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds that models may take to load; on a GPU, TensorRT builds engines meanwhile.")
    ] = 300.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Triton's whole log.")] = False,
) -> None:
    """Serve converted models until SIGINT or SIGTERM; requests in flight are answered. SIGHUP reloads."""
    from ._server import Address
    from ._service import Service

    address = Address(host, http_port, grpc_port, metrics_port)
    tls = _tls(tls_certificate, tls_key, tls_client_ca)
    service = Service(repository, address, tls=tls, ready_timeout=ready_timeout, verbose=verbose)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    # A terminal that closes sends it too, and means the end.
    signal.signal(signal.SIGHUP, _interrupt_once if sys.stdin.isatty() else lambda *_: service.reload_later())
    try:
        with steps(console) as progress:
            progress("Checking files and loading models")
            service.start()
        _announce(address, service.server.models, tls is not None)
        service.run()
    except KeyboardInterrupt:
        console.print("Answering what is in flight, then stopping.")
    finally:
        service.stop()


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Any:
    from ._tls import Tls

    if certificate is not None and key is not None:
        return Tls(certificate, key, client_ca)
    if certificate or key or client_ca:
        raise typer.BadParameter("--tls-certificate and --tls-key go together, and --tls-client-ca with both.")
    return None


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # Impatience must not cut off the requests that the first signal waits for.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _announce(address: Any, models: list[str], tls: bool) -> None:
    request = {
        "inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["How do I sort a list?"]}],
        "outputs": [{"name": "OUT"}, {"name": "PROBABILITY"}],
    }
    console.print(f"Ready: {', '.join(models)}", highlight=False)
    console.print(f"  HTTP     {address.http_url}", highlight=False)
    grpc_url = address.grpc_url.replace("grpc://", "grpcs://") if tls else address.grpc_url
    console.print(f"  gRPC     {grpc_url}", highlight=False)
    console.print(f"  metrics  {address.metrics_url}", highlight=False)
    print(
        f"\ncurl -s {address.http_url}/v2/models/{models[0]}-text/infer -d '{json.dumps(request)}'\n",
        flush=True,
    )


@app.command()
@_in_a_sentence
def pack_env(
    out: Annotated[Path, typer.Option(help="The archive to write, a .tar.gz.")],
    extra: Annotated[
        Needs,
        typer.Option(help="What the models need: gpu for those converted with --device gpu, cuml with --layout cuml."),
    ] = Needs.runtime,
    python: Annotated[
        str | None,
        typer.Option(help="The Python that Triton's python backend is built for, such as 3.12, to be checked."),
    ] = None,
) -> None:
    """Pack what the models need from this environment, for a Triton that `serve` does not start."""
    from ._packing import pack_environment

    signal.signal(signal.SIGTERM, _interrupt_once)
    with steps(console) as progress:
        archive = pack_environment(out, extra=extra.value, python=python, progress=progress)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    console.print(f"Wrote {out}: {archive.stat().st_size / 1e6:.0f} MB, for Python {running}.", highlight=False)
    console.print(
        "Unpack it where Triton runs, say to /opt/bertopic-env, and convert with "
        "[bold]--execution-env /opt/bertopic-env[/]",
        highlight=False,
    )


@app.command()
@_in_a_sentence
def reload(
    repository: Annotated[
        Path | None, typer.Argument(help="What `convert --out` wrote; by default the folder served, read again.")
    ] = None,
    http_port: Annotated[int, typer.Option(help="Of the `serve` on this machine.")] = 8000,
) -> None:
    """Put a retrained model in place of the one served; every request is answered wholly by one of them."""
    from ._control import request_reload

    with steps(console) as progress:
        done = request_reload(http_port, repository, progress)
    console.print(f"In place: {done}.", highlight=False)


@app.command()
@_in_a_sentence
def predict(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to assign to topics.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Records: .jsonl, .csv, .parquet or .txt, or - for standard input.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where they go with their answers; standard output if -.")] = None,
    column: Annotated[str, typer.Option(help="The field of --file that holds the text.")] = "text",
    embeddings: Annotated[
        str | None, typer.Option(help="The field of --file that holds embeddings; they are sent instead of texts.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before the names topic, label and probability.")] = "",
    form: Annotated[
        Format | None, typer.Option("--format", help="Of - and of files whose name does not say it; else jsonl for -.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over, and replace what is there.")] = False,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to sit out a server that does not answer.")] = 300.0,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    url: Urls = LOCAL,
    name: Model = "BERTopic",
    header: Headers = None,
    ca: Authorities = None,
    certificate: Certificate = None,
    key: Key = None,
) -> None:
    """Topics of texts, from a running server.

    With --file: exit code 0 if every row was answered, 3 if some were not, 1 if it did not get to the end.
    """
    from bertopic_client import TopicClient

    if (file is None) == (not texts):
        raise typer.BadParameter("give either texts or --file.")
    credentials = _credentials(header, ca, certificate, key)
    if file is None:
        if out is not None or resume or force:
            raise typer.BadParameter("--out, --resume and --force go with --file.")
        with TopicClient(url, model=name, **credentials) as client:
            console.print(answers_table(texts or [], client.predict(texts or [])))
        return
    if resume and force:
        raise typer.BadParameter("--resume goes on and --force starts over: give one of them.")
    source, target = plan(file, out or STANDARD_STREAM, column, embeddings, prefix, form)
    if resume and not (source.replayable and target.replaceable):
        raise typer.BadParameter("--resume needs files: a stream cannot be read or written again.")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    progress = Console(stderr=True)
    with TopicClient(
        url,
        model=name,
        timeout=patience,
        attempt_timeout=min(patience, 30.0),
        # As often as there is time for.
        retries=1_000_000,
        max_in_flight=in_flight,
        **credentials,
    ) as client:
        try:
            failed = predict_file(client, name, source, target, resume=resume, force=force, console=progress)
        except KeyboardInterrupt:
            # Closing the client would wait for the requests under way, perhaps to a server that is gone.
            os._exit(128 + signal.SIGINT)
        except BrokenPipeError:
            os._exit(128 + signal.SIGPIPE)
    raise typer.Exit(3 if failed else 0)


def _credentials(
    headers: list[str] | None, ca: Path | None, certificate: Path | None, key: Path | None
) -> dict[str, Any]:
    """What the command line says of TLS and headers, as arguments of `TopicClient`."""
    from bertopic_client import Tls

    given: dict[str, str] = {}
    for header in headers or []:
        # Whoever may list processes reads their command lines, hence files.
        lines = Path(header[1:]).read_text("utf-8").splitlines() if header.startswith("@") else [header]
        for line in filter(str.strip, lines):
            name, colon, value = line.partition(":")
            if not colon:
                raise typer.BadParameter("--header: expected 'name: value', or @FILE of such lines.")
            given[name.strip()] = value.strip()
    return {"headers": given or None, "tls": Tls(ca, certificate, key) if ca or certificate or key else None}


def answers_table(texts: list[str], answers: Any) -> Table:
    """A table text -> topic, label, probability."""
    table = Table()
    for column in ("text", "topic", "label", "probability"):
        table.add_column(column, no_wrap=True, min_width=len(column))
    for text, answer in zip(texts, answers, strict=True):
        shown = text if len(text) <= 60 else text[:59] + "…"
        table.add_row(_escaped(shown), str(answer.topic), _escaped(answer.label), f"{answer.probability:.2f}")
    return table


@app.command()
@_in_a_sentence
def topics(
    url: Urls = LOCAL,
    name: Model = "BERTopic",
    header: Headers = None,
    ca: Authorities = None,
    certificate: Certificate = None,
    key: Key = None,
) -> None:
    """The served model's topics: ids, labels, keywords, sizes."""
    from bertopic_client import TopicClient

    with TopicClient(url, model=name, **_credentials(header, ca, certificate, key)) as client:
        known = client.topics()
    table = Table("id", "label", "keywords", "size")
    for topic in known:
        words = ", ".join(word for word, _ in topic.keywords[:6])
        table.add_row(str(topic.id), _escaped(topic.label), _escaped(words), f"{topic.size:,}")
    console.print(table)


@app.command()
@_in_a_sentence
def demo(
    texts: Annotated[Path | None, typer.Option(help="Your own texts: .txt, .jsonl, .csv or .parquet.")] = None,
    column: Annotated[str, typer.Option(help="The field of --texts that holds the text.")] = "text",
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its model.")] = Path(".demo"),
) -> None:
    """Train on texts of this machine, convert, serve, predict: the whole way in a few minutes."""
    from ._demo import run_demo

    run_demo(folder, texts=None if texts is None else read_texts(texts, column), console=console)
