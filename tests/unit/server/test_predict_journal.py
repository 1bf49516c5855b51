"""What a killed process leaves of a journal is usable up to its last whole line."""

from __future__ import annotations

from pathlib import Path

import pytest
from bertopic_server._journal import Journal, JournalRefused, Outcome
from bertopic_server._writers import Answer

SETTINGS = {"column": "text", "input": [10, 20]}
OUTCOMES: list[Outcome] = [Answer(3, "3_é", 0.25), "The text is null.", Answer(-1, "-1_a", 0.0)]


def opened(path: Path, *, resume: bool = True, force: bool = False, **settings: object) -> Journal:
    return Journal(path, {**SETTINGS, **settings}, resume=resume, force=force)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "out.partial"
    with opened(path) as journal:
        for outcome in OUTCOMES:
            journal.append(outcome)
    return path


def test_outcomes_are_kept_in_order(path: Path) -> None:
    with opened(path) as journal:
        assert list(journal) == OUTCOMES
        assert (journal.n_rows, journal.n_failed) == (3, 1)


def test_cut_off_at_any_byte_it_is_gone_on_with(path: Path) -> None:
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        whole = max(0, data[:cut].count(b"\n") - 1)
        with opened(path) as journal:
            assert journal.n_rows == whole
            for outcome in OUTCOMES[whole:]:
                journal.append(outcome)
        assert path.read_bytes() == data


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\0" * 40 + b"\n", b'{"a": 1}\n', b"[1]\n"], ids=repr)
def test_damaged_lines_and_those_after_them_are_dropped(path: Path, damage: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data + damage + b'"after"\n')
    with opened(path) as journal:
        assert journal.n_rows == 3
    assert path.read_bytes() == data


@pytest.mark.parametrize(("name", "value"), [("column", "body"), ("input", [11, 20])])
def test_other_settings_are_refused_by_name(path: Path, name: str, value: object) -> None:
    data = path.read_bytes()
    with pytest.raises(JournalRefused, match=f"another {name}"):
        opened(path, **{name: value})
    assert path.read_bytes() == data


@pytest.mark.parametrize("data", [b"some notes", b"some notes\n", b"[1]\n", b"\0" * 100], ids=repr)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "out.partial"
    path.write_bytes(data)
    with pytest.raises(JournalRefused, match="not of a run"):
        opened(path)
    assert path.read_bytes() == data


def test_an_interrupted_run_is_not_started_over_by_accident(path: Path) -> None:
    with pytest.raises(JournalRefused, match=r"--resume .*--force"):
        opened(path, resume=False)
    with opened(path, resume=False, force=True) as journal:
        assert list(journal) == []


def test_two_processes_do_not_write_one_journal(path: Path) -> None:
    with opened(path), pytest.raises(JournalRefused, match="Another process"):
        opened(path)
