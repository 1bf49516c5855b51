"""Room for the answers that wait inside tritonserver.

Triton's HTTP front hands each answer to one of its threads through a pair of connected sockets, without looking whether
it fitted: past some 280 answers waiting for one thread, which on Linux fill a socket's usual buffer, answers are lost
and their clients wait for ever. gRPC is not affected. The buffers of a running process can be enlarged from outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

_SYS_PIDFD_GETFD = 438
_SO_SNDBUFFORCE = 32
_WANTED_BYTES = 16 << 20
# What one answer takes up in the kernel's accounts.
_BYTES_AN_ANSWER = 768


def make_room_for_answers(pid: int) -> int:
    """Enlarge the local sockets' send buffers of a process, as far as its user may.

    Parameters
    ----------
    pid : int
        A tritonserver that is ready, of the same user.

    Returns
    -------
    int
        How many answers each thread of its HTTP front can have waiting now.
    """
    smallest = _WANTED_BYTES
    try:
        process = os.pidfd_open(pid)
        try:
            for descriptor in _sockets(pid):
                smallest = min(smallest, _enlarge(process, descriptor))
        finally:
            os.close(process)
    except OSError:
        with socket.socket(socket.AF_UNIX) as usual:
            smallest = usual.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return smallest // _BYTES_AN_ANSWER


def _sockets(pid: int) -> list[int]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if str(entry.readlink()).startswith("socket:"):
                found.append(int(entry.name))
    return found


def _enlarge(process: int, descriptor: int) -> int:
    """The bytes that a socket's send buffer has now; those of other kinds of socket do not matter."""
    libc = ctypes.CDLL(None, use_errno=True)
    duplicate = libc.syscall(_SYS_PIDFD_GETFD, process, descriptor, 0)
    if duplicate < 0:
        if ctypes.get_errno() == errno.EBADF:  # closed meanwhile
            return _WANTED_BYTES
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with socket.socket(fileno=duplicate) as found:
        if found.family != socket.AF_UNIX:
            return _WANTED_BYTES
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WANTED_BYTES)
        with suppress(PermissionError):  # beyond the system's maximum, for administrators only
            found.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _WANTED_BYTES)
        return found.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
