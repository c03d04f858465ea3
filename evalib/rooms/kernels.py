"""How scalar code becomes machine code (numba), and where that is kept between processes.

No fast math: sums keep their order and no product is fused with a sum, so that vectors of any width
give the same bits. `scalar` marks what kernels are made of; `kernel` what is compiled by itself,
always with arguments of the same types.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.caching import FunctionCache

HERE = Path(__file__).resolve().parent
KEPT = 4  # folders, of as many versions of this code
scalar = numba.njit(error_model="numpy", forceinline=True)


def kernel(function: Callable) -> Callable:
    """Compile at the first call, or take what an earlier process compiled."""
    compiled = numba.njit(error_model="numpy")(function)
    if FOLDER is not None:
        others = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(FOLDER)
        compiled._cache = _Cache(function)  # as `cache=True` does
        numba.config.CACHE_DIR = others
    return compiled


class _Cache(FunctionCache):
    """A torn file is as good as none, and a full disk no reason to stop."""

    def load_overload(self, *args: Any) -> Any:
        try:
            return super().load_overload(*args)
        except Exception:  # of pickle, of the system
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(*args)


def _folder() -> Path | None:
    """A folder for the present text of all modules here, this numba and this processor: numba looks
    at a kernel's own file only, and would keep what it calls as it was. On the local disk, as the
    code itself may lie on Drive. None: there is nowhere to write."""
    seen = hashlib.sha256(numba.__version__.encode())
    seen.update((os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()).encode())
    for path in sorted(HERE.glob("*.py")):
        seen.update(path.read_bytes())
    home = os.environ.get("NUMBA_CACHE_DIR") or os.path.expanduser("~/.cache/evalib")
    folder = Path(home) / f"rooms-{seen.hexdigest()[:12]}"
    try:
        with contextlib.suppress(FileExistsError):  # of an earlier process, or one at this moment
            folder.mkdir(parents=True)
            others = sorted(folder.parent.glob("rooms-*"), key=lambda path: path.stat().st_mtime)
            for old in others[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


FOLDER = _folder()
