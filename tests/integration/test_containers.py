"""The command of docker/Dockerfile.cpu over the pip tritonserver, with what a container of compose.yaml would have.

That is: the image's environment and nothing else, a file system to read and few places to write, a network of its own,
no rights, and none of what only converting needs. What is not like a container: the user is who runs the tests, and
system calls are not filtered.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bertopic_engine
import numpy as np
import pytest
import yaml

from ..unit.docker._dockerfile import ROOT, Stage

IMAGE = Stage("Dockerfile.cpu", "serve")
SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["serve"]
# Refused to whoever asks for them, as if they were not installed.
REFUSAL = """
import sys

FOR_CONVERTING = "torch bertopic umap hdbscan sklearn scipy pandas sentence_transformers transformers onnx matplotlib"

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FOR_CONVERTING.split():
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
"""
# Brings up the loopback interface, by the calls that `ip link set lo up` makes.
LOOPBACK = (
    "import fcntl, socket; fcntl.ioctl(socket.socket(), 0x8914, b'lo'.ljust(16, b'\\0') + b'\\x49'.ljust(16, b'\\0'))"
)
ENTER = """
set -e
"$PYTHON" -c "$LOOPBACK"
mount -t tmpfs -o "noexec,nosuid,nodev,size=$SHM" shm /dev/shm
for folder in /tmp "$CACHE" "$PREFIX" "$MODELS"; do mount --rbind "$folder" "$folder"; done
for folder in / "$PREFIX" "$MODELS"; do mount -o remount,bind,ro "$folder"; done
mount -t tmpfs -o "noexec,nosuid,nodev,size=$TMP_SIZE" tmp "$TMP"
cd /
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all env -i "$@"
"""
NAMESPACES = ("unshare", "--mount", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)))
PREDICT = """
import json, sys
import numpy as np
from bertopic_client import TopicClient

given = json.load(sys.stdin)
with TopicClient("grpc://127.0.0.1:8001") as grpc, TopicClient("http://127.0.0.1:8000") as http:
    answers = grpc.predict(np.array(given["embeddings"], np.float32)), http.predict(given["texts"])
json.dump([answer.topics.tolist() for answer in answers], sys.stdout)
"""


class Container(NamedTuple):
    """What runs the image's command."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    folder: Path

    def run(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command within it, as `docker exec` does."""
        within = ["nsenter", f"--target={self.process.pid}", "--mount", "--net"]
        if os.geteuid() != 0:
            within += ["--user", "--preserve-credentials"]
        variables = (f"{name}={value}" for name, value in self.environment.items())
        return subprocess.run(
            [*within, "env", "-i", *variables, *command], input=given, capture_output=True, text=True, timeout=60
        )

    @property
    def is_healthy(self) -> bool:
        return self.run(*IMAGE.words("HEALTHCHECK")).returncode == 0


def environment_of_image(folder: Path) -> dict[str, str]:
    """What ENV says, with this environment in the place of the image's."""
    places = {
        "/opt/venv": sys.prefix,
        "$PATH": os.defpath,
        SERVICE["volumes"][1].partition(":")[2]: str(folder / "cache"),
    }
    variables = dict(IMAGE.environment)
    for name, value in variables.items():
        for place, here in places.items():
            value = value.replace(place, here)
        variables[name] = value
    return variables | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(folder / "refusal")}


def share_compiled_code(environment: dict[str, str]) -> None:
    """Have what numba compiled for other tests where the image keeps it, rather than wait for it again."""
    ask = "from bertopic_engine import _fuzzy; print(_fuzzy.fill_start.stats.cache_path)"
    run = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    source = Path(bertopic_engine.__file__).parent / "__pycache__"
    shutil.copytree(source, run.stdout.strip(), dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pyc"))


@pytest.fixture(scope="module")
def container(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    if subprocess.run([*NAMESPACES, "mount", "-o", "remount,bind,ro", "/"], capture_output=True).returncode:
        pytest.skip("a file system and a network of its own take the right to have them")
    folder = tmp_path_factory.mktemp("container")
    for name in ("cache", "tmp", "refusal"):
        (folder / name).mkdir()
    (folder / "refusal" / "sitecustomize.py").write_text(REFUSAL)
    environment = environment_of_image(folder)
    share_compiled_code(environment)
    (tmpfs,) = SERVICE["tmpfs"]
    setting = {
        "PYTHON": sys.executable,
        "PREFIX": sys.prefix,
        "LOOPBACK": LOOPBACK,
        "MODELS": str(repository),
        "CACHE": str(folder / "cache"),
        "TMP": str(folder / "tmp"),
        "TMP_SIZE": tmpfs.partition("size=")[2],
        "SHM": SERVICE["shm_size"].removesuffix("b"),
    }
    command = [str(repository) if word == SERVICE["volumes"][0]["target"] else word for word in IMAGE.command]
    variables = (f"{name}={value}" for name, value in environment.items())
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-c", ENTER, "sh", *variables, *command],
            env=os.environ | setting,
            stdout=said,
            stderr=said,
            text=True,
        )
        found = Container(process, environment, folder)
        try:
            deadline = time.monotonic() + 120
            while not found.is_healthy:
                assert process.poll() is None, (folder / "said").read_text()
                assert time.monotonic() < deadline, (folder / "said").read_text()
                time.sleep(0.5)
            yield found
        finally:
            process.terminate()
            process.wait(60)


def test_it_answers_on_every_interface_as_the_engine_does(container: Container, repository: Path, trained: Any) -> None:
    embeddings = trained.embeddings[:50]
    given = json.dumps({"embeddings": embeddings.tolist(), "texts": trained.texts[:50]})
    assert "No module named 'torch'" in container.run("python3", "-c", "import torch").stderr
    done = container.run("python3", "-c", PREDICT, given=given)
    assert done.returncode == 0, done.stderr
    expected, _ = bertopic_engine.load(repository).predict(np.asarray(embeddings))
    assert json.loads(done.stdout) == [expected.tolist()] * 2
    listening = "".join(Path(f"/proc/{container.process.pid}/net/{file}").read_text() for file in ("tcp", "tcp6"))
    for port in IMAGE.all("EXPOSE")[-1].split():
        assert re.search(rf": 0{{8,32}}:{int(port):04X} ", listening), port


def test_nothing_can_be_written_but_where_the_image_says(container: Container, repository: Path) -> None:
    for folder in ("/", str(repository), sys.prefix):
        done = container.run("python3", "-c", f"open({folder + '/written'!r}, 'w')")
        assert "Read-only file system" in done.stderr, folder
    written = [path for path in container.folder.rglob("*") if path.is_file()]
    assert {path.relative_to(container.folder).parts[0] for path in written} == {"said", "cache", "refusal"}
    assert {path.relative_to(container.folder / "cache").parts[0] for path in written if "cache" in path.parts} == {
        "numba"
    }


def test_it_ends_in_the_time_that_it_is_given(container: Container) -> None:
    """The last test: nothing answers after it."""
    grace = float(SERVICE["stop_grace_period"].removesuffix("s"))
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(grace) == 0
    assert "Answering what is in flight" in (container.folder / "said").read_text()
