"""All texts of a file at once, for what needs them together."""

from __future__ import annotations

from pathlib import Path

from ._tables import Format, Source, UnreadableTexts


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts of a `.txt` (one a line), `.jsonl`, `.csv` or `.parquet` file (field `column`).

    Raises
    ------
    UnreadableTexts
        Names the file, the line and what was expected there.
    """
    texts = []
    with Source(path, Format.of(path, None), column).open() as table:
        for row, record in enumerate(table, start=1):
            if not isinstance(record.asked, str):
                place = f"row {row}" if record.line is None else f"line {record.line}"
                raise UnreadableTexts(f"{path}, {place} has no text. {record.problem}")
            texts.append(record.asked)
    return texts
