"""`python -m octavo` and the console script."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from .app.cli import main as run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while the program is being loaded
        return 130


if __name__ == "__main__":
    sys.exit(main())
