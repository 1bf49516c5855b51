"""What a converted model is on disk: safetensors for arrays, JSON for the rest, a manifest over all of it.

Nothing here can execute what was stored, and the same content always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ._exceptions import ChecksumMismatch, FormatVersion, MissingFile, StorageError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

Arrays = dict[str, NDArray[Any]]


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors (C order; the format sorts by dtype and name)."""
    # Not save_file, which lets nobody but its owner read: a server often runs as another user.
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def require_file(path: Path) -> None:
    """Raise MissingFile unless `path` is a file, and StorageError unless it may be read."""
    try:
        if path.is_file():
            path.open("rb").close()
            return
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}). Let this user read it.") from error
    raise MissingFile(f"{path} is missing. Convert the model again, or restore the file from a backup.")


def load_arrays(path: Path) -> Arrays:
    """Read what `save_arrays` wrote; raises MissingFile or StorageError naming the file."""
    require_file(path)
    try:
        arrays: Arrays = load_file(path)
    except SafetensorError as error:
        raise StorageError(f"{path} is not a readable safetensors file ({error}). Convert the model again.") from error
    return arrays


def save_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys and a final newline."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read JSON; raises MissingFile or StorageError naming the file."""
    require_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StorageError(f"{path} is not readable JSON ({error}). Convert the model again.") from error


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a converted repository.

    Raises
    ------
    MissingFile
        `repository` was not written by `convert`.
    FormatVersion
        It was written by a version that this one cannot read.
    """
    path = repository / MANIFEST
    if not path.is_file():
        raise MissingFile(
            f"{repository} holds no {MANIFEST}, so it is not a converted model repository. "
            "Create one with `bertopic-inference convert MODEL --embedder NAME_OR_DIR --out DIR`."
        )
    manifest: dict[str, Any] = load_json(path)
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise FormatVersion(
            f"{path} has format version {found}; this version of bertopic-inference reads version "
            f"{FORMAT_VERSION}. Convert the model again with this version."
        )
    models = manifest.get("models")
    if not isinstance(models, dict) or not models or not all(map(_has_files, models.values())):
        raise StorageError(f"{path} lists no models with their files: it is damaged. Convert the model again.")
    return manifest


def _has_files(model: object) -> bool:
    return isinstance(model, dict) and isinstance(model.get("files"), dict)


def verify_files(repository: Path, name: str | None = None) -> None:
    """Compare every file of a converted model (of all models if `name` is None) with the manifest.

    Raises
    ------
    MissingFile, ChecksumMismatch
        Names the file.
    StorageError
        No model of that name was converted into this repository.
    """
    models: dict[str, Any] = read_manifest(repository)["models"]
    if name is not None and name not in models:
        raise StorageError(f"{repository} holds no model {name!r}; it holds {', '.join(sorted(models))}.")
    for model in models if name is None else [name]:
        for relative, expected in models[model]["files"].items():
            path = repository / relative
            require_file(path)
            if (found := sha256(path)) != expected:
                raise ChecksumMismatch(
                    f"{path} has sha256 {found[:12]}…, but {expected[:12]}… was converted: the file was changed "
                    "or damaged. Convert the model again, or restore the file from a backup."
                )
