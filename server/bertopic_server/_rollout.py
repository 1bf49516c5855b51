"""Puts a retrained model in place as a new Triton version of every model, while the old one goes on answering."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertopic_engine.storage import read_manifest

from ._canary import Outcome, sing
from ._exceptions import ReloadFailed, ServerError
from ._models import is_called, keeps_previous
from ._server import TritonServer, converted_names

# Seconds in which a model must have answered: queues may be full.
_ANSWER_SECONDS = 60.0


def roll_out(server: TritonServer, repository: Path, progress: Callable[[str], None]) -> None:
    """Replace what a server serves.

    Each model is loaded beside its predecessor and takes over when it is ready, called models before their callers.
    Versions go together: callers of a version call that version, which stays until the last of them is replaced.

    Parameters
    ----------
    server : TritonServer
    repository : Path
        What `convert` wrote.
    progress : callable
        Called with each step.

    Raises
    ------
    ServerError
        The old model serves on.
    """
    progress(f"Checking {repository}")
    _check_replaces(server, repository)
    old, new = server.version, server.next_version()
    loaded: list[str] = []
    try:
        for model in server.triton_models:
            server.workspace.place(model, repository, new)
        for model in server.triton_models:
            progress(f"Loading {model} version {new}")
            loaded.append(model)
            server.load(model)
            _await_answer(server, model, new)
        for model in filter(is_called, server.triton_models):
            progress(f"Unloading {model} version {old}")
            server.workspace.withdraw(model, old)
            server.load(model)
    except (ServerError, OSError) as error:
        progress(f"Going back to version {old}")
        _go_back(server, loaded, old, new)
        raise ReloadFailed(f"{error} {server.repository} serves on.") from error
    server.repository, server.version = repository, new
    for model in server.triton_models:
        server.workspace.keep(model, (old, new) if keeps_previous(model) and not is_called(model) else (new,))


def _check_replaces(server: TritonServer, repository: Path) -> None:
    names = converted_names(repository)
    if names != server.models:
        raise ReloadFailed(
            f"{repository} holds {', '.join(names)}, and {', '.join(server.models)} is served. Convert under the same "
            "name (--name), or start another `serve`."
        )
    for name in names:
        given, served = (_dimension(folder, name) for folder in (repository, server.repository))
        if given != served:
            raise ReloadFailed(
                f"{name} in {repository} takes embeddings of dimension {given}, and the one served {served}: clients "
                "that send embeddings would be refused. Start another `serve` for it."
            )
    for model in server.triton_models:
        # Triton runs every version of a model as the newest config says, so there would be no way back.
        given, served = (_runs_by(folder / model / "config.pbtxt") for folder in (repository, server.workspace.models))
        if given != served:
            raise ReloadFailed(
                f"{repository} was converted for another device or backend: {model} is for {given}, and the one served "
                f"is for {served}. Start another `serve` for it."
            )


def _dimension(repository: Path, name: str) -> Any:
    return read_manifest(repository)["models"][name]["dims"]["IN"]


def _runs_by(config: Path) -> str:
    """A model's backend and where it runs, such as "python on a CPU"."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

    try:
        parsed = text_format.Parse(config.read_text(encoding="utf-8"), ModelConfig(), allow_unknown_field=True)
    except (ValueError, text_format.ParseError) as error:
        raise ReloadFailed(f"{config} is no config of a Triton model ({error}). Convert the model again.") from error
    kinds = {ModelInstanceGroup.Kind.Name(group.kind).removeprefix("KIND_") for group in parsed.instance_group}
    return f"{parsed.backend} on a {' or '.join(sorted(kinds))}"


def _await_answer(server: TritonServer, model: str, version: int) -> None:
    config = server.config(model)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        sung = sing(server.address.http_url, f"{model}/versions/{version}", config, _ANSWER_SECONDS)
        if sung.outcome is Outcome.answered:
            return
        if sung.outcome is not Outcome.busy or time.monotonic() > deadline:
            raise ReloadFailed(f"{model} version {version} was loaded, but does not answer: {sung.message}")
        time.sleep(0.1)


def _go_back(server: TritonServer, loaded: list[str], old: int, new: int) -> None:
    for model in server.triton_models:
        if not is_called(model):
            server.workspace.withdraw(model, new)
        # Unless the old folder is gone, and with it the way back.
        with suppress(OSError):
            server.workspace.place(model, server.repository, old)
    # As on the way there: callers are replaced while both versions of what they call are loaded.
    for model in loaded:
        _load_if_possible(server, model)
    for model in filter(is_called, server.triton_models):
        server.workspace.withdraw(model, new)
        _load_if_possible(server, model)


def _load_if_possible(server: TritonServer, model: str) -> None:
    # The watch looks after a model that does not come back.
    with suppress(ServerError, OSError):
        server.load(model)
