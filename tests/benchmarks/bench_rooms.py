"""How many samples a second the rooms give, on one core, and beside a busy one.

    python tests/benchmarks/bench_rooms.py [REF]

With REF, a git commit such as e39033e, its code is measured in turns with today's: what counts is
the ratio, as a machine is now faster, now slower. Rates are per second of CPU time.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
SIZES = (64, 128, 224)  # px
N_BG = 8  # fresh backgrounds in a turn
EACH = 32  # samples of each
TURNS = 3
# run by each code in a process of its own: what to render in, seconds of CPU time out
CODE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from evalib import rooms
def seconds(bgs, size, empty):
    ids = np.concatenate([bg * 4000 + np.arange(0, 4000, 125) for bg in bgs])
    start = time.process_time()
    if empty:
        rooms.render_backgrounds(bgs, size)
    rooms.render(ids, size)
    return time.process_time() - start
seconds([1], 64, True)
print("ready", flush=True)
for line in sys.stdin:
    first, n, size = map(int, line.split())
    bgs = np.arange(first, first + 5 * n, 5)  # of many kinds
    print(seconds(bgs, size, True), seconds(bgs[:4], size, False) * n / 4, flush=True)
"""

# seconds of building a pack, imports left out
PACK = """
import sys, time
sys.path.insert(0, sys.argv[1])
from evalib import dataset
dataset.build("playground-24", 64, root=sys.argv[2], progress=False)  # compiles
start = time.perf_counter()
dataset.build("mid-1000", 64, root=sys.argv[2], progress=False)
print(time.perf_counter() - start)
"""


class Code:
    """A checkout that renders in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def rates(self, first: int, size: int) -> tuple[float, float]:
        """Samples per CPU second: of fresh backgrounds, these included, and of known ones."""
        print(first, N_BG, size, file=self.process.stdin, flush=True)
        fresh, known = map(float, self.process.stdout.readline().split())
        return N_BG * EACH / fresh, N_BG * EACH / known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ref", nargs="?", help="a git commit to compare with")
    ref = parser.parse_args().ref
    with tempfile.TemporaryDirectory() as folder:
        codes = [Code("today", HERE)]
        if ref:
            archive = subprocess.check_output(["git", "-C", HERE, "archive", ref])
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder)
            codes.append(Code(ref, Path(folder)))
        compare(codes)
        for code in codes:
            code.process.stdin.close()
            code.process.wait()
    beside_a_busy_core()


def compare(codes: list[Code]) -> None:
    print(f"samples per CPU second, {EACH} a background, best of {TURNS} (ratio: its median)")
    for size in SIZES:
        turns = [
            [code.rates(10_000 + (size + turn) * 100, size) for code in codes]
            for turn in range(TURNS)
        ]
        for kind, name in enumerate(("fresh", "known")):
            best = [max(turn[i][kind] for turn in turns) for i in range(len(codes))]
            line = ", ".join(f"{code.name} {x:.0f}" for code, x in zip(codes, best, strict=True))
            if len(codes) == 2:
                ratios = sorted(turn[0][kind] / turn[1][kind] for turn in turns)
                line += f": {ratios[TURNS // 2]:.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            print(f"{size:4} px, {name} backgrounds: {line}", flush=True)


def beside_a_busy_core() -> None:
    """What of the wall clock's speed a busy process on the same core costs: its share is half."""
    pin = ["taskset", "--cpu-list", "0"]
    took = {False: [], True: []}
    for busy in (False, *(False, True) * TURNS):
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            if busy:
                other = subprocess.Popen([*pin, sys.executable, "-c", "while True: pass"])
                stack.enter_context(other)
                stack.callback(other.kill)
            said = subprocess.check_output([*pin, sys.executable, "-c", PACK, HERE, folder])
            took[busy].append(float(said))
    alone, beside = min(took[False]), min(took[True])  # the first may have compiled
    print(
        f"a pack of 1,000 on one core: {alone:.1f} s; beside a busy process {beside / alone:.2f} x"
    )


if __name__ == "__main__":
    main()
