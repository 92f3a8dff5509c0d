"""GET /openapi.json and /docs: the OpenAPI document for programs, and the same as a plain page for people."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from .json_response import json_response
from .openapi import openapi_document

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;padding:.1rem 1.5rem .1rem 0;"
    "vertical-align:top;border-bottom:1px solid #8884}h2{margin-top:2.5rem}:root{color-scheme:light dark}"
)
_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class Reference:
    """The handlers of both routes."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def document(self, request: Request) -> Response:
        """The document."""
        return json_response(self._document)

    async def page(self, request: Request) -> Response:
        """The page."""
        return HTMLResponse(self._page, headers=_HEADERS)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._version)

    @cached_property
    def _page(self) -> str:
        return reference_page(self._document)


def reference_page(document: dict[str, Any]) -> str:
    """The document as one HTML page without scripts, and without anything from elsewhere."""
    schemas = document["components"]["schemas"]
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{info['title']}: reference</title>",
        f"<style>{_STYLE}</style><h1>{info['title']} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])} The same for programs: <a href=openapi.json>openapi.json</a>.",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(f"{method.upper()} {path}", operation, schemas))
    parts.append("<h2>Types</h2>")
    parts += [f"<h3 id={name}>{name}</h3>{_fields(schema)}" for name, schema in schemas.items()]
    return "".join(parts)


def _operation(title: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    parts = [f"<h2>{escape(title)}</h2><p>{escape(operation['summary'])}."]
    if "requestBody" in operation:
        name = _name(operation["requestBody"]["content"]["application/json"]["schema"])
        parts.append(f" Takes <a href=#{name}>{name}</a>.")
        refused = [
            f"<code>{field}</code>" + (f" (except {escape(' or '.join(accepted))})" if accepted else "")
            for field, accepted in operation["x-octavo-refused"].items()
        ]
        if refused:
            parts.append(f"<p>Refused: {', '.join(refused)}.")
    rows = []
    for status, response in operation["responses"].items():
        bodies = [entry["schema"] for entry in response["content"].values()]
        shown = [escape(body["description"]) if "description" in body else _kind(body) for body in bodies]
        rows.append(f"<tr><td>{status}<td>{'<br>'.join(shown)}<td>{escape(response['description'])}")
    return "".join([*parts, "<table>", *rows, "</table>"])


def _fields(schema: dict[str, Any]) -> str:
    """A type's description and its fields as a table."""
    required = set(schema.get("required", ()))
    rows = ["<tr><th>field<th>type<th>default"]
    for field, kind in schema.get("properties", {}).items():
        default = "required" if field in required else escape(repr(kind.get("default", "left out")))
        rows.append(f"<tr><td><code>{field}</code><td>{_kind(kind)}<td>{default}")
    return f"<p>{escape(schema.get('description', ''))}<table>{''.join(rows)}</table>"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = _name(schema)
        return f"<a href=#{name}>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(escape(repr(value)) for value in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array" and schema.get("items"):
        return f"list of {_kind(schema['items'])}"
    return kind


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]
