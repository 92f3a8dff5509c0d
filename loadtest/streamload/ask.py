"""What a client sends, and when. Knows neither how it was made up nor how it is sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    body: the JSON to post.   due_s: seconds after the start at which it should be sent.
    num_tokens: output length that the request forces; None if the server decides.
    group: figures are given for each group, such as the steady streams and the prompt thrown among them.
    cut_after: hang up after so many reads.   keep_text: whether the answer's text is wanted.
    """

    body: bytes
    due_s: float
    num_tokens: int | None
    group: str = "all"
    cut_after: int | None = None
    keep_text: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: base URL without `/v1`, route, and key if one is needed."""

    url: str
    path: str = "/v1/completions"
    api_key: str | None = None
