"""How many samples a second the rooms give: `python -m evalib bench rooms`."""

import os
import time

import numpy as np
import torch

from evalib import rooms


def main(size: int = 64, n: int = 1024, rounds: int = 3) -> None:
    """Render n samples of four backgrounds, as packs ask for them; print the best rate."""
    per = n // 4
    ids = [bg * 4000 + np.arange(per) * (4000 // per) for bg in (0, 10, 22, 36)]
    start = time.perf_counter()
    rooms.render_backgrounds([0, 10, 22, 36], size)
    first = time.perf_counter() - start
    best, cpu = 0.0, 0.0
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        for some in ids:
            rooms.render(some, size)
        best = max(best, n / (time.perf_counter() - start))
        cpu = max(cpu, n / (time.process_time() - used))
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(
        f"rooms {size} px: {best:.0f} samples/s with {torch.get_num_threads()} threads on {cores} "
        f"cores at load {load:.1f} (best of {rounds}); {cpu:.0f} per CPU second; "
        f"a background {first / 4:.2f} s"
    )


if __name__ == "__main__":
    main()
