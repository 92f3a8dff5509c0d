"""Requests made from the OpenAPI document, against server processes: no 5xx, every answer as declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from toy_server import toy_server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def test_every_answer_is_as_declared(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    flags = ["--phases", "fuzzing", "--max-examples", "25", "--max-time", "25", "--seed", "1", "--no-shrink"]
    flags += ["--suppress-health-check", "all", "--request-timeout", "60", "--no-color", "--warnings", "off"]
    with toy_server(tmp_path, latency=0.0) as server:
        done = subprocess.run(
            [program, "run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS), *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        assert "Traceback" not in server.log, server.log[-5000:]
    assert "No issues found" in done.stdout, done.stdout[-5000:]
