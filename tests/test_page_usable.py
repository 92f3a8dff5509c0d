"""Who can use the page: names for screen readers, contrast, keyboard, narrow windows, both themes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Tab, open_tab
from http_harness import ScriptedClient, make_app, serve

AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
IDLE = "document.querySelector('#send').checkVisibility()"
LAST = "#messages > li:last-child"


@pytest.fixture
def tab(browser: str) -> Iterator[Tab]:
    with serve(make_app(ScriptedClient())) as url, open_tab(browser, url) as tab:
        tab.wait("document.querySelector('#model-name').textContent")
        yield tab


def say(tab: Tab, text: str) -> None:
    """Write into the composer and press Enter; until the answer has ended."""
    num_messages = tab.count("#messages > li")
    tab.click("#prompt")
    tab.write(text)
    tab.press("Enter")
    tab.wait(f"{IDLE} && document.querySelectorAll('#messages > li').length === {num_messages + 2}")


_CONTROLS = {
    "button",
    "textbox",
    "link",
    "spinbutton",
    "combobox",
    "checkbox",
    "img",
    "image",
    "dialog",
    "region",
}
_CONTRAST = """(() => {
  const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = (...layers) => {
    for (const colour of layers) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    const colour = element ? getComputedStyle(element).backgroundColor : 'white';
    return /, 0\\)$/.test(colour) ? ground(element.parentElement) : colour;
  };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const speaks = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.placeholder;
    if (!speaks || !e.checkVisibility() || e.closest('.unseen, .skip') || e.disabled) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(ground(e), style.color)), light(rgb(ground(e)))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < wanted) bad.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 30)}: ${ratio}`);
  }
  return bad;
})()"""


def check_usable(tab: Tab) -> None:
    """Names, contrast, and nothing that is wider than the window."""
    nodes = tab.accessible()
    nameless = [role for role, name in nodes if role in _CONTROLS and not name.strip()]
    assert not nameless, f"without a name: {nameless}"
    assert tab.evaluate(_CONTRAST) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ids: list[str] = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("width", [1440, 1000, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(tab: Tab, width: int, scheme: str) -> None:
    tab.resize(width, 844)
    tab.prefer(scheme)
    check_usable(tab)
    say(tab, "hello")
    say(tab, "broken")
    check_usable(tab)
    for popover in ("chats", "settings"):
        if tab.evaluate(f"document.querySelector('[popovertarget={popover}]').checkVisibility()"):
            tab.click(f"[popovertarget={popover}]")
            check_usable(tab)
            tab.press("Escape")
    tab.click("#key-button")
    check_usable(tab)
    tab.press("Escape")
    tab.evaluate("location.hash = '#engine'")
    tab.wait("document.querySelector('#connection').dataset.state === 'live'")
    check_usable(tab)
    roles = {role for role, _ in tab.accessible()}
    assert {"banner", "navigation", "main", "heading", "status"} <= roles
    assert tab.complaints == []


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab: Tab, width: int, scheme: str) -> None:
    """Somebody else's rules for screen readers, keyboards and contrast."""
    if not AXE.is_file() and not os.environ.get("CI"):
        pytest.skip("needs axe-core: (cd tests/node && npm ci)")

    def check() -> None:
        tab.call("Runtime.evaluate", expression=AXE.read_text())
        found = "(v) => [v.id, v.help, v.nodes.map((n) => n.html)]"
        assert tab.evaluate(f"axe.run().then((all) => all.violations.map({found}))") == []

    tab.resize(width, 844)
    tab.prefer(scheme)
    check()
    say(tab, "hello")
    say(tab, "broken")
    check()
    tab.evaluate("location.hash = '#engine'")
    tab.wait("document.querySelector('#connection').dataset.state === 'live'")
    check()


def test_the_keyboard_reaches_everything_in_reading_order(tab: Tab) -> None:
    say(tab, "hello")
    tab.reload()
    tab.wait("document.querySelector('#model-name').textContent")
    met: list[Any] = []
    for _ in range(40):
        tab.press("Tab")
        at = tab.evaluate("document.activeElement.id || document.activeElement.innerText")
        if at in met:
            break
        met.append(at)
    wanted = [
        "Skip to content",
        "Chat",
        "Engine",
        "key-button",
        "theme-button",
        "new-chat",
        "hello",
        "delete-chat",
    ]
    wanted += [
        "transcript",
        "Copy",
        "Try again",
        "prompt",
        "send",
        "set-model",
        "set-temperature",
        "set-top-p",
    ]
    wanted += ["set-max-tokens", "set-seed", "set-system", "reset-settings"]
    assert [each for each in met if each in wanted] == wanted, met


def test_escape_closes_what_is_open_before_it_stops_an_answer(tab: Tab) -> None:
    tab.resize(390, 844)
    tab.click("#prompt")
    tab.write("slow, and for long")
    tab.press("Enter")
    tab.wait(f"!{IDLE} && document.querySelector('{LAST}').innerText.length > 20")
    for popover in ("settings", "chats"):
        tab.click(f"[popovertarget={popover}]")
        tab.wait(f"document.querySelector('#{popover}').matches(':popover-open')")
        tab.press("Escape")
        tab.wait(f"!document.querySelector('#{popover}').matches(':popover-open')")
        assert not tab.evaluate(IDLE), "the answer goes on"
    tab.click("#prompt")
    tab.press("Escape")
    tab.wait(IDLE)
    assert "stopped" in tab.text(LAST)


def test_the_theme_can_be_chosen_and_stays(tab: Tab) -> None:
    tab.prefer("light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(paper)
    labels = []
    for _ in range(2):
        tab.click("#theme-button")
        labels.append(tab.evaluate("document.querySelector('#theme-button').ariaLabel"))
    assert labels == ["Theme: light. Press for dark.", "Theme: dark. Press for as the system."]
    dark = tab.evaluate(paper)
    assert dark != light
    tab.reload()
    assert tab.evaluate(paper) == dark
    tab.click("#theme-button")
    assert tab.evaluate(paper) == light
