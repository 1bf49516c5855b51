"""Finds a tritonserver on this machine and what it needs to run python models in this environment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ._exceptions import TritonNotFound, Unservable

SYSTEM_BINARY = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True)
class Triton:
    """A tritonserver, and how to start it."""

    binary: Path
    environment: dict[str, str]
    links: dict[str, Path] = field(default_factory=dict)
    """files that make up the python backend, by the name they must have there; none leaves Triton's own"""

    def assemble_backends(self, folder: Path) -> Path | None:
        """Lay out the backend directory under `folder`; None if Triton's own serves."""
        if not self.links:
            return None
        python = folder / "python"
        python.mkdir(parents=True)
        for name, target in self.links.items():
            (python / name).symlink_to(target)
        return folder


def find_triton() -> Triton:
    """The system's tritonserver if there is one, else the one that nvidia-pytriton ships.

    Raises
    ------
    TritonNotFound
        There is neither.
    Unservable
        There is one, but this Python cannot run its python models.
    """
    check_numpy()
    on_path = shutil.which("tritonserver")
    system = Path(on_path) if on_path else SYSTEM_BINARY
    if system.is_file():
        return Triton(system, _environment())
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonNotFound(
            "no tritonserver found: none on PATH, none in /opt/tritonserver, and nvidia-pytriton is not installed. "
            "Install one with `pip install 'bertopic-inference[server]'`, or run inside a Triton container."
        )
    return _pytriton(Path(spec.origin).parent / "tritonserver")


def _environment() -> dict[str, str]:
    # ONNX Runtime, in Triton or in a model, otherwise reports what it runs to its maker.
    return {"ORT_DISABLE_TELEMETRY": "1", **os.environ}


def check_numpy() -> None:
    installed = version("numpy")
    if int(installed.split(".")[0]) >= 2:
        raise Unservable(
            f"numpy {installed} is installed, but Triton's python backend silently corrupts tensors with numpy 2. "
            "Install an older one with `pip install 'numpy<2'`."
        )


def _pytriton(root: Path) -> Triton:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / running / "triton_python_backend_stub"
    if not stub.is_file():
        built = ", ".join(sorted(folder.name for folder in stub.parents[1].glob("3.*")))
        raise Unservable(
            f"this is Python {running}, and nvidia-pytriton's python backend is built for {built}. "
            "Use one of those to create the environment."
        )
    backend = root / "backends" / "python"
    libraries = [root.parents[1] / "nvidia_pytriton.libs", libpython().parent]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    environment = {
        **_environment(),
        # The stub embeds the `python3` that it finds first.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *([inherited] if inherited else [])]),
    }
    links = {"triton_python_backend_stub": stub}
    links.update({file.name: file for file in backend.iterdir() if file.is_file()})
    return Triton(root / "bin" / "tritonserver", environment, links=links)


def libpython() -> Path:
    """The shared library of the running Python, which the python backend links against.

    Raises
    ------
    Unservable
        This Python was installed without it.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{running}.so.1.0"
    folders = _library_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise Unservable(
        f"{name} is missing: Triton's python backend needs Python's shared library, looked for in "
        f"{', '.join(map(str, folders))}. On Debian or Ubuntu: `apt-get install libpython{running}`; "
        "with pyenv: build Python with PYTHON_CONFIGURE_OPTS=--enable-shared."
    )


def _library_folders() -> list[Path]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    return [
        Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix),
        Path(sys.base_prefix) / "lib",
        Path("/usr/lib") / multiarch,
        Path("/usr/local/lib"),
    ]
