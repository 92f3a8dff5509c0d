"""TLS, unix sockets and API keys from a file: over real sockets, with one process and with several."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from programs import program
from test_serve import launcher, serve_at
from toy_server import toy_server

from octavo.app import serve
from octavo.app.config import EngineConfig, ServerConfig
from octavo.app.errors import StartupError
from octavo.app.server_settings import check_certificate, read_api_keys

BODY = {"prompt": "hi", "max_tokens": 3}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    subprocess.run([*make, *files, *names], check=True, capture_output=True)
    return cert, key


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_tls_in_one_process(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "launch", launcher())
    cert, key = certificate

    def visit(port: int) -> None:
        url = f"https://127.0.0.1:{port}"
        with httpx.Client(base_url=url, verify=trusting(cert), timeout=60) as http:
            assert http.post("/v1/completions", json=BODY).status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=60)

    serve_at(visit, ssl_certfile=str(cert), ssl_keyfile=str(key))
    assert " ready at https://127.0.0.1:" in capsys.readouterr().out


def test_tls_with_front_ends(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    with toy_server(tmp_path, cert=cert, key=key) as server:
        url = server.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=trusting(cert), timeout=60) as http:
            stream = http.post("/v1/completions", json={**BODY, "stream": True})
            assert stream.text.endswith("data: [DONE]\n\n")


def test_a_unix_socket_with_front_ends(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    with toy_server(tmp_path, uds=path) as server:
        assert server.url == f"unix:{path}"
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(base_url="http://octavo", transport=transport, timeout=60) as http:
            for _ in range(4):
                assert http.post("/v1/completions", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("nowhere.pem", None, "--ssl-certfile must name a PEM file, got 'nowhere.pem'"),
        (__file__, None, "must hold a certificate and its private key"),
        (__file__, "nowhere.pem", "--ssl-keyfile must name a PEM file"),
    ],
)
def test_a_certificate_that_cannot_be_served(cert: str, key: str | None, words: str) -> None:
    with pytest.raises(StartupError, match=words):
        check_certificate(cert, key)
    with pytest.raises(StartupError, match=words):
        serve.run(EngineConfig(), ServerConfig(ssl_certfile=cert, ssl_keyfile=key))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    locked = tmp_path / "locked.pem"
    lock = ["ec", "-in", str(key), "-out", str(locked), "-aes256", "-passout", "pass:secret"]
    subprocess.run([program("openssl"), *lock], check=True, capture_output=True)
    with pytest.raises(StartupError, match="the key is encrypted"):
        check_certificate(str(cert), str(locked))


def test_api_keys_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# Ann\nsk-ann\n\n  sk-bob  \n")
    assert read_api_keys(str(path)) == ("sk-ann", "sk-bob")
    assert read_api_keys(None) == ()
    path.write_text("# nobody yet\n")
    with pytest.raises(StartupError, match="--api-key-file must hold at least one key"):
        read_api_keys(str(path))
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StartupError, match="--api-key-file must name a readable file"):
            read_api_keys(str(wrong))


def test_keys_of_flags_and_file_open_all_but_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "launch", launcher())
    path = tmp_path / "keys"
    path.write_text("sk-file\n")

    def visit(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            for key, status in (("sk-flag", 200), ("sk-file", 200), ("sk-other", 401)):
                answer = http.get("/metrics", headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status
            assert http.get("/version").status_code == http.get("/nowhere").status_code == 401
            assert http.get("/livez").status_code == 200

    serve_at(visit, api_key=("sk-flag",), api_key_file=str(path))
