"""How scalar code becomes machine code (numba), and where that is kept between processes.

No fast math: sums keep their order and no product is fused with a sum, so that vectors of any
width, and any machine, give the same bits. `scalar` marks what kernels are made of; `kernel` what
Python calls, always with arguments of the same types.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numba

HERE = Path(__file__).resolve().parent
scalar = numba.njit(nogil=True, error_model="numpy", forceinline=True)


def kernel(function: Callable) -> Callable:
    """Compile at the first call, or take what an earlier process compiled."""
    if FOLDER is None:
        return numba.njit(nogil=True, error_model="numpy")(function)
    others = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(FOLDER)
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    finally:
        numba.config.CACHE_DIR = others


def _folder() -> Path | None:
    """A folder for the present text of all modules here: numba looks at a kernel's own file only,
    and would keep what it calls as it was. None: there is nowhere to write."""
    sources = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.py")))
    name = f"evalib-{hashlib.sha256(sources).hexdigest()[:12]}"
    for parent in (HERE / "__pycache__", Path(os.path.expanduser("~/.cache"))):
        try:
            (parent / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(parent / name, os.W_OK):
            return parent / name
    return None


FOLDER = _folder()
