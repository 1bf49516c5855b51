"""Topics for a whole file: every record is asked about once, and written with its answer, in order.

From a file into a file, outcomes are kept in a journal beside the output as they come, and the output is put
together from the input and the journal once all are there: an interruption costs at most what the journal had
not seen. To or from a stream, records are written as their answers come.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.markup import escape

from ._exceptions import ServerError
from ._journal import Journal, Outcome
from ._progress import rows_bar
from ._tables import STANDARD_STREAM, Format, Record, Source, Table, UnreadableTexts
from ._writers import NO_ANSWER, Answer, lay_out, open_writer

if TYPE_CHECKING:
    from bertopic_client import InvalidInput, TopicClient

# A run of hours need not come to its end before it is found to be in vain.
_SECONDS_BETWEEN_CHECKS = 30.0


class RefusedOutput(ServerError):
    """An output that is there already, or cannot be what was asked for."""


class PredictionStopped(ServerError):
    """A file could not be read or written any further."""


class ModelReplaced(ServerError):
    """Another model answered towards the end than at the beginning."""


class Counts(NamedTuple):
    """How many records there were, and how many of them have no answer."""

    n_rows: int
    n_failed: int


@dataclass(frozen=True)
class Target:
    """Where records go with their answers."""

    path: Path
    format: Format

    @property
    def replaceable(self) -> bool:
        """Whether it can be put in place when complete; a pipe or a device is written as answers come."""
        return self.path != STANDARD_STREAM and (self.path.is_file() or not self.path.exists())

    @property
    def journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def errors(self) -> Path:
        """The report of the records that have no answer."""
        return self.path.with_name(f"{self.path.name}.errors.jsonl")


def plan(
    file: Path, out: Path, column: str, embeddings: str | None, prefix: str, form: Format | None
) -> tuple[Source, Target]:
    """What to read and what to write; `form` is the format of streams and of names that do not tell.

    Raises
    ------
    UnreadableTexts
        A format is unknown.
    """
    if file == STANDARD_STREAM:
        form = form or Format.jsonl
    added = tuple(f"{prefix}{field}" for field in Answer._fields)
    source = Source(file, Format.of(file, form), embeddings or column, embeddings is not None, added)
    return source, Target(out, Format.of(out, form or source.format))


def predict_file(
    client: TopicClient, model: str, source: Source, target: Target, *, resume: bool, force: bool, console: Console
) -> int:
    """Write every record of `source` to `target` with its topic, label and probability.

    A record without an answer is written with nulls, and reported with the reason.

    Parameters
    ----------
    client : TopicClient
    model : str
        The name that `client` asks for.
    source, target : Source, Target
    resume : bool
        Go on where an interrupted run stopped, if there was one.
    force : bool
        Start over, and replace what is there.
    console : Console
        Where progress is shown.

    Returns
    -------
    int
        How many records have no answer.

    Raises
    ------
    ServerError
        Input that cannot be read, output that is refused or cannot be written, a model replaced meanwhile.
    TopicClientError
        The server was away for longer than the client waits.
    BrokenPipeError
        Nobody reads the output any more.
    """
    try:
        if _is_complete(source, target, resume=resume, force=force):
            console.print(escape(f"{target.path} is complete already."), highlight=False)
            return _n_reported(target)
        layout = lay_out(source, target.format)
        if not (target.replaceable and source.replayable):
            counts = _as_they_come(client, source, target, layout, console)
        else:
            journal = Journal(target.journal, _settings(client, model, source), resume=resume, force=force)
            counts = _by_journal(client, source, target, layout, journal, console)
    except (ConnectionError, TimeoutError):  # the client's, or a pipe that nobody reads
        raise
    except OSError as error:
        raise PredictionStopped(f"{error.filename or target.path}: {error.strerror or error}.") from error
    _tell(counts, target, console)
    return counts.n_failed


def _is_complete(source: Source, target: Target, *, resume: bool, force: bool) -> bool:
    """Whether there is nothing left to resume."""
    if not target.replaceable or not target.path.exists():
        return False
    if source.replayable and target.path.samefile(source.path):
        raise RefusedOutput(f"{target.path} is the input. Give another --out.")
    # Whoever began the journal was allowed to replace what is there.
    if force or target.journal.exists():
        return False
    if resume and source.replayable and target.path.stat().st_mtime_ns >= source.path.stat().st_mtime_ns:
        return True
    raise RefusedOutput(f"{target.path} exists. Give --force to replace it, or another --out.")


def _as_they_come(client: TopicClient, source: Source, target: Target, layout: Any, console: Console) -> Counts:
    with source.open() as table:
        outcomes = _ask(client, table, _fingerprint(client))
        return _write(outcomes, table, target, layout, console, "Predicting")


def _by_journal(
    client: TopicClient, source: Source, target: Target, layout: Any, journal: Journal, console: Console
) -> Counts:
    with journal:
        try:
            _ask_all(client, source, journal, console)
            with source.open() as table:
                counts = _write(_together(table, journal), table, target, layout, console, "Writing")
        except BaseException as error:
            if journal.n_rows == journal.n_failed:
                journal.remove()
            elif not isinstance(error, ModelReplaced):
                kept = f"{journal.n_rows:,} rows are kept in {journal.path}: go on with --resume."
                console.print(escape(kept), highlight=False, soft_wrap=True)
            raise
        journal.remove()
    return counts


def _ask_all(client: TopicClient, source: Source, journal: Journal, console: Console) -> None:
    """Ask about every record that the journal has no outcome of."""
    with source.open(whole=False) as table, _bar(table, "Predicting", console) as advance:
        records = iter(table)
        deque(islice(records, journal.n_rows), maxlen=0)
        advance(journal.n_rows, table.part_read())
        for _, outcome in _ask(client, records, journal.settings["model"]):
            journal.append(outcome)
            advance(journal.n_rows, table.part_read())


def _ask(client: TopicClient, records: Iterable[Record], model: str) -> Iterator[tuple[Record, Outcome]]:
    """Every record with its outcome, in order, from the one model with that fingerprint."""
    from bertopic_client import InvalidInput

    waiting: deque[Record] = deque()

    def questions() -> Iterator[Any]:
        for record in records:
            waiting.append(record)
            # What cannot be asked comes back refused, in its place.
            yield record.asked

    checked = time.monotonic()
    for answer in client.predict_stream(questions(), on_error="return"):
        if time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
            _require_model(client, model)
            checked = time.monotonic()
        record = waiting.popleft()
        if isinstance(answer, InvalidInput):
            yield record, record.problem or _reason(answer)
        else:
            yield record, Answer(answer.topic, answer.label, round(answer.probability, 6))
    _require_model(client, model)


def _together(table: Table, journal: Journal) -> Iterator[tuple[Record, Outcome]]:
    yield from zip(table, journal, strict=False)
    if _identity(table.source) != journal.settings["input"]:
        raise UnreadableTexts(f"{table.source.path} was changed while it was read. Start over with --force.")


def _write(
    outcomes: Iterable[tuple[Record, Outcome]], table: Table, target: Target, layout: Any, console: Console, what: str
) -> Counts:
    n_rows = n_failed = 0
    with ExitStack() as stack, _bar(table, what, console) as advance:
        writer = open_writer(target.format, table, stack.enter_context(_opened(target.path)), layout)
        for record, outcome in outcomes:
            n_rows += 1
            answer = NO_ANSWER if isinstance(outcome, str) else outcome
            if isinstance(outcome, str):
                n_failed += 1
                place = {"row": n_rows} if record.line is None else {"row": n_rows, "line": record.line}
                report = json.dumps({**place, "reason": outcome}, ensure_ascii=False)
                if not target.replaceable:
                    console.print(escape(report), highlight=False, soft_wrap=True)
                else:
                    if n_failed == 1:
                        errors = stack.enter_context(_opened(target.errors))
                    errors.write(report.encode("utf-8", "backslashreplace") + b"\n")
            writer.write(record, answer)
            advance(n_rows, table.part_read())
        writer.finish()
    if target.replaceable and not n_failed:
        target.errors.unlink(missing_ok=True)
    return Counts(n_rows, n_failed)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to write; a regular one appears under its name once it is complete."""
    with ExitStack() as stack:
        if path == STANDARD_STREAM:
            file: BinaryIO = sys.stdout.buffer
        elif path.exists() and not path.is_file():  # a pipe, a device
            file = stack.enter_context(path.open("wb"))
        else:
            file = stack.enter_context(_put_in_place(path.resolve()))
        if path.suffix != ".gz":
            yield file
        else:
            # Neither name nor time: equal contents are equal files.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        file.flush()


@contextmanager
def _put_in_place(path: Path) -> Iterator[BinaryIO]:
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _bar(table: Table, what: str, console: Console) -> AbstractContextManager[Callable[[int, float | None], None]]:
    return rows_bar(console, what, has_end=table.part_read() is not None)


def _settings(client: TopicClient, model: str, source: Source) -> dict[str, Any]:
    return {
        "input": _identity(source),
        "format": source.format.value,
        "column": source.column,
        "kind of input": "embeddings" if source.embeddings else "text",
        "name": model,
        "model": _fingerprint(client),
    }


def _identity(source: Source) -> list[int]:
    status = source.path.stat()
    return [status.st_size, status.st_mtime_ns]


def _require_model(client: TopicClient, fingerprint: str) -> None:
    if _fingerprint(client) != fingerprint:
        raise ModelReplaced("The model was replaced during the run: the answers are of two. Start over with --force.")


def _fingerprint(client: TopicClient) -> str:
    """What tells a model from its retrained successor: its topics, with labels, keywords and sizes."""
    return hashlib.sha256(json.dumps(client.topics()).encode()).hexdigest()


def _reason(error: InvalidInput) -> str:
    """What the server said of a row, less where it was asked and the row's number there."""
    said = re.sub(r"^.* refused( rows? \d+( to \d+)?)?: ", "", str(error), count=1)
    said = re.sub(rf"\brow {error.row}( of the embeddings)?\b", "the row", said)
    return said[:1].upper() + said[1:]


def _n_reported(target: Target) -> int:
    if not target.errors.is_file():
        return 0
    with target.errors.open("rb") as lines:
        return sum(1 for _ in lines)


def _tell(counts: Counts, target: Target, console: Console) -> None:
    where = "standard output" if target.path == STANDARD_STREAM else str(target.path)
    failed = f", {counts.n_failed:,} of them without an answer" if counts.n_failed else ""
    why = f": see {target.errors}" if counts.n_failed and target.replaceable else ""
    console.print(escape(f"{counts.n_rows:,} rows -> {where}{failed}{why}."), highlight=False, soft_wrap=True)
