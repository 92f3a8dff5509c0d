"""Where log lines go, and which."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Lines of `level` and above to standard error."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Its news are uvicorn's own steps, which the lines here tell better.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
