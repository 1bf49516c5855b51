"""The model repository that Triton sees: configs of its own, and links to the files of converted repositories.

A converted repository is one version of every model in it. The folders that `convert` wrote are only read.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from ._models import keeps_previous

_VERSION_POLICY = re.compile(r"^\s*version_policy\b", re.MULTILINE)


class Workspace:
    """A temporary folder with a model repository, between `create` and `remove`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()).resolve() / f"bertopic-inference-{secrets.token_hex(8)}"
        self.backends = self._folder / "backends"
        self.models = self._folder / "models"

    def create(self) -> None:
        """Make the folder, for this user alone."""
        self._folder.mkdir(mode=0o700)

    def place(self, model: str, repository: Path, version: int) -> None:
        """Make what `repository` holds of a model one of its versions, and its config the one for all versions."""
        folder = self.models / model / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        # Links to files, not to their folder: python writes its cache beside the link.
        for file in (repository / model / "1").iterdir():
            if file.name != "__pycache__" and not (folder / file.name).is_symlink():
                (folder / file.name).symlink_to(file)
        config = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        if keeps_previous(model) and not _VERSION_POLICY.search(config):
            config += "\nversion_policy { latest { num_versions: 2 } }\n"
        (self.models / model / "config.pbtxt").write_text(config, encoding="utf-8")

    def withdraw(self, model: str, version: int) -> None:
        """Take a version of a model away, if it is there."""
        shutil.rmtree(self.models / model / str(version), ignore_errors=True)

    def keep(self, model: str, versions: Collection[int]) -> None:
        """Take all other versions of a model away."""
        for folder in (self.models / model).iterdir():
            if folder.is_dir() and int(folder.name) not in versions:
                self.withdraw(model, int(folder.name))

    def touch(self, model: str, version: int) -> None:
        """Make a version look changed, without which Triton does not load it again."""
        (self.models / model / str(version)).touch()

    def is_python(self, model: str) -> bool:
        """Whether a process of its own runs the model."""
        return any((self.models / model).glob("*/model.py"))

    def missing_file(self) -> Path | None:
        """A file that was placed here, and is no longer where it was."""
        links = (path for path in self.models.glob("*/*/*") if path.is_symlink() and not path.exists())
        return next((link.readlink() for link in links), None)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
