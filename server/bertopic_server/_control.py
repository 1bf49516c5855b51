"""How `bertopic-inference reload` reaches the `serve` of the same user: a Unix socket named by the HTTP port."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._exceptions import NotServing, ReloadFailed, ServerError

Progress = Callable[[str], None]


def socket_path(http_port: int) -> Path:
    """Where the socket of the `serve` at an HTTP port is, in a folder that only this user can enter.

    Raises
    ------
    ServerError
        Somebody else made the folder, or opened it to others.
    """
    folder = Path(tempfile.gettempdir()) / f"bertopic-inference-of-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ServerError(
            f"{folder} should be a folder that belongs to this user alone (mode 700), and is not. Remove it."
        )
    return folder / f"{http_port}.sock"


class Control:
    """Listens for requests to reload.

    Parameters
    ----------
    http_port : int
        Names the socket.
    reload : callable
        Takes a folder or None, and a function to tell each step; returns what was put in place.
    """

    def __init__(self, http_port: int, reload: Callable[[str | None, Progress], str]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    folder = json.loads(self.rfile.readline())["reload"]
                    self._say("done", reload(folder, lambda step: self._say("step", step)))
                except (ServerError, OSError) as error:
                    self._say("error", str(error))

            def _say(self, kind: str, text: str) -> None:
                try:
                    self.wfile.write(json.dumps({kind: text}).encode() + b"\n")
                except OSError:
                    return  # whoever asked is gone, and what was begun goes on

        self._path = socket_path(http_port)
        # Left by one that was killed: the HTTP port is this server's now.
        self._path.unlink(missing_ok=True)
        self._server = _Server(str(self._path), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def request_reload(http_port: int, folder: Path | None, progress: Progress) -> str:
    """Ask the `serve` at an HTTP port of this machine to put a model in place, and wait until it has.

    Parameters
    ----------
    http_port : int
    folder : Path, optional
        What `convert` wrote; by default the folder that is served, read again.
    progress : callable
        Called with each step.

    Returns
    -------
    str
        What was put in place.

    Raises
    ------
    NotServing
        No `serve` of this user has that port.
    ReloadFailed
        Says why; the old model serves on.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(socket_path(http_port)))
        except OSError as error:
            raise NotServing(
                f"no `bertopic-inference serve` of this user has HTTP port {http_port} on this machine. "
                "Start one, or give its port with --http-port."
            ) from error
        request = {"reload": None if folder is None else str(folder.expanduser().absolute())}
        connection.sendall(json.dumps(request).encode() + b"\n")
        for line in connection.makefile("rb"):
            answer: dict[str, Any] = json.loads(line)
            if "done" in answer:
                return str(answer["done"])
            if "error" in answer:
                raise ReloadFailed(str(answer["error"]))
            progress(str(answer["step"]))
    raise ReloadFailed("`serve` ended before the new model was in place.")
