"""GET /v1/models and /v1/models/{id}: what is served here, and with which defaults. Knows no engine."""

from __future__ import annotations

import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .context import ServerContext
from .json_response import json_response


class Models:
    """The handlers of both routes."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._created = int(time.time())

    async def list(self, request: Request) -> Response:
        """All names of the model."""
        names = self._server.settings.model_names
        return json_response({"object": "list", "data": [self._card(name) for name in names]})

    async def get(self, request: Request) -> Response:
        """One name. Raises ModelNotFoundError, and HTTPException for an empty name."""
        name: str = request.path_params["model"]
        if not name:
            raise HTTPException(404)  # served_name would take the first one
        return json_response(self._card(self._server.served_name(name)))

    def _card(self, name: str) -> dict[str, Any]:
        model = self._server.generation.model
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "octavo",
            "root": model.name,
            "parent": None,
            "max_model_len": model.max_model_len,
            # What requests get that set nothing.
            "default_sampling_params": dict(model.default_params),
        }
