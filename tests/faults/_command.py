"""`bertopic-inference` as an operator starts it, with less of the machine than usual."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from bertopic_server import Address

COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))
# Without the rights by which root passes over the modes of files.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
# With file systems of its own.
_NAMESPACE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")


class Serving(NamedTuple):
    """A `serve` that runs."""

    process: subprocess.Popen[str]
    address: Address


def mounting(folder: Path, size: str) -> tuple[str, ...]:
    """Before a command, gives it a memory of `size` in the place of a folder; skips where that is not allowed."""
    script = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "$@"'
    prefix = (*_NAMESPACE, "sh", "-c", script, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("a folder of its own size takes the right to mount")
    return prefix


def failing(*arguments: str | Path, prefix: Sequence[str] = ()) -> str:
    """What a command says that ends with a sentence and an exit code."""
    done = subprocess.run(
        [*prefix, COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=_environment()
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "error: " in said
    return said


@contextmanager
def serving(repository: Path, *, prefix: Sequence[str] = ()) -> Iterator[Serving]:
    """A `serve` that is ready; it must end in order."""
    address = Address.on_free_ports()
    ports = {"http": address.http_port, "grpc": address.grpc_port, "metrics": address.metrics_port}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*prefix, COMMAND, "serve", str(repository), *(f"--{name}-port={port}" for name, port in ports.items())],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(),
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("curl"):
                    break
            else:
                said.seek(0)
                pytest.fail(f"serve ended: {said.read()}")
            yield Serving(process, address)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def _environment() -> dict[str, str]:
    # A repository must not be written to even by a Python that writes its bytecode beside every source.
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
