"""What is shipped to run octavo elsewhere, against octavo: flags it has, routes it serves, times that fit."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from http_harness import ScriptedClient, make_app
from programs import program

from octavo.app.cli import parse
from octavo.app.config import ServerConfig

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text()).splitlines()
KEPT = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
MANIFEST: dict[str, Any] = {
    part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text())
}
POD = MANIFEST["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
UNIT = (DEPLOY / "octavo.service").read_text()


def instruction(name: str) -> Any:
    """The last instruction of this name in the Dockerfile, as JSON."""
    return json.loads(
        [line for line in DOCKERFILE if line.startswith(f"{name} ")][-1].removeprefix(f"{name} ")
    )


def parsed(words: list[str]) -> dict[str, Any]:
    """A command line without its program, as octavo reads it."""
    return vars(parse(words))


def test_the_image_runs_a_command_line_that_octavo_takes() -> None:
    start = instruction("ENTRYPOINT")
    assert start[0] == "octavo"
    asked = parsed([*start[1:], *instruction("CMD")])
    assert (asked["host"], asked["port"], asked["log_format"], asked["model"]) == (
        "0.0.0.0",
        "8000",
        "json",
        "demo",
    )
    assert "EXPOSE 8000" in DOCKERFILE


def test_the_image_gets_the_package_and_nothing_else() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name.split(".")[1] for name in packages if "." in name}
    assert folders <= set(KEPT)
    assert not {"tests", "docs", ".git", "loadtest"} & set(KEPT)
    assert all((ROOT / name).exists() for name in KEPT if "*" not in name)


def test_the_image_copies_only_what_is_in_its_context() -> None:
    (first,) = [line.split()[1:-1] for line in DOCKERFILE if line.startswith("COPY pyproject.toml")]
    assert set(first) <= set(KEPT)


def test_the_pod_runs_the_image_with_arguments_that_octavo_takes() -> None:
    asked = parsed([*instruction("ENTRYPOINT")[1:], *CONTAINER["args"]])
    assert asked["model"] == CONTAINER["args"][0]


def test_probes_ask_for_routes_and_a_port_that_there_are() -> None:
    paths = {route.path for route in make_app(ScriptedClient()).routes if hasattr(route, "path")}
    (port,) = CONTAINER["ports"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = CONTAINER[name]["httpGet"]
        assert probe["path"] in paths and probe["port"] == port["name"]
    assert port["containerPort"] == 8000
    assert MANIFEST["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]


def test_labels_and_names_of_the_manifest_refer_to_each_other() -> None:
    labels = MANIFEST["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    claims = {v["persistentVolumeClaim"]["claimName"] for v in POD["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {MANIFEST["PersistentVolumeClaim"]["metadata"]["name"]}


def test_nobody_is_killed_before_a_drain_is_over() -> None:
    args = CONTAINER["args"]
    drain_s = float(args[args.index("--drain-timeout") + 1])
    pause_s = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert POD["terminationGracePeriodSeconds"] >= pause_s + drain_s + 5
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(stop_s) >= ServerConfig().drain_timeout + 5


def test_the_unit_runs_a_command_line_that_octavo_takes() -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    assert parsed(command.split()[1:])["config"] == "/etc/octavo/octavo.yaml"


def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "octavo.service"
    unit.write_text(UNIT.replace("/opt/octavo/bin/octavo", "/bin/true"))
    said = subprocess.run([program("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "octavo.service" not in said.stderr


@pytest.mark.parametrize("path", sorted(p for p in DEPLOY.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_no_secret_and_no_address_of_somebody_is_shipped(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"(api[-_]key|password|token)\s*[:=]\s*['\"]?[A-Za-z0-9]{16,}", text, re.IGNORECASE)
    assert not re.search(r"\b(10|192\.168|172\.(1[6-9]|2\d|3[01]))\.\d+\.\d+", text)
