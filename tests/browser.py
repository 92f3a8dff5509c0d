"""Headless Chromium, driven over the DevTools protocol: real clicks and keys, and what the page then shows.

Whatever the page complains of (exceptions, console errors, broken security policy) is kept in `complaints`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)
_WITHIN_S = 120.0
_KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}


def chromium() -> str:
    """Where it is. Skips the test where there is none, except in CI."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    assert found is not None, "CI needs Chromium: apt install chromium"
    return found


@contextlib.contextmanager
def run_browser(folder: Path) -> Iterator[str]:
    """A browser with a fresh profile in `folder`; gives the address of its DevTools."""
    port_file = folder / "DevToolsActivePort"
    process = subprocess.Popen(
        [chromium(), *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _WITHIN_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert process.poll() is None, f"the browser ended with {process.returncode}"
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text().split()[0]}"
    finally:
        # Debian's program is a script around the browser, which has many children: they are one group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@contextlib.contextmanager
def open_tab(browser: str, url: str, width: int = 1440, height: int = 900) -> Iterator[Tab]:
    """A tab of the browser at `browser`, showing `url`."""
    target = httpx.put(f"{browser}/json/new?about:blank", timeout=_WITHIN_S).json()
    with connect(target["webSocketDebuggerUrl"], max_size=None) as link:
        tab = Tab(link)
        tab.resize(width, height)
        tab.goto(url)
        yield tab
        tab.call("Page.close")


class Tab:
    """One tab. complaints: what the page said went wrong, in order."""

    def __init__(self, link: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._num_calls = 0
        self._link = link
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; events that come meanwhile are looked at."""
        self._num_calls += 1
        number = self._num_calls
        self._link.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._link.recv(timeout=_WITHIN_S))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message.get("method", ""), message.get("params", {}))

    def _hear(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    def goto(self, url: str) -> None:
        """Open `url` and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def reload(self) -> None:
        """As F5 does."""
        self.evaluate("window.before = true")
        self.call("Page.reload")
        self.wait("!window.before && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, a promise's included."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, within_s: float = _WITHIN_S) -> None:
        """Until the expression `condition` is true."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(AssertionError):  # the page may just be changing
                if self.evaluate(f"Boolean({condition})"):
                    return
            assert time.monotonic() < deadline, (
                f"{condition} did not come about; complaints: {self.complaints}"
            )
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What the first match shows."""
        text: str = self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''")
        return text

    def count(self, selector: str) -> int:
        """How many match."""
        number: int = self.evaluate(f"document.querySelectorAll({selector!r}).length")
        return number

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first match that can be seen."""
        found = f"[...document.querySelectorAll({selector!r})].find((e) => e.checkVisibility())"
        self.wait(found)
        x, y = self.evaluate(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'nearest'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, name: str, modifiers: int = 0) -> None:
        """A key. modifiers: 8 is Shift."""
        key, code, text = _KEYS[name]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int) -> None:
        """The part of the page that can be seen, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """The system's colours: `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """As PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of everything that a screen reader is told of."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]
