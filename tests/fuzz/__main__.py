"""``python -m fuzz FIRST LAST``, from ``tests/``: what becomes of the networks of these seeds.

--show: the plan of the first one. --all: a line for each of them, with the reason where it has no integer program.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter

from fuzz.random_networks import draw
from fuzz.trial import attempt


def main() -> None:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")
    if "--show" in sys.argv:
        print(draw(first))
    counts: Counter[str] = Counter()
    begin = time.time()
    for seed in range(first, last):
        outcome = attempt(seed)
        counts[outcome.kind] += 1
        counts["to integers"] += outcome.lowered == ""
        if outcome.kind != "passed" or "--all" in sys.argv:
            print(f"{seed} {draw(seed).recipe} {outcome.kind}: {outcome.detail}{outcome.lowered or ''}"[:400], flush=True)
    print(dict(counts), f"{(time.time() - begin) / max(1, last - first):.2f} s a network")


if __name__ == "__main__":
    main()
