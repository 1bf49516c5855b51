"""Answers as they come, on disk in a form that survives a process killed in the middle of a write.

One line of JSON holds the settings of the run, then one line each record, in order: an answer as
`[topic, label, probability]`, or the reason why there is none as a string. A write that was cut off leaves
a last line without its end, a machine that lost power perhaps lines of zeros; both are dropped when the
journal is opened again, and their records are asked about once more.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

from ._exceptions import ServerError
from ._writers import Answer

Outcome: TypeAlias = Answer | str
"""An answer, or why there is none."""

# A process that is killed loses nothing that was written; a machine that loses power, what was not synced.
_SECONDS_BETWEEN_SYNCS = 5.0


class JournalRefused(ServerError):
    """A journal that cannot be gone on with as asked."""


class Journal:
    """The outcomes of a run that was begun, or is gone on with; closes with its `with` block.

    Parameters
    ----------
    path : path
    settings : mapping of str to JSON value
        What must be the same for outcomes of two runs to belong together.
    resume : bool
        Go on with what is there; else it must not exist, or is started over if `force`.

    Raises
    ------
    JournalRefused
        It holds outcomes of other settings, or another process is writing it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        self.path = path
        self.settings = settings
        self.n_rows = self.n_failed = 0
        if path.exists() and not (resume or force):
            raise JournalRefused(
                f"{path} holds the answers of a run that was interrupted. Give --resume to go on with it, "
                "or --force to start over."
            )
        self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            self._lock()
            end = self._sound_end() if resume else 0
            self._file.truncate(end)
            if end == 0:
                self._write(settings)
            self._sync()
        except BaseException:
            self._file.close()
            raise

    def append(self, outcome: Outcome) -> None:
        """Keep the outcome of the next record."""
        self._write(outcome)
        self._count(outcome)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self._sync()

    def __iter__(self) -> Iterator[Outcome]:
        """All outcomes, from the first."""
        with self.path.open("rb") as lines:
            next(lines, None)
            for line in lines:
                yield _outcome(line)

    def remove(self) -> None:
        """Delete it: its outcomes are elsewhere, or of no use."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, value: Outcome | Mapping[str, Any]) -> None:
        data = memoryview(_line(value))
        while data:
            data = data[os.write(self._file.fileno(), data) :]

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalRefused(f"Another process is writing {self.path}. Wait for it, or stop it first.") from error

    def _sound_end(self) -> int:
        """Where the last sound line ends; 0 if not even the settings were written."""
        with self.path.open("rb") as lines:
            begun_with = next(lines, b"")
            if _line(self.settings).startswith(begun_with) and not begun_with.endswith(b"\n"):
                return 0
            self._require_same(begun_with)
            end = len(begun_with)
            for line in lines:
                try:
                    self._count(_outcome(line))
                except ValueError:
                    break
                end += len(line)
        return end

    def _require_same(self, line: bytes) -> None:
        try:
            begun_with = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise JournalRefused(
                f"{self.path} is not of a run of this program. Move it away, or give --force."
            ) from error
        for name, now in self.settings.items():
            if begun_with.get(name) != now:
                raise JournalRefused(
                    f"{self.path} was begun with another {name} ({_short(begun_with.get(name))}, now {_short(now)}): "
                    "its answers and new ones do not belong together. Go back to what it was, or start over with "
                    "--force."
                )

    def _count(self, outcome: Outcome) -> None:
        self.n_rows += 1
        self.n_failed += isinstance(outcome, str)


def _line(value: Outcome | Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _outcome(line: bytes) -> Outcome:
    if not line.endswith(b"\n"):
        raise ValueError("a line without its end")
    value = json.loads(line)
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != len(Answer._fields):
        raise ValueError("neither an answer nor a reason")
    return Answer(*value)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
