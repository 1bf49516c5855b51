"""Packs what converted models need from this environment into the archive that Triton's EXECUTION_ENV_PATH names.

Triton unpacks the archive into a temporary folder, sources its `bin/activate`, and starts the interpreter that is built
into its python backend. That interpreter heeds no PYTHONPATH: it takes its packages from beside the first `python3` on
the PATH, and a `pyvenv.cfg` there makes it keep its own standard library. So the archive is a virtual environment with
something in place of an interpreter, which need not fit the machine that it is unpacked on.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path, PurePath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ._exceptions import Unservable
from ._triton import SYSTEM_BINARY, check_numpy

_PROJECT = "bertopic-inference"
_OWN_PACKAGES = ("bertopic_client", "bertopic_converters", "bertopic_embedder", "bertopic_engine", "bertopic_server")
_RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
_SITE_PACKAGES = f"lib/python{_RUNNING}/site-packages"
_ACTIVATE = """\
# Sourced by Triton before it starts a python model.
export PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd):$PATH"
unset PYTHONHOME
"""
_PYTHON = """\
#!/bin/sh
echo "This environment is for the interpreter within Triton's python backend, and has none of its own." >&2
exit 1
"""
# Without a home that holds a standard library, the interpreter looks where it was itself installed.
_PYVENV = """\
home =
include-system-site-packages = false
"""
# What an interpreter of another version finds, for a model's first import is numpy, if only by Triton's own module.
_WRONG_PYTHON = f"""\
import sys

raise ImportError(
    "EXECUTION_ENV_PATH names an environment for Python {_RUNNING}, and this Triton's python backend is built for "
    "Python %d.%d. Make one with a `bertopic-inference pack-env` that runs on that Python." % sys.version_info[:2]
)
"""
_MINORS = range(8, 20)
# Valid for sources of the same size and time of change, which an archive keeps.
_COMPILED = {".nbi", ".nbc"}
# They bring the same module, so an environment should have one of them only.
_STAND_INS = {"onnxruntime": "onnxruntime-gpu"}


def pack_environment(
    out: str | Path,
    *,
    extra: str = "runtime",
    python: str | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write the archive.

    Parameters
    ----------
    out : path
        The archive, a gzipped tar. What is there is replaced once the new one is whole.
    extra : str
        What the models need is what this extra of bertopic-inference requires: "runtime", "gpu", or "cuml".
    python : str, optional
        The Python of the python backend that is to use the archive, such as "3.12"; by default that of the
        tritonserver on this machine, if there is one.
    progress : callable, optional
        Is told what is being done.

    Returns
    -------
    Path
        `out`, absolute.

    Raises
    ------
    Unservable
        The backend's Python is not this one, numpy is too new, a package is missing or cannot be copied, or there is
        no place for the archive.
    """
    _check_python(_python_of_triton() if python is None else python, extra)
    check_numpy()
    target = Path(out).expanduser().resolve()
    if target.is_dir():
        raise Unservable(f"{out} is a folder, expected the archive to write. Give --out {target / 'env.tar.gz'}.")
    try:
        with _replacing(target) as unfinished:
            progress("Looking up packages")
            files = {name: path for needed in _required(extra) for name, path in _files(needed)}
            progress(f"Packing {len(files):,} files")
            _write(unfinished, files)
    except OSError as error:
        raise Unservable(
            f"{target} cannot be written ({error.strerror}). Give another --out, in a folder that exists, may be "
            "written to, and has room for it."
        ) from error
    return target


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place if the block succeeds, and vanishes if it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o644)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _write(archive: Path, files: dict[str, Path]) -> None:
    with tarfile.open(archive, "w:gz", dereference=True, compresslevel=4) as opened:
        for name, text in _skeleton():
            _add_text(opened, name, text)
        for name, path in sorted(files.items()):
            opened.add(path, f"{_SITE_PACKAGES}/{name}", recursive=False, filter=_of_nobody)


def _skeleton() -> Iterator[tuple[str, str]]:
    """What makes packages an environment: paths and texts."""
    yield "pyvenv.cfg", _PYVENV
    yield "bin/activate", _ACTIVATE
    yield "bin/python3", _PYTHON
    for other in (f"3.{minor}" for minor in _MINORS):
        if other != _RUNNING:
            yield f"lib/python{other}/site-packages/numpy.py", _WRONG_PYTHON


def _check_python(wanted: str | None, extra: str) -> None:
    if wanted is None:
        return
    if not re.fullmatch(r"3\.\d+(\.\d+)?", wanted):
        raise Unservable(f"--python is {wanted!r}, expected the number of a Python such as {_RUNNING}.")
    wanted = ".".join(wanted.split(".")[:2])
    if wanted != _RUNNING:
        raise Unservable(
            f"this is Python {_RUNNING}, and Triton's python backend is built for Python {wanted}, which cannot load "
            f"what is installed here. Pack an environment of that Python: `python{wanted} -m venv env && env/bin/pip "
            f"install '{_PROJECT}[{extra}]' && env/bin/bertopic-inference pack-env --out env.tar.gz`."
        )


def _python_of_triton() -> str | None:
    """The Python that the system's Triton has built in, such as "3.12"; None if there is no Triton."""
    binary = Path(shutil.which("tritonserver") or SYSTEM_BINARY).resolve()
    stub = binary.parent.parent / "backends" / "python" / "triton_python_backend_stub"
    linked = re.search(rb"libpython(3\.\d+)", stub.read_bytes()) if stub.is_file() else None
    return linked[1].decode() if linked else None


def _required(extra: str) -> list[Distribution]:
    """This project and all that it requires with an extra, as installed here."""
    known = distribution(_PROJECT).metadata.get_all("Provides-Extra") or []
    if extra not in known:
        raise Unservable(
            f"the {_PROJECT} installed here has no extra {extra!r}, but {', '.join(known)}. Give one of these, or "
            f"install it anew with `pip install '{_PROJECT}[{extra}]'`."
        )
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(f"{_PROJECT}[{extra}]")]
    while waiting:
        requirement = waiting.pop()
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in seen:
                seen.add((requirement.name, wanted))
                installed = found[requirement.name] = _installed(requirement)
                waiting += _requirements(installed, wanted)
    return list(found.values())


def _installed(requirement: Requirement) -> Distribution:
    for name in (requirement.name, _STAND_INS.get(requirement.name, requirement.name)):
        with suppress(PackageNotFoundError):
            return distribution(name)
    wanted, _, _ = str(requirement).partition(";")
    raise Unservable(
        f"the models need {requirement.name}, which is not installed here. Install it with `pip install '{wanted}'`."
    )


def _requirements(installed: Distribution, extra: str) -> list[Requirement]:
    every = map(Requirement, installed.requires or [])
    return [each for each in every if each.marker is None or each.marker.evaluate({"extra": extra})]


def _files(installed: Distribution) -> Iterator[tuple[str, Path]]:
    """What a package consists of: paths below site-packages, and where they are."""
    name = installed.metadata["Name"]
    own = canonicalize_name(name) == _PROJECT
    if own:
        for package in _OWN_PACKAGES:
            yield from _sources(package)
    elif problem := _not_copyable(installed):
        raise Unservable(f"{name} {problem}. Pack an environment into which pip or uv installed it as a wheel.")
    for file in installed.files or []:
        path = Path(str(installed.locate_file(file)))
        # Scripts are outside. Of this project, only metadata: an editable install has nothing else here.
        if ".." not in file.parts and path.is_file() and (not own or file.parts[0].endswith(".dist-info")):
            yield str(file), path


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    for path in folder.rglob("*"):
        # What numba compiled goes along: where the processor is of another kind, it is ignored.
        if path.is_file() and (path.parent.name != "__pycache__" or path.suffix in _COMPILED):
            yield str(PurePath(package) / path.relative_to(folder)), path


def _not_copyable(installed: Distribution) -> str | None:
    """Why the files that a package lists are not all that it needs, if so."""
    if (installed.read_text("INSTALLER") or "").strip() == "conda":
        return "was installed by conda and may need libraries besides its files"
    if installed.read_text("RECORD") is None:
        return "was installed without a list of its files"
    if json.loads(installed.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        return "is installed as editable, which leaves its files elsewhere"
    return None


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o755 if text.startswith("#!") else 0o644
    archive.addfile(member, io.BytesIO(content))


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
