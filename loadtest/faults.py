"""Faults for a long time: `tests/test_faults.py` in many rounds, each with another fault at another moment.

    python loadtest/faults.py --rounds 40 --streams 100

Prints how streams ended, by fault. Fails at the first stream that hangs, lies or is lost, at a process or a
block that is left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from fault_rounds import FAULTS, run_round


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=120.0, help="seconds, after which a stream hangs")
    options = parser.parse_args()
    random.seed(options.seed)
    seen: dict[str, Counter[str]] = {fault.__name__: Counter() for fault in FAULTS}
    for number in range(options.rounds):
        fault = FAULTS[number % len(FAULTS)]
        with tempfile.TemporaryDirectory() as folder:
            ends = run_round(Path(folder), fault, options.streams, options.within)
        seen[fault.__name__] += ends
        print(f"{number}: {fault.__name__}: {dict(ends)}", file=sys.stderr, flush=True)
    print(json.dumps({name: dict(ends) for name, ends in seen.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
