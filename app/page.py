"""The page in the browser: the files of the folder page/, and what a browser may do with them."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_HEADERS = {
    # The page talks to its own server only and cannot be framed. No script, style or event handler inside
    # the HTML runs, and no text can become HTML.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Page:
    """The handlers. paths: what they serve, without an API key: the page asks the user for one."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=FOLDER)
        self.paths = ("/", *(f"/page/{path.name}" for path in FOLDER.iterdir()))

    async def index(self, request: Request) -> Response:
        """What a browser shows at the server's address."""
        return await self._answer(_INDEX, request)

    async def file(self, request: Request) -> Response:
        """A file that the page names."""
        return await self._answer(request.path_params["name"], request)

    async def _answer(self, name: str, request: Request) -> Response:
        response = await self._files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        if "content-type" in response.headers:
            # Machines differ in their types of scripts, and with nosniff a wrong type keeps one from running.
            response.headers["content-type"] = f"{_TYPES[Path(name).suffix]}; charset=utf-8"
        return response
