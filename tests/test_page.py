"""The page in a real browser: chats that stream, stop, survive a reload, fail in words; the live view."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import Tab, open_tab
from http_harness import REPLY, ScriptedClient, make_app, serve
from server_process import samples
from toy_server import alive, toy_server, wait_for

from octavo.app.page import FOLDER

BUSY = "document.querySelector('#stop').checkVisibility()"
IDLE = "document.querySelector('#send').checkVisibility()"
LAST = "#messages > li:last-child"


@pytest.fixture
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
def url(engine: ScriptedClient) -> Iterator[str]:
    with serve(make_app(engine)) as url:
        yield url


@pytest.fixture
def tab(browser: str, url: str) -> Iterator[Tab]:
    with open_tab(browser, url) as tab:
        tab.wait("document.querySelector('#model-name').textContent")
        yield tab


def say(tab: Tab, text: str) -> None:
    """Write into the composer and press Enter."""
    tab.click("#prompt")
    tab.write(text)
    tab.press("Enter")


def test_what_the_browser_gets_and_may_do(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        page = http.get("/")
        named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', page.text))
        for module in FOLDER.glob("*.js"):
            named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', module.read_text())}
        assert named == {f"page/{path.name}" for path in FOLDER.iterdir()} - {"page/index.html"}
        for path in ("/", *sorted(named)):
            response = http.get(path)
            assert response.status_code == 200, path
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            again = http.get(path, headers={"if-none-match": response.headers["etag"]})
            assert again.status_code == 304 and not again.content
        assert http.head("/").status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert http.get("/page/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
        for path in ("/page/", "/page/nope.js", "/page/..%2fpage.py", "/page/%2e%2e/page.py"):
            assert http.get(path).status_code == 404, path


def test_an_answer_streams_says_how_fast_and_can_be_stopped(tab: Tab, engine: ScriptedClient) -> None:
    assert tab.text("#model-name") == "toy"
    assert tab.evaluate("document.querySelector('#set-temperature').placeholder") == "0.25"
    say(tab, "hello")
    tab.wait(f"{IDLE} && document.querySelector('{LAST}.assistant')")
    assert tab.text(f"{LAST} .text") == REPLY
    assert "3 of" in tab.text(f"{LAST} .foot"), "cached tokens are told"
    assert re.fullmatch(r"Answer complete, \d+ tokens\.", tab.text("#announcer"))
    say(tab, "slow, please")
    tab.wait(f"{BUSY} && /^[a-z]{{20,}}$/.test(document.querySelector('{LAST} .text').innerText)")
    early = tab.text(f"{LAST} .text")
    tab.wait(f"document.querySelector('{LAST} .text').innerText.length > {len(early) + 20}")
    assert re.search(r"\d+(\.\d)? tokens/s", tab.text(f"{LAST} .foot"))
    assert re.search(r"\d+ m?s to first token", tab.text(f"{LAST} .foot"))
    assert tab.text("#chat-title") == "hello"
    roles = [line.split(":")[0] for line in prompt_of(engine).splitlines() if ":" in line]
    assert roles == ["user", "assistant", "user", "assistant"]
    # Escape stops it, and what was said so far stays.
    tab.press("Escape")
    tab.wait(IDLE)
    wait_for(lambda: engine.aborted)
    assert tab.text(f"{LAST} .text").startswith(early)
    assert "stopped" in tab.text(f"{LAST} .foot")
    assert tab.text("#announcer") == "The answer was stopped."
    assert tab.complaints == []


def prompt_of(engine: ScriptedClient) -> str:
    return bytes(engine.requests[-1].prompt_token_ids).decode()


def test_settings_reach_the_engine_and_wrong_ones_are_told(tab: Tab, engine: ScriptedClient) -> None:
    for name, value in (("temperature", "0.5"), ("top-p", "0.75"), ("max-tokens", "9"), ("seed", "42")):
        tab.click(f"#set-{name}")
        tab.write(value)
    tab.click("#set-system")
    tab.write("Be brief.")
    say(tab, "hello")
    tab.wait(f"{IDLE} && document.querySelector('{LAST} .foot').innerText.includes('token limit')")
    request = engine.requests[-1]
    params = request.params
    assert (params.temperature, params.top_p, params.seed, request.max_tokens) == (0.5, 0.75, 42, 9)
    assert prompt_of(engine).startswith("system: Be brief.\nuser: hello\n")
    tab.evaluate("document.querySelector('#set-top-p').select()")
    tab.write("9")
    assert tab.text("#set-top-p-why") == "Must be a number above 0, at most 1."
    assert tab.evaluate("document.querySelector('#set-top-p').getAttribute('aria-invalid')") == "true"
    tab.click("#reset-settings")
    assert tab.text("#set-top-p-why") == "Share of probability to draw from."
    say(tab, "hello again")
    tab.wait(f"{IDLE} && document.querySelectorAll('#messages > li').length === 4")
    assert engine.requests[-1].params.temperature == 0.25 and "Be brief" not in prompt_of(engine)


def test_chats_survive_a_reload_in_the_middle_of_an_answer(tab: Tab, engine: ScriptedClient) -> None:
    say(tab, "hello")
    tab.wait(f"{IDLE} && document.querySelector('{LAST}.assistant')")
    tab.click("#new-chat")
    say(tab, "slow one")
    tab.wait(f"/^abcdefghij/.test(document.querySelector('{LAST} .text')?.innerText)")
    tab.click("#set-seed")
    tab.write("5")
    tab.reload()
    tab.wait("document.querySelectorAll('#chat-list button').length === 2")
    wait_for(lambda: engine.aborted)
    assert tab.text("#chat-title") == "slow one"
    assert tab.text(f"{LAST} .text").startswith("abcdefghij")
    assert "interrupted" in tab.text(f"{LAST} .foot")
    assert tab.evaluate("document.querySelector('#set-seed').value") == "5"
    tab.evaluate("document.querySelectorAll('#chat-list button')[1].click()")
    assert tab.text("#chat-title") == "hello" and tab.text(f"{LAST} .text") == REPLY
    tab.click("#delete-chat")
    tab.click("#delete-dialog button[value=delete]")
    tab.wait("document.querySelectorAll('#chat-list button').length === 1")
    tab.reload()
    assert tab.count("#chat-list button") == 1 and tab.text("#chat-title") == "slow one"


def test_errors_are_words(tab: Tab, engine: ScriptedClient) -> None:
    say(tab, "full")
    tab.wait(f"{IDLE} && document.querySelector('{LAST} .error')?.innerText")
    assert tab.text(f"{LAST} .error") == "1 request waits, and no more may Try again in 7 seconds."
    tab.click("#new-chat")
    say(tab, "broken")
    tab.wait(f"{IDLE} && document.querySelector('{LAST} .error')?.innerText")
    assert tab.text(f"{LAST} .error") == "The logits were NaN."
    assert tab.text(f"{LAST} .text"), "what came before the error stays"
    assert "failed" in tab.text("#announcer")
    num_asked = len(engine.requests)
    tab.click(f"{LAST} .actions button:last-child")
    wait_for(lambda: len(engine.requests) == num_asked + 1)
    tab.wait(f"{IDLE} && document.querySelectorAll('#messages > li').length === 2")


def test_reasoning_is_shown_apart_and_not_sent_back(browser: str, engine: ScriptedClient) -> None:
    app = make_app(engine, {"reasoning_parser": "qwen3"})
    with serve(app) as url, open_tab(browser, url) as tab:
        tab.wait("document.querySelector('#model-name').textContent")
        say(tab, "ponder")
        tab.wait(f"{IDLE} && document.querySelector('{LAST}.assistant > .text')")
        assert tab.text(f"{LAST} > .text") == "It is."
        assert tab.evaluate(f"document.querySelector('{LAST} details').open") is False
        tab.click(f"{LAST} summary")
        assert tab.text(f"{LAST} details .thought") == "It may be so."
        say(tab, "hello")
        tab.wait(f"{IDLE} && document.querySelectorAll('#messages > li').length === 4")
        assert "assistant: It is.\n" in prompt_of(engine) and "may be so" not in prompt_of(engine)


def test_a_key_is_asked_for_and_kept(browser: str, engine: ScriptedClient) -> None:
    key = "schlüssel-1"
    with (
        serve(make_app(engine, {"api_keys": (key,)})) as url,
        open_tab(browser, url) as tab,
    ):
        tab.wait("document.querySelector('#key-dialog').open")
        assert tab.text("#key-why").startswith("An API key is needed")
        tab.write("wrong")
        tab.press("Enter")
        tab.wait("document.querySelector('#key-why').innerText === 'The API key is not valid.'")
        tab.wait("document.querySelector('#key-dialog').open")
        tab.evaluate("document.querySelector('#key-input').value = ''")
        tab.click("#key-input")
        tab.write(key)
        tab.press("Enter")
        tab.wait("document.querySelector('#model-name').textContent === 'toy'")
        say(tab, "hello")
        tab.wait(
            f"{IDLE} && document.querySelector('{LAST}.assistant .text')?.innerText === {json.dumps(REPLY)}"
        )
        tab.reload()
        tab.wait("document.querySelector('#model-name').textContent === 'toy'")
        tab.evaluate("location.hash = '#engine'")
        tab.wait("document.querySelector('#connection').dataset.state === 'live'")
        assert key not in tab.evaluate("JSON.stringify({...localStorage})"), "kept for the tab only"


def test_eight_chats_at_once_through_front_ends_and_a_server_that_dies(tmp_path: Path, browser: str) -> None:
    with (
        toy_server(tmp_path, latency=0.05, max_seqs=16) as server,
        open_tab(browser, server.url) as tab,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        tab.wait("document.querySelector('#model-name').textContent")
        tab.evaluate("location.hash = '#engine'")
        tab.wait("document.querySelector('#connection').dataset.state === 'live'")
        tab.evaluate("location.hash = '#chat'")
        for number in range(8):
            if number:
                tab.click("#new-chat")
            say(tab, f"chat number {number}")
        tab.wait("document.querySelectorAll('#chat-list .mark.streaming').length === 8")
        assert samples(http)["octavo_engine_requests_running"] == 8
        tab.evaluate("location.hash = '#engine'")
        tab.wait("document.querySelector('#fig-running').innerText === '8'")
        tab.wait("Number(document.querySelector('#pool-held').innerText) >= 8")
        tab.wait("Number(document.querySelector('#fig-out').innerText) > 0")
        tab.wait("document.querySelector('#steps').ariaLabel.includes('steps in 10 s')")
        drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean)"
        for canvas in ("steps", "pool", "rate", "batch"):
            tab.wait(f"({drawn})(document.querySelector('#{canvas}'))")
        # Whoever looks away stops to watch: the engine is asked no more.
        tab.evaluate("location.hash = '#chat'")
        frontends = server.frontends()
        server.process.send_signal(signal.SIGKILL)
        tab.wait("document.querySelectorAll('#chat-list .mark.error').length === 8")
        assert re.search("gone|lost", tab.text(f"{LAST} .error"))
        wait_for(lambda: not any(map(alive, frontends)))
        say(tab, "anybody there?")
        tab.wait(
            f"{IDLE} && document.querySelector('{LAST} .error')?.innerText.includes('cannot be reached')"
        )
        tab.evaluate("location.hash = '#engine'")
        tab.wait("document.querySelector('#connection').innerText.includes('cannot be reached')")


def test_text_becomes_elements_and_never_html(tab: Tab) -> None:
    def rendered(text: str) -> str:
        html: str = tab.evaluate(
            "import('/page/prose.js').then(({render}) => { const e = document.createElement('div');"
            f"for (let n = 0; n <= {len(text)}; n += 3) render(e, {json.dumps(text)}.slice(0, n));"
            f"render(e, {json.dumps(text)}); return e.innerHTML; }})"
        )
        return html

    assert rendered("# One\ntwo\nthree\n\nfour **five** `six*` *seven*") == (
        "<h3>One</h3><p>two<br>three</p><p>four <strong>five</strong> <code>six*</code> <em>seven</em></p>"
    )
    assert rendered("- a\n- b\n  more\n\n3. x\n4. y") == (
        '<ul><li>a</li><li>b<br>more</li></ul><ol start="3"><li>x</li><li>y</li></ol>'
    )
    assert rendered("```python\nif a < b:\n\n    pass\n```\nend\n```\nopen") == (
        '<pre tabindex="0"><code>if a &lt; b:\n\n    pass</code></pre><p>end</p>'
        '<pre tabindex="0"><code>open</code></pre>'
    )
    assert rendered("> q\n> r\n<img src=x onerror=alert(1)>") == (
        "<blockquote>q<br>r</blockquote><p>&lt;img src=x onerror=alert(1)&gt;</p>"
    )
    assert rendered("2 * 3 * 4 and snake_case_name and ** not bold") == (
        "<p>2 * 3 * 4 and snake_case_name and ** not bold</p>"
    )
    assert tab.complaints == []
