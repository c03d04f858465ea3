"""How many samples a second the rooms give: `python tests/benchmarks/bench_rooms.py`."""

import sys
import time
from pathlib import Path

import numpy as np

# run from anywhere, evalib installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evalib import manifest, rooms, timing  # noqa: E402

BACKGROUNDS = (0, 10, 22, 36)
SIZE = 64  # px
N = 1024  # samples
ROUNDS = 3


def main() -> None:
    """Render N samples of four backgrounds, as packs ask for them; print the best rate."""
    each = N // len(BACKGROUNDS)
    of_a_background = manifest.N_FG * manifest.N_PLACEMENTS
    spread = np.arange(each) * (of_a_background // each)
    start = time.perf_counter()
    rooms.render_backgrounds(BACKGROUNDS, SIZE)
    empty_s = (time.perf_counter() - start) / len(BACKGROUNDS)
    best = 0.0
    best_of_cpu = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        start_cpu = time.process_time()
        for bg in BACKGROUNDS:
            rooms.render(bg * of_a_background + spread, SIZE)
        best = max(best, N / (time.perf_counter() - start))
        best_of_cpu = max(best_of_cpu, N / (time.process_time() - start_cpu))
    print(
        f"rooms {SIZE} px: {best:.0f} samples/s (best of {ROUNDS}), {best_of_cpu:.0f} per CPU "
        f"second; a background {empty_s:.2f} s; {timing.machine()}"
    )


if __name__ == "__main__":
    main()
