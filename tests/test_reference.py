"""The reference page: every route and field of the document, no script, nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

import httpx
from http_harness import ScriptedClient, make_app, serve

from octavo.app.openapi import openapi_document
from octavo.app.reference import reference_page


class Page(HTMLParser):
    """Collects what a page links to, its anchors, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}
        self.anchors |= {value or "" for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        self.words += f" {data} "


def test_page_is_whole_and_stays_at_home() -> None:
    document = openapi_document("1.2.3")
    page = Page(reference_page(document))
    for path, methods in document["paths"].items():
        assert all(f"{method.upper()} {path}" in page.words for method in methods)
    for schema in document["components"]["schemas"].values():
        assert all(f" {field} " in page.words for field in schema["properties"])
    assert page.links - {"openapi.json"} <= {f"#{anchor}" for anchor in page.anchors}
    assert not page.tags & {"script", "img", "link", "iframe"}


def test_page_needs_no_key() -> None:
    with serve(make_app(ScriptedClient(), {"api_keys": ("k",)})) as url:
        response = httpx.get(f"{url}/docs", timeout=60)
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    assert "POST /v1/responses" in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
