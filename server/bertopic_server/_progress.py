"""Progress for people: a line for each step, a bar where the end is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str], None]]:
    """A function to call with the name of each step; the step before it is then done."""
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        current = None

        def begin(step: str) -> None:
            nonlocal current
            if current is not None:
                progress.update(current, total=1, completed=1)
            current = progress.add_task(step, total=None)

        yield begin
        if current is not None:
            progress.update(current, total=1, completed=1)


def bar(console: Console) -> Progress:
    """Progress with a known end."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def tracked(items: Sequence[T], what: str, console: Console) -> Iterator[T]:
    """The items, with a bar."""
    with bar(console) as progress:
        yield from progress.track(items, description=what)


@contextmanager
def rows_bar(console: Console, what: str, *, has_end: bool) -> Iterator[Callable[[int, float | None], None]]:
    """A function to call with how many rows are done, and which part of all they are (None without `has_end`).

    Shows the rate and, where the end is known, the time that remains.
    """
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        _RowsColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=1.0 if has_end else None, rows=0)
        shown, last_rows, last_part = 0.0, 0, 0.0

        def show() -> None:
            progress.update(bar, completed=last_part if has_end else last_rows, rows=last_rows)

        def advance(rows: int, part: float | None) -> None:
            nonlocal shown, last_rows, last_part
            last_rows, last_part = rows, part or 0.0
            # Answers come in bursts: the last row of one should be seen too.
            if rows % 64 == 0 or time.monotonic() - shown > 0.1:
                shown = time.monotonic()
                show()

        try:
            yield advance
        finally:
            show()
        progress.update(bar, total=progress.tasks[bar].completed)


class _RowsColumn(ProgressColumn):
    """How many rows are done, and how many a second."""

    def render(self, task: Task) -> Text:
        rows, speed = task.fields["rows"], task.finished_speed or task.speed
        rate = f", {speed * rows / task.completed:,.0f}/s" if speed and task.completed else ""
        return Text(f"{rows:,} rows{rate}")
