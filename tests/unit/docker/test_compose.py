"""The compose files: the official schema, and what every service must keep to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ._dockerfile import ROOT, Stage, program

DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("compose*.yaml"))
SCHEMA = program("check-jsonschema")
CACHE = Stage("Dockerfile.cpu", "serve").environment["HOME"]


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
    return found


SERVE = services(DOCKER / "compose.yaml")["serve"]
OTHERS = services(DOCKER / "compose.monitoring.yaml")


@pytest.mark.skipif(SCHEMA is None, reason="needs check-jsonschema: pip install check-jsonschema")
def test_the_schema_agrees() -> None:
    command = [str(SCHEMA), "--builtin-schema=vendor.compose-spec", *FILES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", [SERVE, *OTHERS.values()], ids=["serve", *OTHERS])
def test_a_service_has_no_more_rights_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert not service["image"].endswith(":latest")
    assert service.get("cap_add", ["SYS_PTRACE"]) == ["SYS_PTRACE"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_built_and_mounted_is_there(file: Path) -> None:
    for service in services(file).values():
        if build := service.get("build"):
            Stage(Path(build["dockerfile"]).name, SERVE["build"]["target"])
            assert (ROOT / build["dockerfile"]).is_file()
        sources = [volume.split(":") for volume in service.get("volumes", []) if isinstance(volume, str)]
        for source, _, *options in sources:
            assert not source.startswith(".") or ((DOCKER / source).exists() and options == ["ro"]), source


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_the_repository_and_the_cache_are_mounted_where_the_image_looks(dockerfile: str) -> None:
    image = Stage(dockerfile, "serve")
    models, cache = SERVE["volumes"]
    assert image.command[-1] == models["target"]
    assert models["read_only"]
    assert cache.partition(":")[2] == CACHE == image.environment["HOME"]
    assert image.environment["NUMBA_CACHE_DIR"].startswith(CACHE)
    (gpu_cache,) = services(DOCKER / "compose.gpu.yaml")["serve"]["volumes"]
    assert gpu_cache.partition(":")[2] == CACHE


def test_every_port_of_the_image_is_published() -> None:
    published = [port.rsplit(":", 1)[1] for port in SERVE["ports"]]
    assert published == Stage("Dockerfile.cpu", "serve").all("EXPOSE")[-1].split()


def test_prometheus_differs_from_the_one_outside_by_its_target_only() -> None:
    inside, outside = (
        yaml.safe_load((DOCKER / "prometheus" / name).read_text())
        for name in ("prometheus.compose.yml", "prometheus.yml")
    )
    assert inside["scrape_configs"][0].pop("static_configs") == [{"targets": ["serve:8002"]}]
    outside["scrape_configs"][0].pop("static_configs")
    assert inside == outside


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus: apt-get install prometheus")
def test_promtool_agrees() -> None:
    file = DOCKER / "prometheus" / "prometheus.compose.yml"
    done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
