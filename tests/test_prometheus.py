"""Dashboard and alerts against a real Prometheus that scrapes a real server under load."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from alert_cases import AT, CASES, Case
from programs import program
from prometheus import DEPLOY, RULES, Prometheus, prometheus
from toy_server import toy_server, wait_for

DASHBOARD = json.loads((DEPLOY / "grafana/octavo.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WITHIN_S = 90.0


class Load:
    """Clients that ask until told to stop: some stream, some leave early, some ask nonsense."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()

    def stream(self, num_heard: int) -> None:
        """Ask again and again; leave after `num_heard` lines of each answer."""
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                body = {"prompt": "x" * 40, "max_tokens": 30, "stream": True, "mood": "good"}
                with client.stream("POST", "/v1/completions", json=body) as answer:
                    for number, _ in enumerate(answer.iter_lines()):
                        if number > num_heard:
                            break
                client.post("/v1/completions", json={"prompt": "x", "max_tokens": -1})
                self._stop.wait(0.05)

    def stop(self) -> None:
        """No more questions."""
        self._stop.set()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, str]]:
    """(Prometheus, the server's address), under load from before the first test until after the last."""
    folder = tmp_path_factory.mktemp("prometheus")
    program("prometheus")
    with toy_server(folder, frontends=2, latency=0.005) as server:
        load = Load(server.url)
        with ThreadPoolExecutor(3) as pool, prometheus(folder, server.url.removeprefix("http://")) as running:
            asking = [pool.submit(load.stream, num_heard) for num_heard in (1000, 1000, 8)]
            try:
                wait_for(running.ready, WITHIN_S)
                yield running, server.url
            finally:
                load.stop()
            for each in asking:
                each.result(30)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_query_of_the_dashboard_returns_data(
    scraped: tuple[Prometheus, str], panel: dict[str, Any]
) -> None:
    running, _ = scraped
    assert panel["targets"], "a panel shows something"
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
        wait_for(lambda query=query: running.values(query), WITHIN_S)


def test_every_rule_is_evaluated_and_none_fires_on_a_server_that_is_well(
    scraped: tuple[Prometheus, str],
) -> None:
    running, _ = scraped
    names = {
        rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    }

    def rules() -> list[dict[str, Any]]:
        return [rule for group in running.get("rules")["groups"] for rule in group["rules"]]

    wait_for(lambda: all(rule["health"] == "ok" for rule in rules()), WITHIN_S)
    assert {rule["name"] for rule in rules()} == names
    assert not [rule["name"] for rule in rules() if rule["state"] == "firing"]


def test_promtool_has_nothing_to_say_of_the_metrics(scraped: tuple[Prometheus, str]) -> None:
    """But of colons and one suffix, in names that vLLM chose."""
    _, url = scraped
    text = httpx.get(f"{url}/metrics", timeout=60).text
    said = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    complaints = (said.stdout + said.stderr).splitlines()
    assert not [line for line in complaints if not line.startswith("vllm:")]
    assert {line.partition(" ")[2] for line in complaints} <= {
        "metric names should not contain ':'",
        'non-counter metrics should not have "_total" suffix',
    }


@pytest.mark.parametrize("what", ["rules octavo.rules.yml", "config prometheus.yml"])
def test_promtool_has_nothing_to_say_of_the_files(what: str) -> None:
    kind, name = what.split()
    options = ["--lint-fatal"] if kind == "rules" else []
    said = subprocess.run(
        [program("promtool"), "check", kind, *options, name],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert not said.stderr


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    sections = (DEPLOY.parent / "docs/operations.md").read_text().split("\n### ")[1:]
    told = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    assert set(told) == set(CASES)
    assert min(len(text) for text in told.values()) > 100


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """As promtool evaluates them, an hour within a second."""
    rules = yaml.safe_load(RULES.read_text())["groups"]
    assert set(CASES) == {rule["alert"] for group in rules for rule in group["rules"]}
    tests = []
    for state in Case._fields:
        # One instance for each alert: all share a test, since each test costs promtool a second.
        series = {
            name.replace('instance="a"', f'instance="{alert}"'): values
            for alert, case in CASES.items()
            for name, values in case._asdict()[state].items()
        }
        expected = [{"labels": "{}", "value": 1}] if state == "ill" else []
        looks = [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",instance="{alert}",alertstate="firing"}})',
                "eval_time": AT,
                "exp_samples": expected,
            }
            for alert in CASES
        ]
        tests.append(
            {
                "name": state,
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": looks,
            }
        )
    path = tmp_path / "alerts.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests})
    )
    said = subprocess.run([program("promtool"), "test", "rules", str(path)], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
