"""Streams that clients have open at a server with front ends, and who serves them. Knows no device."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
from toy_server import ToyServer


class Stream:
    """A streamed completion; each has a connection of its own, so that the kernel chooses who serves it."""

    def __init__(self, http: httpx.AsyncClient, prompt: str, max_tokens: int) -> None:
        body = {"prompt": prompt, "max_tokens": max_tokens, "stream": True}
        self._request = http.stream("POST", "/v1/completions", json=body)
        self.events: list[str] = []
        self.status = 0
        self.cut = False

    async def read(self) -> None:
        """Read to the end, or until it is cut."""
        try:
            async with self._request as response:
                self.status = response.status_code
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
        except httpx.TransportError:
            self.cut = True

    @property
    def text(self) -> str:
        """All text so far."""
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        return "".join(chunk["choices"][0]["text"] for chunk in chunks if "choices" in chunk)

    @property
    def error(self) -> str | None:
        """The error that ended it properly, None if none did."""
        if len(self.events) < 2 or self.events[-1] != "[DONE]":
            return None
        message: str | None = json.loads(self.events[-2]).get("error", {}).get("message")
        return message


async def streams(url: str, num_streams: int, max_tokens: int, disturb: Any = None) -> list[Stream]:
    """Streams that run together; `disturb()` is called once all have begun."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        opened = [Stream(http, f"stream {i}", max_tokens) for i in range(num_streams)]
        reading = [asyncio.create_task(stream.read()) for stream in opened]
        if disturb is not None:
            while not all(len(stream.events) > 2 for stream in opened):
                await asyncio.sleep(0.01)
            disturb()
        await asyncio.gather(*reading)
    return opened


def held_by(server: ToyServer) -> dict[int, int]:
    """Connections that clients have to each front end."""
    port = int(server.url.rpartition(":")[2])
    established, inodes = "01", set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port and fields[3] == established:
            inodes.add(f"socket:[{fields[9]}]")
    held = {}
    for pid in server.frontends():
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        held[pid] = sum(link in inodes for link in links)
    return held
