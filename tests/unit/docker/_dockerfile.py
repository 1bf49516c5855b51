"""What a Dockerfile says, as far as the tests ask."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sysconfig
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[3]


def program(name: str) -> str | None:
    """Where a program is that pip installs, if it is there."""
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]))


class Stage:
    """One stage of a Dockerfile with all that it is built on.

    Parameters
    ----------
    dockerfile : str
        Its name in docker/.
    name : str
    """

    def __init__(self, dockerfile: str, name: str) -> None:
        lines = [line for line in (ROOT / "docker" / dockerfile).read_text().splitlines() if not line.startswith("#")]
        whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
        self._instructions = _of_stage([line.split(None, 1) for line in whole.splitlines() if line], name)

    @cached_property
    def base(self) -> str:
        """The image that the first stage is built on."""
        return self.all("FROM")[0].split()[0]

    @cached_property
    def environment(self) -> dict[str, str]:
        """What ENV sets; $PATH stands for that of the base image."""
        return dict(word.split("=", 1) for line in self.all("ENV") for word in shlex.split(line))

    @cached_property
    def arguments(self) -> dict[str, str]:
        """The default of each ARG that has one."""
        return dict(line.split("=", 1) for line in self.all("ARG") if "=" in line)

    @cached_property
    def copies(self) -> list[tuple[str, str]]:
        """What is copied from the build context, and to where below the working folder."""
        found = [line.split() for line in self.all("COPY") if not line.startswith("--from")]
        return [(source, words[-1]) for words in found for source in words[:-1]]

    @cached_property
    def command(self) -> list[str]:
        """What a container of it runs."""
        return [*self.words("ENTRYPOINT"), *self.words("CMD")]

    def all(self, keyword: str) -> list[str]:
        """The arguments of each instruction of a kind, in order."""
        return [rest for found, rest in self._instructions if found == keyword]

    def words(self, keyword: str) -> list[str]:
        """The words of the last instruction of a kind that is given as a list of them."""
        words: list[str] = json.loads("[" + self.all(keyword)[-1].partition("[")[2])
        return words


def _of_stage(instructions: list[list[str]], name: str) -> list[tuple[str, str]]:
    starts = [i for i, (keyword, _) in enumerate(instructions) if keyword == "FROM"]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        base, _, found = instructions[start][1].split()
        if found == name:
            own = [(keyword, rest) for keyword, rest in instructions[start:end]]
            return own if ":" in base else [*_of_stage(instructions, base), *own[1:]]
    raise AssertionError(f"no stage {name!r}")
