"""Compiled functions are kept somewhere, or somebody is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bertopic_engine
import pytest


def test_nowhere_to_keep_compiled_code_is_named(tmp_path: Path) -> None:
    shutil.copytree(
        Path(bertopic_engine.__file__).parent,
        tmp_path / "bertopic_engine",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    namespace = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-c"]
    if subprocess.run([*namespace, "mount -o remount,bind,ro /"], capture_output=True).returncode:
        pytest.skip("a read-only file system takes the right to have one")
    read_only = 'mount -o remount,bind,ro / && exec "$@"'
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [*namespace, read_only, "sh", sys.executable, "-c", "import bertopic_engine"],
        env={**variables, "PYTHONPATH": str(tmp_path), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert "Set NUMBA_CACHE_DIR" in done.stderr
