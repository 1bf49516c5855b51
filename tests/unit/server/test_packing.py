"""What an archive for Triton's EXECUTION_ENV_PATH holds, and what cannot be packed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import bertopic_engine
import pytest
from bertopic_server import Unservable
from bertopic_server import _packing as packing
from bertopic_server._cli import app
from typer.testing import CliRunner

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE_PACKAGES = f"lib/python{RUNNING}/site-packages"
ENGINE = Path(bertopic_engine.__file__).parent
PACKAGES = ["bertopic_client", "bertopic_converters", "bertopic_embedder", "bertopic_engine", "bertopic_server"]

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package, as pip lays it out, where Python looks first."""
    site_packages = tmp_path / "installed" / "site-packages"
    monkeypatch.syspath_prepend(str(site_packages))

    def run(name: str, *, version: str = "1", metadata: str = "", installer: str = "pip", **files: str) -> Path:
        info = site_packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
        (info / "METADATA").write_text(described)
        (info / "INSTALLER").write_text(installer + "\n")
        for file, content in files.items():
            path = site_packages / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        listed = [f"{info.name}/METADATA", f"{info.name}/INSTALLER", *files]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))
        return info

    return run


@pytest.fixture
def small(install: Install) -> None:
    """In place of what the models need: one small package."""
    install("bertopic-inference", metadata="Provides-Extra: runtime\nRequires-Dist: small; extra == 'runtime'\n")
    install("small", **{"small/__init__.py": "number = 42", "small.pth": "import sys", "../../bin/small": "#!/bin/sh"})


@pytest.fixture
def unpacked(small: None, tmp_path: Path) -> Path:
    archive = packing.pack_environment(tmp_path / "env.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


def test_everything_for_serving_is_packed_and_nothing_for_training() -> None:
    names = {installed.metadata["Name"] for installed in packing._required("runtime")}
    assert names >= {"numpy", "numba", "onnxruntime", "tokenizers", "safetensors", "faiss-cpu", "bertopic-inference"}
    assert names.isdisjoint({"torch", "bertopic", "umap-learn", "scikit-learn", "nvidia-pytriton", "pip"})


def test_an_editable_install_of_this_project_is_packed_as_files(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    packed = unpacked / SITE_PACKAGES / "bertopic_engine"
    assert {f"{SITE_PACKAGES}/{package}/__init__.py" for package in PACKAGES} <= files
    assert (packed / "umap.py").read_bytes() == (ENGINE / "umap.py").read_bytes()
    assert f"{SITE_PACKAGES}/bertopic_inference-1.dist-info/METADATA" in files
    assert not any(file.endswith((".pyc", "_bertopic_inference.pth", "bin/small")) for file in files)


def test_what_numba_compiled_goes_along_and_stays_valid(unpacked: Path) -> None:
    packed = unpacked / SITE_PACKAGES / "bertopic_engine"
    compiled = {path.name for path in (ENGINE / "__pycache__").glob("*.nb[ic]")}
    assert {path.name for path in (packed / "__pycache__").glob("*")} == compiled
    assert (packed / "_fuzzy.py").stat().st_mtime == (ENGINE / "_fuzzy.py").stat().st_mtime


def test_a_pythons_packages_become_those_of_the_archive(unpacked: Path) -> None:
    # Triton's interpreter goes by the name `python3` without a path, too.
    code = "import json, sys, small; print(json.dumps([sys.prefix, small.number, *sys.path]))"
    script = 'source "$0/bin/activate" && exec -a python3 "$1" -c "$2"'
    interpreter = Path(sys.executable).resolve()
    environment = {**os.environ, "PYTHONHOME": "/nowhere"}
    command = ["bash", "-c", script, unpacked, interpreter, code]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prefix, number, *path = json.loads(done.stdout)
    assert (prefix, number) == (str(unpacked), 42)
    assert [folder for folder in path if "-packages" in folder] == [str(unpacked / SITE_PACKAGES)]


@pytest.mark.parametrize("other", [f"3.{minor}" for minor in (10, 11, 12, 13) if f"3.{minor}" != RUNNING])
def test_an_interpreter_of_another_version_is_told(unpacked: Path, other: str) -> None:
    numpy = unpacked / f"lib/python{other}/site-packages/numpy.py"
    with pytest.raises(ImportError, match=f"environment for Python {RUNNING}, and this Triton's"):
        runpy.run_path(str(numpy))


def test_the_archive_is_nobodys(small: None, tmp_path: Path) -> None:
    with tarfile.open(packing.pack_environment(tmp_path / "env.tar.gz")) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert all(member.isfile() for member in members)


def test_no_half_archive_is_left(install: Install, tmp_path: Path) -> None:
    install("bertopic-inference", metadata="Provides-Extra: runtime\nRequires-Dist: small; extra == 'runtime'\n")
    (install("small") / "INSTALLER").write_text("conda")
    with pytest.raises(Unservable, match="conda"):
        packing.pack_environment(tmp_path / "env.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["installed"]


def test_nothing_is_left_by_one_that_was_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bertopic_server", "pack-env", "--out", str(tmp_path / "env.tar.gz")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as packing_process:
        while not [*tmp_path.iterdir()]:
            assert packing_process.poll() is None
            time.sleep(0.01)
        packing_process.terminate()
    assert packing_process.returncode
    assert not [*tmp_path.iterdir()]


def test_a_folder_is_no_archive(small: None, tmp_path: Path) -> None:
    with pytest.raises(Unservable, match=r"is a folder, expected the archive.*env\.tar\.gz"):
        packing.pack_environment(tmp_path)


def test_no_place_for_the_archive_is_told(small: None, tmp_path: Path) -> None:
    with pytest.raises(Unservable, match=r"none/env\.tar\.gz cannot be written \(No such file.*another --out"):
        packing.pack_environment(tmp_path / "none" / "env.tar.gz")


@pytest.mark.parametrize("python", ["py311", "3", "", "2.7"])
def test_what_is_no_python_is_refused(small: None, tmp_path: Path, python: str) -> None:
    with pytest.raises(Unservable, match=r"--python is '.*', expected the number"):
        packing.pack_environment(tmp_path / "env.tar.gz", python=python)


@pytest.mark.parametrize(
    ("installer", "file", "content", "message"),
    [
        pytest.param("conda", "INSTALLER", "conda\n", "small was installed by conda", id="conda"),
        pytest.param("pip", "RECORD", None, "small was installed without a list of its files", id="no list"),
        pytest.param(
            "pip",
            "direct_url.json",
            '{"dir_info": {"editable": true}}',
            "small is installed as editable",
            id="editable",
        ),
    ],
)
def test_what_its_files_are_not_enough_for(
    install: Install, tmp_path: Path, installer: str, file: str, content: str | None, message: str
) -> None:
    install("bertopic-inference", metadata="Provides-Extra: runtime\nRequires-Dist: small; extra == 'runtime'\n")
    info = install("small", installer=installer)
    (info / file).unlink(missing_ok=True)
    if content is not None:
        (info / file).write_text(content)
    with pytest.raises(Unservable, match=message):
        packing.pack_environment(tmp_path / "env.tar.gz")


def test_what_is_not_installed_is_named(install: Install, tmp_path: Path) -> None:
    install("bertopic-inference", metadata="Provides-Extra: gpu\nRequires-Dist: no-such>=2; extra == 'gpu'\n")
    with pytest.raises(Unservable, match=r"need no-such, which is not installed here.*pip install 'no-such>=2'"):
        packing.pack_environment(tmp_path / "env.tar.gz", extra="gpu")
    with pytest.raises(Unservable, match="has no extra 'runtime', but gpu"):
        packing.pack_environment(tmp_path / "env.tar.gz")


def test_onnxruntime_for_gpus_will_do(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bertopic-inference", metadata="Provides-Extra: gpu\nRequires-Dist: onnxruntime; extra == 'gpu'\n")
    info = install("onnxruntime-gpu")
    monkeypatch.setattr(sys, "path", [str(info.parent)])
    names = [installed.metadata["Name"] for installed in packing._required("gpu")]
    assert names == ["bertopic-inference", "onnxruntime-gpu"]


def test_numpy_2_is_refused(install: Install, tmp_path: Path) -> None:
    install("numpy", version="2.1.0")
    with pytest.raises(Unservable, match=r"numpy 2\.1\.0 is installed"):
        packing.pack_environment(tmp_path / "env.tar.gz")


def test_the_python_asked_for_must_be_this_one(small: None, tmp_path: Path) -> None:
    archive = tmp_path / "env.tar.gz"
    arguments = ["pack-env", "--out", str(archive), "--python"]
    refused = CliRunner().invoke(app, [*arguments, "3.8"])
    assert refused.exit_code == 1
    assert f"this is Python {RUNNING}" in refused.output
    assert "is built for Python 3.8" in refused.output
    assert "python3.8 -m venv" in refused.output
    assert not archive.exists()
    assert CliRunner().invoke(app, [*arguments, f"{RUNNING}.9"]).exit_code == 0
    assert archive.is_file()


def test_the_python_of_this_machines_triton_must_be_this_one(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = Path(str(distribution("nvidia-pytriton").locate_file("pytriton/tritonserver/python_backend_stubs")))
    triton = tmp_path / "tritonserver"
    backend = triton / "backends" / "python"
    for folder in (triton / "bin", backend):
        folder.mkdir(parents=True)
    (triton / "bin" / "tritonserver").write_text("#!/bin/sh\n")
    (triton / "bin" / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(triton / "bin"), prepend=":")
    stub = backend / "triton_python_backend_stub"
    stub.symlink_to(stubs / "3.8" / stub.name)
    with pytest.raises(Unservable, match=r"is built for Python 3\.8"):
        packing.pack_environment(tmp_path / "env.tar.gz")
    stub.unlink()
    stub.symlink_to(stubs / RUNNING / stub.name)
    assert packing.pack_environment(tmp_path / "env.tar.gz").is_file()
