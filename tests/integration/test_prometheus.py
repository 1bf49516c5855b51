"""docker/prometheus and docker/grafana, read by a real Prometheus that scrapes a real `bertopic-inference serve`."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bertopic_client import TopicClient
from bertopic_server import Address

DOCKER = Path(__file__).parents[2] / "docker"
RULES = DOCKER / "prometheus"
COMMAND = str(Path(sys.executable).with_name("bertopic-inference"))
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NAME = re.compile(r"\b(?:nv|bertopic)_\w+|\b(?:model|topic):bertopic_\w+:\w+")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Prometheus: apt-get install prometheus",
)


def expressions(panel: dict[str, Any]) -> list[str]:
    """A panel's queries, as Grafana sends them with everything selected."""
    chosen = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$model": ".*"}
    found = [target["expr"] for target in panel["targets"]]
    for variable, value in chosen.items():
        found = [expression.replace(variable, value) for expression in found]
    assert not any("$" in expression for expression in found), found
    return found


def queries() -> list[Any]:
    return [
        pytest.param(expression, id=f"{panel['title']} {i}")
        for panel in PANELS
        for i, expression in enumerate(expressions(panel))
    ]


# What there is only once something went wrong for an hour, or was asked for a week.
RARE = re.compile(r"> 0$|:(ratio1h|ratio7d|distance)\b")


class Prometheus(NamedTuple):
    url: str
    server: Address

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def names(self) -> set[str]:
        return set(self.get("label/__name__/values"))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def serving(repository: Path) -> Iterator[Address]:
    address = Address.on_free_ports()
    ports = {"http": address.http_port, "grpc": address.grpc_port, "metrics": address.metrics_port}
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    with subprocess.Popen([COMMAND, "serve", repository, *options], stdout=subprocess.DEVNULL) as process:
        try:
            ready = f"http://127.0.0.1:{address.metrics_port}/health/ready"
            wait_until(lambda: process.poll() is not None or answers(ready), "serve did not become ready", 120)
            assert process.poll() is None
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def prometheus(serving: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with this repository's files, scraping every second instead of four times a minute."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = (RULES / "prometheus.yml").read_text()
    assert configuration.count("127.0.0.1:8002") == 1
    configuration = configuration.replace("127.0.0.1:8002", f"127.0.0.1:{serving.metrics_port}")
    (folder / "prometheus.yml").write_text(configuration.replace("15s", "1s"))
    rules = (RULES / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(rules.replace("interval: 5m", "interval: 1s"))
    port = Address.on_free_ports().http_port
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}", serving)
        wait_until(lambda: answers(f"{found.url}/-/ready"), (folder / "log").read_text())
        send(found)
        yield found
    finally:
        process.terminate()
        process.wait(20)


def send(prometheus: Prometheus) -> None:
    """Every kind of request, until what is counted of them was scraped. Models pass counts on every 10 seconds."""
    texts = ["short", "a text of a few more words than the other", "far too long " * 300] * 8
    expected = {"bertopic_topic_rows_total", "bertopic_truncated_texts_total", "bertopic_turned_away_total"}
    deadline = time.monotonic() + 90
    with TopicClient(prometheus.server.grpc_url) as client:
        while not (expected <= prometheus.names() and prometheus.query("rate(bertopic_topic_rows_total[1m]) > 0")):
            assert time.monotonic() < deadline, expected - prometheus.names()
            client.predict(texts)
            client.predict(np.random.default_rng(0).normal(size=(64, 384)).astype(np.float32))
            time.sleep(0.5)


@needs_prometheus
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", RULES / "prometheus.yml"],
        ["check", "rules", RULES / "alerts.yml"],
        ["test", "rules", RULES / "alerts_test.yml"],
    ],
    ids=["prometheus.yml", "alerts.yml", "alerts_test.yml"],
)
def test_promtool_agrees(arguments: list[str | Path]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_explained() -> None:
    alerts = re.findall(r"- alert: (\w+)", (RULES / "alerts.yml").read_text())
    tests = (RULES / "alerts_test.yml").read_text()
    guide = (DOCKER.parent / "docs" / "monitoring.md").read_text()
    assert len(alerts) == len(set(alerts)) > 10
    for alert in alerts:
        kind = "Drift" if alert.endswith("Drift") else alert
        assert kind in tests, alert
        assert f"`{alert}`" in guide, alert


@needs_prometheus
def test_every_metric_that_is_named_exists(prometheus: Prometheus) -> None:
    written = (RULES / "alerts.yml").read_text() + json.dumps(DASHBOARD)
    named = set(NAME.findall(re.sub(r"#.*", "", written)))
    assert {"bertopic_ready", "nv_inference_pending_request_count", "model:bertopic_requests:rate2m"} < named
    recorded = set(re.findall(r"- record: (\S+)", written))
    assert named - recorded <= prometheus.names()
    assert {name for name in named if ":" in name} <= recorded


@needs_prometheus
def test_every_metric_of_ours_is_explained(prometheus: Prometheus) -> None:
    guide = (DOCKER.parent / "docs" / "monitoring.md").read_text()
    for name in prometheus.names():
        if name.startswith(("bertopic_", "nv_inference", "model:", "topic:")):
            assert f"`{re.sub(r'_(sum|count)$', '', name) if 'summary' in name else name}" in guide, name


@needs_prometheus
@pytest.mark.parametrize("expression", queries())
def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus, expression: str) -> None:
    if RARE.search(expression):
        prometheus.query(expression)
    else:
        wait_until(lambda: bool(prometheus.query(expression)), expression, 20)


@needs_prometheus
def test_rules_are_evaluated_and_nothing_fires(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "rules that were not evaluated")
    assert [rule["lastError"] for rule in rules() if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == []
    assert prometheus.query("up")[0]["value"][1] == "1"


def test_the_dashboard_is_sound() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    (source,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "datasource"]
    occupied: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & occupied, panel["title"]
        occupied |= cells
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": f"${{{source['name']}}}"}, panel["title"]
